"""Samples through a diffusers pipeline that runs its own loop, for families without a step machine of their own.

The pipeline is called in a thread that its step-end callback halts after each step (`farm.models.turns`). So all that a
tag can say holds here too: weights and texts change between steps, a job can be watched and ended. But it is alone in
its batch and cannot be saved in the middle. Pitfalls: the callback runs after a step, so step 1 is patched before the
loop; second-order samplers go round 2n - 1 times for n steps; loops hold negative and positive texts joined, or show only
the positive one.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from diffusers import Flux2KleinPipeline, HiDreamImagePipeline
from PIL import Image
from torch import Tensor

from farm.errors import BadRequest, Permanent
from farm.lora.schedule import StrengthPlan
from farm.models import schedulers
from farm.models.asked import check_asked, frames_asked
from farm.models.clip import Clip
from farm.models.load import LoadedModel
from farm.models.loop_preview import LoopPreviewer
from farm.models.loop_texts import LoopTexts, held_by, negative_prompt
from farm.models.sampler import Diverged
from farm.models.state import SampleSpec
from farm.models.strengths import AdapterLike, PatcherLike, weights_key
from farm.models.turns import Give, Turns


@dataclass(slots=True, kw_only=True, eq=False)
class PipelineState:
    """A job in the middle of its run. Dropping it ends the run."""

    spec: SampleSpec
    plan: StrengthPlan
    adapters: Mapping[str, AdapterLike]
    #: a pipeline of its own over the model's modules, with its own scheduler
    pipeline: Any
    #: the running pipeline: gives what its loop holds after each model call
    turns: Turns
    #: None where the text is the same at all steps
    texts: LoopTexts | None
    #: one for each picture, on the host
    generators: list[torch.Generator]
    #: model calls that are done, and how many are after each step; the latter are known once the loop runs
    calls: int = 0
    bounds: tuple[int, ...] = ()
    #: tensors of the loop after the last call, `latents` among them
    held: dict[str, Any] = field(default_factory=dict)
    #: latents one call earlier
    before: Tensor | None = None

    @property
    def steps(self) -> int:
        return self.spec.steps

    @property
    def step(self) -> int:
        """Steps of the person's count that are done."""
        return max((step for step, bound in enumerate(self.bounds) if bound <= self.calls), default=0)

    @property
    def done(self) -> bool:
        return bool(self.bounds) and self.calls >= self.bounds[-1]

    @property
    def latents(self) -> Tensor:
        """The unfinished picture as the loop holds it."""
        latents: Tensor = self.held["latents"]
        return latents

    def save(self) -> bytes:
        """Raises Permanent: the loop belongs to the pipeline."""
        raise Permanent(
            f"a job of {type(self.pipeline).__name__} cannot be saved in the middle of its run",
            "let it finish, or start it again",
        )


class PipelineMachine:
    """Samples on one loaded model. Not thread-safe: whoever holds the device calls it."""

    def __init__(self, model: LoadedModel, patcher: PatcherLike) -> None:
        self.model = model
        self.patcher = patcher
        self._accepted = frozenset(inspect.signature(model.pipeline.__call__).parameters)
        self._previewer = LoopPreviewer(model.info.limits["multiple_of"])
        model.pipeline.set_progress_bar_config(disable=True)

    def begin(
        self, spec: SampleSpec, plan: StrengthPlan, adapters: Mapping[str, AdapterLike]
    ) -> PipelineState:
        """Return the state before step 1; the pipeline begins with that step.

        Raises:
            BadRequest: size, frames, steps or sampler do not suit the model.
            Permanent: text strengths change during the run, and this pipeline cannot change its text.
        """
        check_asked(self.model, spec, plan, adapters)
        pipeline = copy.copy(self.model.pipeline)
        if isinstance(self.model.pipeline, HiDreamImagePipeline):
            _keep_size(pipeline, spec)
        pipeline.scheduler = schedulers.bare_scheduler(spec.sampler, self.model.scheduler_config)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in spec.seeds]
        texts = self._texts(plan, adapters)
        asked = self._asked(spec, generators)
        work = partial(_call, pipeline, asked, spec.negative_prompt, texts, self.model.device)
        return PipelineState(
            spec=spec,
            plan=plan,
            adapters=adapters,
            pipeline=pipeline,
            turns=Turns(work, "pipeline"),
            texts=texts,
            generators=generators,
        )

    def step(self, states: Sequence[PipelineState]) -> None:
        """Denoise every state by one step, one after the other.

        Raises:
            BadRequest: the pipeline refuses what is asked of it, at the first step.
            Diverged: a picture became NaN.
        """
        for state in states:
            if state.done:
                raise ValueError("this state has no step left: finish it")
            self._patch(state)
            target = state.step + 1
            while not state.bounds or state.calls < state.bounds[target]:
                self._resume(state)
            if not bool(torch.isfinite(state.latents).all()):
                raise Diverged([state])

    def finish(self, state: PipelineState) -> list[Image.Image | Clip]:
        """Return the pictures, one for each seed; clips where the family makes videos."""
        if not state.done:
            raise ValueError(f"only {state.step} of {state.steps} steps are done")
        output = state.turns.resume()
        if not self.model.info.video:
            self._previewer.learn(state.latents, output.images[0])
            return list(output.images)
        self._previewer.learn(state.latents, output.frames[0][0])
        fps = self._fps(state.spec)
        return [Clip(tuple(frames), fps) for frames in output.frames]

    def preview(self, state: PipelineState) -> Image.Image:
        """Return roughly what the first picture, or the first frame, will be, at little cost."""
        sigmas = getattr(state.pipeline.scheduler, "sigmas", None)
        latents = state.latents
        if state.before is not None and sigmas is not None:
            # the line through the last two latents, followed to where no noise is left
            last, now = (float(sigma) for sigma in sigmas[state.calls - 1 : state.calls + 1])
            latents = latents + (latents - state.before) * (now / (last - now) if last > now else 0.0)
        return self._previewer.image(latents, state.spec.width, state.spec.height)

    def _patch(self, state: PipelineState) -> None:
        """Make weights and text those of the next step. The pipeline itself encodes the text of step 1."""
        layout, step = self.model.layout, state.step + 1
        plan, adapters = state.plan, state.adapters
        if state.step == 0:
            self.patcher.apply(plan, adapters, step, components=layout.components)
            return
        if state.texts is not None:
            key = weights_key(plan, adapters, step, layout.text_encoders)
            if state.texts.needs(key):
                self.patcher.apply(plan, adapters, step, components=layout.text_encoders)
                state.texts.encode(key, state.pipeline)
            state.texts.show(key, state.held)
        self.patcher.apply(plan, adapters, step, components=layout.denoisers)

    def _resume(self, state: PipelineState) -> None:
        """Let the pipeline make one model call."""
        first = not state.bounds
        try:
            held = state.turns.resume()
        except ValueError as error:
            if not first:
                raise
            line = str(error).strip().splitlines()[0][:300]
            raise BadRequest(
                f"{self.model.info.name} cannot be sampled like this: {line}",
                "choose another sampler, size or number of steps",
                code="bad_spec",
            ) from error
        if state.turns.ended:
            raise Permanent(
                f"{type(state.pipeline).__name__} ended after {state.calls} of {state.bounds[-1:] or '?'} model calls"
            )
        state.before, state.held = state.held.get("latents"), held
        state.calls += 1
        if first:
            state.bounds = schedulers.call_bounds(state.pipeline.scheduler, state.steps)
            if state.texts is not None:
                layout = self.model.layout
                state.texts.keep(weights_key(state.plan, state.adapters, 1, layout.text_encoders), held)

    def _texts(self, plan: StrengthPlan, adapters: Mapping[str, AdapterLike]) -> LoopTexts | None:
        components = self.model.layout.text_encoders
        keys = {weights_key(plan, adapters, step, components) for step in range(1, plan.steps + 1)}
        if len(keys) == 1:
            return None
        held = held_by(self.model.pipeline)
        if held is None:
            raise Permanent(
                f"{type(self.model.pipeline).__name__} cannot change the strength of its text encoder during a run",
                "give the tag a constant te",
            )
        return LoopTexts(held)

    def _asked(self, spec: SampleSpec, generators: list[torch.Generator]) -> dict[str, Any]:
        """Return what the pipeline is called with, as far as it knows the words."""
        asked = {
            "prompt": spec.prompt,
            "width": spec.width,
            "height": spec.height,
            "num_inference_steps": spec.steps,
            "guidance_scale": spec.guidance_scale,
            "true_cfg_scale": spec.true_cfg_scale,
            "generator": generators,
            "num_images_per_prompt": len(generators),
            "num_videos_per_prompt": len(generators),
            "num_frames": frames_asked(self.model, spec),
            "frame_rate": self._fps(spec),
            # Sana would make another size than the one that is asked for, and stretch it
            "use_resolution_binning": False,
        }
        if spec.negative_prompt:
            asked["negative_prompt"] = spec.negative_prompt
        return {name: value for name, value in asked.items() if name in self._accepted}

    def _fps(self, spec: SampleSpec) -> float:
        return spec.fps or float(self.model.info.defaults.get("fps", 0.0))


def _keep_size(pipeline: Any, spec: SampleSpec) -> None:
    """HiDream's pipeline scales every picture to an area of its own; make that the one that is asked for."""
    # it rounds down, so a hair more
    side = math.sqrt(spec.width * spec.height) * (1 + 1e-9)
    pipeline.default_sample_size = side / pipeline.vae_scale_factor


def _call(
    pipeline: Any,
    asked: Mapping[str, Any],
    negative: str,
    texts: LoopTexts | None,
    device: torch.device,
    give: Give,
) -> Any:
    """Call the pipeline, giving what its loop holds after each model call."""

    def between(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
        give(values)
        # the loop takes out of it what it reads
        return dict(values)

    names = ["latents", *(texts.names if texts else ())]
    # its own list has not all that its loop holds
    pipeline._callback_tensor_inputs = names
    with ExitStack() as stack:
        if texts is not None:
            stack.enter_context(texts.listening(pipeline))
        if isinstance(pipeline, Flux2KleinPipeline):
            stack.enter_context(negative_prompt(pipeline, negative))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        return pipeline(**asked, callback_on_step_end=between, callback_on_step_end_tensor_inputs=names)
