"""Qwen-Image: packed latents, texts of their own lengths, guidance that keeps the length of each patch's prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from farm.models.denoisers.base import PipelineDenoiser, falling, joined, parted, shift, timesteps, tokens
from farm.models.encode import Text
from farm.models.state import SampleSpec, SampleState


class QwenImageDenoiser(PipelineDenoiser):
    """Denoises as `QwenImagePipeline` does."""

    def encode(self, text: str, size: int) -> Text:
        """Return Qwen2.5-VL's tokens; a text alone is not filled up, so there is no mask."""
        found = self.pipeline.encode_prompt(text, device=self.model.device, max_sequence_length=512)
        return Text(found[0])

    def scale(self, spec: SampleSpec) -> float:
        return spec.true_cfg_scale if self._told else spec.guidance_scale

    def timing(self, spec: SampleSpec) -> dict[str, Any]:
        height, width = self._patches(spec)
        return {"sigmas": falling(spec.steps), "mu": shift(self.model, height * width)}

    def noise(self, spec: SampleSpec, generators: list[torch.Generator]) -> Tensor:
        channels = self.pipeline.transformer.config.in_channels // 4
        noise: Tensor = self.prepared(channels, spec, generators, self.model.dtype)
        return noise

    def forward(self, states: Sequence[SampleState], texts: Sequence[Text]) -> list[Tensor]:
        latents = joined(states)
        told = [state.spec.guidance_scale for state in states for _ in state.latents]
        guidance = torch.tensor(told, device=latents.device, dtype=torch.float32) if self._told else None
        predicted = self.pipeline.transformer(
            hidden_states=latents,
            timestep=timesteps(states).to(latents.dtype) / 1000,
            guidance=guidance,
            encoder_hidden_states_mask=None,
            encoder_hidden_states=tokens(states, texts),
            img_shapes=[[(1, *self._patches(states[0].spec))]] * len(latents),
            return_dict=False,
        )[0]
        return parted(predicted, states)

    def guide(self, state: SampleState, positive: Tensor, negative: Tensor) -> Tensor:
        guided = super().guide(state, positive, negative)
        found: Tensor = guided * (_lengths(positive) / _lengths(guided))
        return found

    def unpack(self, latents: Tensor, spec: SampleSpec) -> Tensor:
        factor = self.pipeline.vae_scale_factor
        found: Tensor = self.pipeline._unpack_latents(latents, spec.height, spec.width, factor)
        return found

    @property
    def _told(self) -> bool:
        """Whether the transformer takes the guidance scale as an input."""
        return bool(self.pipeline.transformer.config.guidance_embeds)

    def _patches(self, spec: SampleSpec) -> tuple[int, int]:
        """Return height and width in patches of 2 × 2 latents."""
        edge = self.pipeline.vae_scale_factor * 2
        return spec.height // edge, spec.width // edge


def _lengths(predicted: Tensor) -> Tensor:
    """Return the length of each patch's prediction (n, patches, 1)."""
    found: Tensor = torch.norm(predicted, dim=-1, keepdim=True)
    return found
