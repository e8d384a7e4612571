"""Flux.1: packed latents, guidance told as a number to models that were distilled for it, true guidance beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from farm.models.denoisers.base import (
    PipelineDenoiser,
    falling,
    joined,
    parted,
    pooled,
    shift,
    timesteps,
    tokens,
)
from farm.models.encode import Text
from farm.models.state import SampleSpec, SampleState


class FluxDenoiser(PipelineDenoiser):
    """Denoises as `FluxPipeline` does."""

    def encode(self, text: str, size: int) -> Text:
        """Return T5's tokens and CLIP's pooled vector."""
        found = self.pipeline.encode_prompt(text, None, device=self.model.device, max_sequence_length=512)
        return Text(found[0], found[1])

    def scale(self, spec: SampleSpec) -> float:
        return spec.true_cfg_scale

    def timing(self, spec: SampleSpec) -> dict[str, Any]:
        height, width = self._patches(spec)
        # a scheduler with sigmas of its own, such as UniPC, is not told any
        sigmas = falling(spec.steps) if spec.sampler == "flow_euler" else None
        return {"sigmas": sigmas, "mu": shift(self.model, height * width)}

    def noise(self, spec: SampleSpec, generators: list[torch.Generator]) -> Tensor:
        channels = self.pipeline.transformer.config.in_channels // 4
        noise: Tensor = self.prepared(channels, spec, generators, self.model.dtype)[0]
        return noise

    def forward(self, states: Sequence[SampleState], texts: Sequence[Text]) -> list[Tensor]:
        latents, said = joined(states), tokens(states, texts)
        transformer = self.pipeline.transformer
        told = [state.spec.guidance_scale for state in states for _ in state.latents]
        guidance = torch.tensor(told, device=latents.device, dtype=torch.float32)
        place: dict[str, Any] = {"device": latents.device, "dtype": latents.dtype}
        height, width = self._patches(states[0].spec)
        predicted = transformer(
            hidden_states=latents,
            timestep=timesteps(states).to(latents.dtype) / 1000,
            guidance=guidance if transformer.config.guidance_embeds else None,
            pooled_projections=pooled(states, texts),
            encoder_hidden_states=said,
            txt_ids=torch.zeros(said.shape[1], 3, **place),
            img_ids=self.pipeline._prepare_latent_image_ids(len(latents), height, width, **place),
            return_dict=False,
        )[0]
        return parted(predicted, states)

    def unpack(self, latents: Tensor, spec: SampleSpec) -> Tensor:
        factor = self.pipeline.vae_scale_factor
        found: Tensor = self.pipeline._unpack_latents(latents, spec.height, spec.width, factor)
        return found

    def _patches(self, spec: SampleSpec) -> tuple[int, int]:
        """Return height and width in patches of 2 × 2 latents."""
        edge = self.pipeline.vae_scale_factor * 2
        return spec.height // edge, spec.width // edge
