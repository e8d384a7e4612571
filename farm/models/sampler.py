"""The step machine: samples jobs step by step, each job's state an object of its own, several in one forward pass.

It does what diffusers' own pipelines do with the same modules and schedulers, so that the same seed gives the same
picture; see docs/explain/step-machine.md for what the split into steps is good for.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from farm.errors import BadRequest, Permanent
from farm.lora.schedule import StrengthPlan
from farm.models import schedulers
from farm.models.decode import decode, to_images
from farm.models.encode import PromptEncoder
from farm.models.load import LoadedModel
from farm.models.preview import Previewer
from farm.models.state import SampleSpec, SampleState
from farm.models.strengths import AdapterLike, PatcherLike, weights_key

__all__ = ["Diverged", "SampleSpec", "SampleState", "StepMachine"]


class Diverged(Permanent):
    """A picture became NaN or infinite; `states` are the jobs that it happened to. The others went on."""

    code = "diverged"

    def __init__(self, states: Sequence[SampleState]) -> None:
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
        self._encoder = PromptEncoder(model, patcher)
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
            BadRequest: size, steps or sampler do not suit the model.
        """
        self._check(spec, plan, adapters)
        negative = spec.negative_prompt if self._guided(spec) else None
        prompts = self._encoder.table(spec.prompt, negative, plan, adapters)
        scheduler = self.scheduler(spec)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in spec.seeds]
        scale = self.model.scale
        shape = (len(generators), self.model.latent_channels, spec.height // scale, spec.width // scale)
        noise = randn_tensor(shape, generator=generators, device=self.model.device, dtype=self.model.dtype)
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
        return schedulers.make_scheduler(spec.sampler, config, spec.steps, self.model.device, spec.strength)

    @torch.no_grad()
    def step(self, states: Sequence[SampleState]) -> None:
        """Denoise every state by one step; those that agree in shape and strengths share a forward pass.

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

    def finish(self, state: SampleState) -> list[Image.Image]:
        """Return the pictures, one for each seed."""
        if not state.done:
            raise ValueError(f"only {state.step} of {state.steps} steps are done")
        return to_images(decode(self.model, state.latents))

    def preview(self, state: SampleState) -> Image.Image:
        """Return roughly what the first picture will be, at little cost."""
        latents = state.latents if state.denoised is None else state.denoised
        return self._previewer.image(latents[:1])

    def _check(self, spec: SampleSpec, plan: StrengthPlan, adapters: Mapping[str, AdapterLike]) -> None:
        limits = self.model.info.limits
        multiple = limits["multiple_of"]
        for name, value in (("width", spec.width), ("height", spec.height)):
            if value % multiple or value < limits["min_size"]:
                raise BadRequest(
                    f"{name} {value} does not suit {self.model.info.name}",
                    f"a multiple of {multiple}, at least {limits['min_size']}",
                    code="bad_size",
                )
        if plan.steps != spec.steps or spec.steps < 1 or not spec.seeds:
            raise ValueError(f"{spec.steps} steps with a plan of {plan.steps} and {len(spec.seeds)} seeds")
        missing = [schedule.sha256[:12] for schedule in plan.adapters if schedule.sha256 not in adapters]
        if missing:
            raise ValueError(f"adapter {missing[0]} is planned but not loaded")

    def _guided(self, spec: SampleSpec) -> bool:
        """Whether a second, negative pass is made for every picture."""
        return spec.guidance_scale > 1 and not self.model.guidance_is_told

    def _group_key(self, state: SampleState) -> Hashable:
        step = min(state.step + 1, state.steps)
        weights = weights_key(state.plan, state.adapters, step, self.model.layout.denoisers)
        return tuple(state.latents.shape[1:]), state.prompts.at(step).shape, weights

    def _step_group(self, group: Sequence[SampleState]) -> None:
        first = group[0]
        components = self.model.layout.denoisers
        self.patcher.apply(first.plan, first.adapters, first.step + 1, components=components)
        targets = {id(state): state.bounds[state.step + 1] for state in group}
        while waiting := [state for state in group if state.calls < targets[id(state)]]:
            for state, noise in zip(waiting, self._predict(waiting), strict=True):
                self._advance(state, noise)

    def _predict(self, states: Sequence[SampleState]) -> list[Tensor]:
        """Return what the UNet predicts for the next call of each state, in one forward pass."""
        inputs = [self._inputs(state) for state in states]
        told = {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}
        options: dict[str, Any] = {}
        if "text_embeds" in told:
            options["added_cond_kwargs"] = {name: told[name] for name in ("text_embeds", "time_ids")}
        if "timestep_cond" in told:
            options["timestep_cond"] = told["timestep_cond"]
        predicted = self.model.unet(
            told["sample"],
            told["timestep"],
            encoder_hidden_states=told["encoder_hidden_states"],
            return_dict=False,
            **options,
        )[0]
        found = []
        parts = predicted.split([len(one["sample"]) for one in inputs])
        for state, part in zip(states, parts, strict=True):
            if not self._guided(state.spec):
                found.append(part)
                continue
            without, with_text = part.chunk(2)
            found.append(without + state.spec.guidance_scale * (with_text - without))
        return found

    def _inputs(self, state: SampleState) -> dict[str, Tensor]:
        """Return the UNet's inputs for one state, the negative half first."""
        timestep = state.timestep
        guided = self._guided(state.spec)
        sample = torch.cat([state.latents] * 2) if guided else state.latents
        sample = state.scheduler.scale_model_input(sample, timestep)
        prompts = state.prompts.at(state.step + 1)
        sides = [prompts.positive] if prompts.negative is None else [prompts.negative, prompts.positive]
        count = len(state.generators)
        found = {
            "sample": sample,
            # the UNet makes floats of them at once, so states of all samplers fit into one batch
            "timestep": timestep.to(torch.float32).expand(len(sample)),
            "encoder_hidden_states": torch.cat([side.tokens.expand(count, -1, -1) for side in sides]),
        }
        pooled = [side.pooled.expand(count, -1) for side in sides if side.pooled is not None]
        if pooled and self.model.unet.config.addition_embed_type == "text_time":
            size = (state.spec.height, state.spec.width)
            ids = torch.tensor([[*size, 0, 0, *size]], dtype=self.model.dtype, device=self.model.device)
            found["text_embeds"] = torch.cat(pooled)
            found["time_ids"] = ids.expand(len(sample), -1)
        if self.model.guidance_is_told:
            found["timestep_cond"] = self._told_guidance(state.spec.guidance_scale).expand(len(sample), -1)
        return found

    def _told_guidance(self, scale: float) -> Tensor:
        """Return the guidance scale as consistency models take it: sines and cosines, as of a timestep."""
        width = int(self.model.unet.config.time_cond_proj_dim)
        half = width // 2
        fall = torch.log(torch.tensor(10000.0)) / (half - 1)
        angles = (scale - 1) * 1000.0 * torch.exp(torch.arange(half, dtype=torch.float32) * -fall)
        told = torch.cat([angles.sin(), angles.cos(), torch.zeros(width % 2)])
        return told.to(self.model.device, self.model.dtype)[None]

    @staticmethod
    def _advance(state: SampleState, noise: Tensor) -> None:
        """Take one step of the scheduler with what the UNet predicted."""
        scheduler = state.scheduler
        options = schedulers.step_options(scheduler, state.generators)
        output = scheduler.step(noise, state.timestep, state.latents, **options)
        state.denoised = schedulers.denoised(scheduler, output)
        state.latents = output.prev_sample
        state.calls += 1
