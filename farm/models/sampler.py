"""The step machine: samples jobs step by step, each job's state an object of its own, several in one forward pass.

It does what diffusers' own pipelines do with the same modules and schedulers, so that the same seed gives the same
picture; see docs/explain/step-machine.md for what the split into steps is good for. What a family does in its own way
is in its denoiser (`farm.models.denoisers`).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from farm.errors import Permanent
from farm.lora.branch import Sample
from farm.lora.schedule import StrengthPlan
from farm.models import schedulers
from farm.models.asked import check_asked
from farm.models.clip import Clip
from farm.models.decode import decode, to_images
from farm.models.denoisers import denoiser_for
from farm.models.denoisers.base import Seat
from farm.models.encode import PromptEncoder
from farm.models.load import LoadedModel
from farm.models.preview import Previewer
from farm.models.state import SampleSpec, SampleState, State
from farm.models.strengths import AdapterLike, Mixing, PatcherLike, mixing, weights_key

__all__ = ["Diverged", "SampleSpec", "SampleState", "StepMachine"]


class Diverged(Permanent):
    """A picture became NaN or infinite; `states` are the jobs that it happened to. The others went on."""

    code = "diverged"

    def __init__(self, states: Sequence[State]) -> None:
        first = states[0]
        names = [schedule.sha256[:12] for schedule in first.plan.adapters]
        cause = f"adapter {' or '.join(names)}" if names else "the model"
        hint = "lower its strength" if names else "use another dtype, such as bfloat16 or float32"
        super().__init__(f"{cause} gave NaN at step {first.step} of {first.steps}", hint)
        self.states = tuple(states)


class StepMachine:
    """Samples on one loaded model. Not thread-safe: whoever holds the device calls it."""

    def __init__(self, model: LoadedModel, patcher: PatcherLike) -> None:
        self.model = model
        self.patcher = patcher
        self._denoiser = denoiser_for(model)
        self._encoder = PromptEncoder(self._denoiser, model.layout.text_encoders, patcher)
        self._previewer = Previewer(model)

    def begin(
        self,
        spec: SampleSpec,
        plan: StrengthPlan,
        adapters: Mapping[str, AdapterLike],
        start: Tensor | None = None,
    ) -> SampleState:
        """Encode the prompts, make the noise: the state before step 1.

        `start` are latents that the noise is put on, as much of it as `spec.strength` says; None: noise alone.

        Raises:
            BadRequest: size, frames, steps or sampler do not suit the model.
        """
        check_asked(self.model, spec, plan, adapters)
        self._denoiser.check_frames(spec)
        negative = spec.negative_prompt if self._denoiser.guided(spec) else None
        prompts = self._encoder.table(spec.prompt, negative, plan, adapters)
        scheduler = self.scheduler(spec)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in spec.seeds]
        noise = self._denoiser.noise(spec, generators)
        bounds = schedulers.call_bounds(scheduler, spec.steps)
        return SampleState(
            spec=spec,
            plan=plan,
            adapters=adapters,
            prompts=prompts,
            model=self.model.key(),
            scheduler=scheduler,
            fresh=self.scheduler(spec),
            bounds=bounds,
            latents=schedulers.noised(scheduler, noise, start, bounds[-1]),
            generators=generators,
        )

    def scheduler(self, spec: SampleSpec) -> Any:
        """Return a fresh scheduler for a run of `spec`."""
        config = self.model.scheduler_config
        timing = self._denoiser.timing(spec)
        return schedulers.make_scheduler(
            spec.sampler, config, spec.steps, self.model.device, spec.strength, **timing
        )

    @torch.no_grad()
    def step(self, states: Sequence[SampleState]) -> None:
        """Denoise every state by one step; those that agree in shape share a forward pass, where their strengths agree
        too or the patcher mixes.

        A step that was cut short by an error goes on where it stopped when it is called again.

        Raises:
            Diverged: a picture became NaN.
        """
        groups: dict[Hashable, list[SampleState]] = {}
        for state in states:
            if state.done:
                raise ValueError("this state has no step left: finish it")
            groups.setdefault(self._group_key(state), []).append(state)
        for group in groups.values():
            self._step_group(group)
        broken = [state for state in states if not bool(torch.isfinite(state.latents).all())]
        if broken:
            raise Diverged(broken)

    def finish(self, state: SampleState) -> list[Image.Image | Clip]:
        """Return the pictures, one for each seed; clips where the family makes videos."""
        if not state.done:
            raise ValueError(f"only {state.step} of {state.steps} steps are done")
        pixels = decode(self.model, self._denoiser.unpack(state.latents, state.spec))
        if not self._denoiser.video:
            return list(to_images(pixels[:, :, 0] if pixels.ndim == 5 else pixels))
        fps = state.spec.fps or float(self.model.info.defaults["fps"])
        return [Clip(tuple(to_images(frames)), fps) for frames in pixels.permute(0, 2, 1, 3, 4)]

    def preview(self, state: SampleState) -> Image.Image:
        """Return roughly what the first picture will be, at little cost."""
        latents = state.latents if state.denoised is None else state.denoised
        return self._previewer.image(self._denoiser.unpack(latents[:1], state.spec))

    def shape_key(self, state: SampleState) -> Hashable:
        """Return what states must agree in to share a pass at any step: the shapes of their tensors."""
        size = (state.spec.width, state.spec.height, tuple(state.latents.shape[1:]))
        return size, self._denoiser.key(state)

    @property
    def mixes(self) -> bool:
        """Whether states with different weights share a pass now."""
        return self._mixing is not None

    @property
    def can_mix(self) -> bool:
        """Whether this family's states can, with a patcher that mixes."""
        return self._denoiser.mixes

    @property
    def _mixing(self) -> Mixing | None:
        return mixing(self.patcher) if self._denoiser.mixes else None

    def _group_key(self, state: SampleState) -> Hashable:
        """Return what states must agree in to share the next pass."""
        weights = None if self.mixes else self._weights_key(state)
        return self.shape_key(state), self._denoiser.components(state), weights

    def _weights_key(self, state: SampleState) -> Hashable:
        step = min(state.step + 1, state.steps)
        return weights_key(state.plan, state.adapters, step, self._denoiser.components(state))

    def _step_group(self, group: Sequence[SampleState]) -> None:
        seat = self._patch(group)
        targets = {id(state): state.bounds[state.step + 1] for state in group}
        while waiting := [state for state in group if state.calls < targets[id(state)]]:
            for state, predicted in zip(waiting, self._denoiser.predict(waiting, seat), strict=True):
                self._advance(state, predicted)

    def _patch(self, group: Sequence[SampleState]) -> Seat:
        """Make the weights those of the group's next step; return what is still to be done before each pass."""
        first, mixer = group[0], self._mixing
        components = self._denoiser.components(first)
        if mixer is None or len({self._weights_key(state) for state in group}) == 1:
            self.patcher.apply(first.plan, first.adapters, first.step + 1, components=components)
            return _sit_anywhere
        return partial(_seat, mixer, components)

    @staticmethod
    def _advance(state: SampleState, predicted: Tensor) -> None:
        """Take one step of the scheduler with what the denoiser predicted."""
        scheduler = state.scheduler
        options = schedulers.step_options(scheduler, state.generators)
        output = scheduler.step(predicted, state.timestep, state.latents, **options)
        state.denoised = schedulers.denoised(scheduler, output, state.latents, predicted)
        state.latents = output.prev_sample
        state.calls += 1


def _sit_anywhere(rows: Sequence[tuple[SampleState, int]]) -> None:
    """All rows have the same weights."""


def _seat(mixer: Mixing, components: Collection[str], rows: Sequence[tuple[SampleState, int]]) -> None:
    """Give each state's rows its own strengths."""
    samples = [
        Sample(plan=state.plan, adapters=cast(Any, state.adapters), step=state.step + 1, rows=count)
        for state, count in rows
    ]
    mixer.assign(samples, components)
