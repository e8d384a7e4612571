"""Picks the machine that samples a model: the step machine where its family has one, else its diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from PIL import Image

from farm.lora.schedule import StrengthPlan
from farm.models.clip import Clip
from farm.models.denoisers import DENOISERS
from farm.models.load import LoadedModel
from farm.models.pipeline_machine import PipelineMachine
from farm.models.sampler import StepMachine
from farm.models.state import SampleSpec, State
from farm.models.strengths import AdapterLike, PatcherLike

__all__ = ["Machine", "State", "machine_for"]


class Machine(Protocol):
    """What samples the jobs of one loaded model."""

    model: LoadedModel

    def begin(self, spec: SampleSpec, plan: StrengthPlan, adapters: Mapping[str, AdapterLike]) -> State:
        """Return the state of a job before step 1."""

    def step(self, states: Sequence[Any]) -> None:
        """Denoise states of this machine by one step."""

    def finish(self, state: Any) -> list[Image.Image | Clip]:
        """Return the pictures or clips of a state that is done, one for each seed."""

    def preview(self, state: Any) -> Image.Image:
        """Return roughly what the first picture will be."""


def machine_for(model: LoadedModel, patcher: PatcherLike) -> Machine:
    """Return the machine that samples `model`, whose weights `patcher` owns."""
    if model.pipeline is None or model.family in DENOISERS:
        return StepMachine(model, patcher)
    return PipelineMachine(model, patcher)
