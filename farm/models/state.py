"""All that one job needs between two steps of sampling, and its form as bytes: a restored run goes on bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

from farm.errors import Permanent
from farm.lora.formats.header import parse_header
from farm.lora.layout import Region
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.models import schedulers
from farm.models.encode import Prompts, PromptTable, Text
from farm.models.hires import Hires
from farm.models.strengths import AdapterLike

if TYPE_CHECKING:
    from farm.models.sampler import StepMachine

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """What one job asks of the sampler; prompts are without tags."""

    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float
    #: a key of `farm.models.samplers.SAMPLERS`
    sampler: str
    #: one picture or clip for each
    seeds: tuple[int, ...]
    #: of a video, where the family makes videos; None: the model's own
    frames: int | None = None
    fps: float | None = None
    #: guidance of Wan 2.2's low-noise expert; None for that of the other
    guidance_scale_2: float | None = None
    #: guidance by a negative prompt in models that are told their `guidance_scale` (Flux.1); 1 is none
    true_cfg_scale: float = 1.0
    #: the second pass that follows; see `farm.models.second_pass`
    hires: Hires | None = None
    #: how much noise a run begins with: below 1 it starts from latents, `steps` from the schedule's end
    strength: float = 1.0


class State(Protocol):
    """A job in the middle of its run; it belongs to the machine that began it."""

    plan: StrengthPlan

    @property
    def step(self) -> int:
        """Steps that are done."""

    @property
    def steps(self) -> int:
        """Steps in all."""

    @property
    def done(self) -> bool:
        """Whether no step is left."""

    def save(self) -> bytes:
        """Return the state as bytes. Raises Permanent where its machine cannot save."""


@dataclass(slots=True, kw_only=True, eq=False)
class SampleState:
    """A job in the middle of its run. Made by `StepMachine.begin`, changed by `StepMachine.step` alone."""

    spec: SampleSpec
    plan: StrengthPlan
    adapters: Mapping[str, AdapterLike]
    prompts: PromptTable
    #: `LoadedModel.key` of the model that samples it
    model: str
    #: the job's own scheduler, with its history
    scheduler: Any
    #: the same scheduler before its first step: what differs from it is history
    fresh: Any
    #: model calls that are done after each step; see `schedulers.call_bounds`
    bounds: tuple[int, ...]
    latents: Tensor
    #: one for each picture, on the host
    generators: list[torch.Generator]
    #: model calls done so far
    calls: int = 0
    #: what the model last saw in the noise; None before the first step and after a restore
    denoised: Tensor | None = None

    @property
    def steps(self) -> int:
        return self.spec.steps

    @property
    def step(self) -> int:
        """Steps of the person's count that are done."""
        return max(step for step, bound in enumerate(self.bounds) if bound <= self.calls)

    @property
    def timestep(self) -> Tensor:
        """The timestep of the next call; a run that starts inside the schedule lacks the first ones."""
        found: Tensor = self.scheduler.timesteps[self.calls - self.bounds[-1]]
        return found

    @property
    def done(self) -> bool:
        return self.calls >= self.bounds[-1]

    @property
    def text(self) -> Prompts:
        """What the next step is denoised under."""
        return self.prompts.at(min(self.step + 1, self.steps))

    def save(self) -> bytes:
        """Return the state as a safetensors file. Adapters are left out: the plan names their content."""
        history, tensors = schedulers.capture(self.scheduler, self.fresh)
        held = {f"history.{name}": tensor for name, tensor in tensors.items()}
        held["latents"] = self.latents
        held["generators"] = torch.stack([generator.get_state() for generator in self.generators])
        held |= _prompt_tensors(self.prompts)
        curves = [curve for adapter in self.plan.adapters for curve in adapter.strengths.values()]
        if curves:
            held["curves"] = torch.tensor(curves, dtype=torch.float64)
        about = {
            "version": _VERSION,
            "model": self.model,
            "spec": asdict(self.spec),
            "calls": self.calls,
            "history": history,
            "row_of_step": self.prompts.row_of_step,
            "adapters": [
                {
                    "sha256": adapter.sha256,
                    "max_rank": adapter.max_rank,
                    "regions": [[r.component, r.block, r.index] for r in adapter.strengths],
                }
                for adapter in self.plan.adapters
            ],
        }
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in held.items()}
        return bytes(write_tensors(plain, metadata={"farm_sample": json.dumps(about)}))

    @classmethod
    def restore(
        cls, data: bytes, machine: StepMachine, adapters: Mapping[str, AdapterLike] | None = None
    ) -> SampleState:
        """Return the state that `save` wrote, ready to go on in `machine`.

        Raises:
            Permanent: the bytes are of another version or another model.
        """
        about = _about(data)
        if about.get("version") != _VERSION:
            raise Permanent(
                "the checkpoint of this job was written by another version of Farm", "start it again"
            )
        if about["model"] != machine.model.key():
            raise Permanent("the checkpoint of this job belongs to another base model", "start it again")
        device = machine.model.device
        tensors = read_tensors(data)
        asked = about["spec"]
        hires = Hires(**asked["hires"]) if asked.get("hires") else None
        spec = SampleSpec(**{**asked, "seeds": tuple(asked["seeds"]), "hires": hires})
        scheduler = machine.scheduler(spec)
        prefix = "history."
        history = {
            key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
        }
        bounds = schedulers.call_bounds(scheduler, spec.steps)
        schedulers.recall(scheduler, about["history"], history, device)
        return cls(
            spec=spec,
            plan=_plan(spec.steps, about["adapters"], tensors.get("curves")),
            adapters=dict(adapters or {}),
            prompts=_prompts(tensors, about["row_of_step"], device),
            model=about["model"],
            scheduler=scheduler,
            fresh=machine.scheduler(spec),
            bounds=bounds,
            latents=tensors["latents"].to(device),
            generators=[_generator(state) for state in tensors["generators"]],
            calls=int(about["calls"]),
        )


def _about(data: bytes) -> dict[str, Any]:
    metadata = parse_header(data, len(data)).metadata
    return dict(json.loads(metadata.get("farm_sample", "{}")))


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator("cpu")
    generator.set_state(state.clone())
    return generator


def _prompt_tensors(table: PromptTable) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for number, row in enumerate(table.rows):
        for side, text in (("positive", row.positive), ("negative", row.negative)):
            if text is not None:
                found[f"{side}.{number}"] = text.tokens
                if text.pooled is not None:
                    found[f"{side}_pooled.{number}"] = text.pooled
    return found


def _prompts(tensors: Mapping[str, Tensor], row_of_step: Sequence[int], device: torch.device) -> PromptTable:
    def text(side: str, number: int) -> Text | None:
        tokens, pooled = tensors.get(f"{side}.{number}"), tensors.get(f"{side}_pooled.{number}")
        if tokens is None:
            return None
        return Text(tokens.to(device), None if pooled is None else pooled.to(device))

    rows = []
    for number in range(max(row_of_step) + 1):
        positive = text("positive", number)
        if positive is None:
            raise Permanent("the checkpoint of this job lacks its prompt", "start it again")
        rows.append(Prompts(positive, text("negative", number)))
    return PromptTable(tuple(rows), tuple(row_of_step))


def _plan(steps: int, adapters: Sequence[Mapping[str, Any]], curves: Tensor | None) -> StrengthPlan:
    rows = iter(curves.tolist() if curves is not None else ())
    return StrengthPlan(
        steps=steps,
        adapters=tuple(
            AdapterSchedule(
                sha256=adapter["sha256"],
                max_rank=adapter["max_rank"],
                strengths={Region(*region): tuple(next(rows)) for region in adapter["regions"]},
            )
            for adapter in adapters
        ),
    )
