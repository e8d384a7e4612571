"""What the step machine asks of a family, and what families that diffusers runs by a pipeline object have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.models import schedulers
from farm.models.encode import Text, Texts
from farm.models.load import LoadedModel
from farm.models.state import SampleSpec, SampleState

#: Told before each forward pass which states have how many of its rows, in their order.
Seat = Callable[[Sequence[tuple[SampleState, int]]], None]


class Denoiser(Texts, Protocol):
    """A family's own part of sampling, for one loaded model. It keeps nothing of a job."""

    #: whether the rows of a pass may have adapters of their own: all its layers see one row for each
    mixes: bool
    #: whether it makes clips
    video: bool

    def __init__(self, model: LoadedModel) -> None: ...

    def check_frames(self, spec: SampleSpec) -> None:
        """Raise BadRequest when the model cannot make this number of frames."""

    def guided(self, spec: SampleSpec) -> bool:
        """Whether every picture is also predicted under the negative prompt."""

    def timing(self, spec: SampleSpec) -> dict[str, Any]:
        """Return what the scheduler's `set_timesteps` is told beside the number of steps."""

    def noise(self, spec: SampleSpec, generators: list[torch.Generator]) -> Tensor:
        """Return noise of variance 1, packed as the denoiser takes it; row n is of generator n alone."""

    def components(self, state: SampleState) -> tuple[str, ...]:
        """Return the components whose weights act in the state's next step."""

    def key(self, state: SampleState) -> Hashable:
        """Return what states of equal size, components and weights must still agree in to share a pass."""

    def predict(self, states: Sequence[SampleState], seat: Seat) -> list[Tensor]:
        """Return what the model predicts for the next call of each state, guidance done; shaped as its latents."""

    def unpack(self, latents: Tensor, spec: SampleSpec) -> Tensor:
        """Return latents as `decode` takes them: (n, c, h, w), of a video VAE (n, c, frames, h, w)."""


class PipelineDenoiser:
    """Does what a diffusers pipeline does, with its modules and its own helpers, one step at a time."""

    video = False
    zero_negative = False
    mixes = True

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.pipeline: Any = model.pipeline

    def check_frames(self, spec: SampleSpec) -> None:
        only_pictures(self.model, spec)

    def size(self, texts: Sequence[str]) -> int:
        """Texts have the lengths that their pipeline gives them, each on its own."""
        return 0

    def scale(self, spec: SampleSpec) -> float:
        """Return how far the prediction is moved away from that of the negative prompt; 1 is not at all."""
        return spec.guidance_scale

    def guided(self, spec: SampleSpec) -> bool:
        return self.scale(spec) > 1

    def prepared(
        self, channels: int, spec: SampleSpec, generators: list[torch.Generator], dtype: torch.dtype
    ) -> Any:
        """Return the noise as the pipeline makes and packs it, with what else it gives."""
        return self.pipeline.prepare_latents(
            len(generators), channels, spec.height, spec.width, dtype, self.model.device, generators
        )

    def components(self, state: SampleState) -> tuple[str, ...]:
        return self.model.layout.denoisers

    def key(self, state: SampleState) -> Hashable:
        return tuple(tuple(side.tokens.shape) for side in state.text.sides)

    def unpack(self, latents: Tensor, spec: SampleSpec) -> Tensor:
        return latents

    def predict(self, states: Sequence[SampleState], seat: Seat) -> list[Tensor]:
        """One pass under the prompts, another under the negative prompts of those that have one."""
        seat([(state, len(state.latents)) for state in states])
        found = self.forward(states, [state.text.positive for state in states])
        negatives = [state.text.negative for state in states]
        guided = [n for n, text in enumerate(negatives) if text is not None]
        if guided:
            seat([(states[n], len(states[n].latents)) for n in guided])
            without = self.forward(
                [states[n] for n in guided], [text for text in negatives if text is not None]
            )
            for n, other in zip(guided, without, strict=True):
                found[n] = self.guide(states[n], found[n], other)
        return found

    def guide(self, state: SampleState, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the guided prediction."""
        return negative + self.scale(state.spec) * (positive - negative)

    def forward(self, states: Sequence[SampleState], texts: Sequence[Text]) -> list[Tensor]:
        """Return what the model predicts for each state under its text, in one pass."""
        raise NotImplementedError


def only_pictures(model: LoadedModel, spec: SampleSpec) -> None:
    """Raise BadRequest when several frames are asked of a model that makes pictures."""
    if spec.frames not in (None, 1):
        raise BadRequest(
            f"{spec.frames} frames do not suit {model.info.name}", "it makes pictures: 1", code="bad_frames"
        )


def joined(states: Sequence[SampleState]) -> Tensor:
    """Return the latents of all states, as rows of one pass."""
    return torch.cat([state.latents for state in states])


def parted(predicted: Tensor, states: Sequence[SampleState]) -> list[Tensor]:
    """Return each state's rows of what was predicted in one pass."""
    sizes = [len(state.latents) for state in states]
    return list(torch.split(predicted, sizes))


def timesteps(states: Sequence[SampleState]) -> Tensor:
    """Return the timestep of the next call for each row, in float32: states of all samplers fit into one pass."""
    return torch.cat([state.timestep.to(torch.float32).expand(len(state.latents)) for state in states])


def tokens(states: Sequence[SampleState], texts: Sequence[Text]) -> Tensor:
    """Return each state's encoded text, for each of its rows."""
    pairs = zip(states, texts, strict=True)
    return torch.cat([text.tokens.expand(len(state.latents), -1, -1) for state, text in pairs])


def pooled(states: Sequence[SampleState], texts: Sequence[Text]) -> Tensor:
    """Return each state's pooled vector, for each of its rows."""
    pairs = zip(states, texts, strict=True)
    return torch.cat(
        [text.pooled.expand(len(state.latents), -1) for state, text in pairs if text.pooled is not None]
    )


def falling(steps: int) -> Any:
    """Return the sigmas from 1 to 1 / steps that most pipelines begin their schedule with, before its shift."""
    return np.linspace(1.0, 1 / steps, steps)


def shift(model: LoadedModel, patches: int) -> float:
    """Return `mu` of the model's own schedule for a picture of so many patches."""
    return schedulers.shift_mu(model.scheduler_config, patches)
