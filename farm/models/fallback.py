"""Samples through a diffusers pipeline as it is, for families without a step machine and to check the machine against.

The pipeline runs its own loop; between two steps its callback patches the weights and swaps the embeddings. So all that
a tag can say holds here too, but the job is alone in its batch and cannot be saved in the middle. Pitfalls that it knows:
the callback runs after a step, so step 1 is patched before the loop; second-order samplers go round 2n - 1 times for
n steps; the loop holds negative and positive embeddings joined, an XL model's pooled ones too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from farm.errors import Permanent
from farm.lora.layout import Layout
from farm.lora.schedule import StrengthPlan
from farm.models import schedulers
from farm.models.state import SampleSpec
from farm.models.strengths import AdapterLike, PatcherLike, weights_key

#: Called after each step of the person's count with its number and the latents; it may raise to stop the run.
OnStep = Callable[[int, Tensor], None]


class PipelineSampler:
    """Runs jobs through one diffusers pipeline, whose modules `patcher` owns."""

    def __init__(self, pipeline: Any, patcher: PatcherLike, layout: Layout) -> None:
        self._pipeline = pipeline
        self._patcher = patcher
        self._layout = layout
        self._config = dict(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def sample(
        self,
        spec: SampleSpec,
        plan: StrengthPlan,
        adapters: Mapping[str, AdapterLike],
        *,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """Return one picture for each seed.

        Raises:
            Permanent: text strengths change during the run, and this pipeline cannot swap its embeddings.
        """
        texts = self._texts(spec, plan, adapters)
        pipeline = self._pipeline
        pipeline.scheduler = schedulers.bare_scheduler(spec.sampler, self._config)
        order = int(getattr(pipeline.scheduler, "order", 1))

        def between(_: Any, call: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
            done = (call + 1) // order if call + 1 < order * spec.steps - (order - 1) else spec.steps
            if (call + 1) % order == 0 or done == spec.steps:
                if on_step is not None:
                    on_step(done, values["latents"])
                if done < spec.steps:
                    self._patcher.apply(plan, adapters, done + 1, components=self._layout.denoisers)
                    return {**values, **texts[done]} if len(set(map(id, texts))) > 1 else values
            return values

        self._patcher.apply(plan, adapters, 1, components=self._layout.components)
        found = pipeline(
            spec.prompt,
            negative_prompt=spec.negative_prompt or None,
            num_images_per_prompt=len(spec.seeds),
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in spec.seeds],
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            callback_on_step_end=between,
            callback_on_step_end_tensor_inputs=["latents", *texts[0]],
        )
        return list(found.images)

    def _texts(
        self, spec: SampleSpec, plan: StrengthPlan, adapters: Mapping[str, AdapterLike]
    ) -> list[dict[str, Tensor]]:
        """Return for each step the embeddings as the pipeline's loop holds them; empty when they never change."""
        components = self._layout.text_encoders
        keys = [weights_key(plan, adapters, step, components) for step in range(1, plan.steps + 1)]
        nothing: dict[str, Tensor] = {}
        if len(set(keys)) == 1:
            return [nothing] * plan.steps
        swapped = getattr(self._pipeline, "_callback_tensor_inputs", [])
        if "prompt_embeds" not in swapped or not hasattr(self._pipeline, "unet"):
            raise Permanent(
                f"{type(self._pipeline).__name__} cannot change the strength of its text encoder during a run",
                "give the tag a constant te",
            )
        held: dict[Hashable, dict[str, Tensor]] = {}
        for step, key in enumerate(keys, start=1):
            if key not in held:
                self._patcher.apply(plan, adapters, step, components=components)
                held[key] = self._encode(spec)
        return [held[key] for key in keys]

    def _encode(self, spec: SampleSpec) -> dict[str, Tensor]:
        guided = spec.guidance_scale > 1 and self._pipeline.unet.config.time_cond_proj_dim is None
        found = self._pipeline.encode_prompt(
            spec.prompt,
            device=self._pipeline.device,
            num_images_per_prompt=len(spec.seeds),
            do_classifier_free_guidance=guided,
            negative_prompt=(spec.negative_prompt or None) if guided else None,
        )
        held = {"prompt_embeds": _joined(found[1], found[0])}
        if len(found) == 4:
            held["add_text_embeds"] = _joined(found[3], found[2])
        return held


def _joined(negative: Tensor | None, positive: Tensor) -> Tensor:
    return positive if negative is None else torch.cat([negative, positive])
