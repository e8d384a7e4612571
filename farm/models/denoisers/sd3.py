"""Stable Diffusion 3 and 3.5: a transformer over pictures and text, guided in one pass of two rows for each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from farm.models.denoisers.base import PipelineDenoiser, Seat, shift
from farm.models.encode import Text
from farm.models.state import SampleSpec, SampleState


class SD3Denoiser(PipelineDenoiser):
    """Denoises as `StableDiffusion3Pipeline` does."""

    def encode(self, text: str, size: int) -> Text:
        """Return CLIP's and T5's tokens in a row, and CLIP's pooled vectors side by side."""
        found = self.pipeline.encode_prompt(
            text, None, None, device=self.model.device, do_classifier_free_guidance=False
        )
        return Text(found[0], found[2])

    def timing(self, spec: SampleSpec) -> dict[str, Any]:
        if not self.model.scheduler_config.get("use_dynamic_shifting"):
            return {}
        edge = self.pipeline.vae_scale_factor * self.pipeline.patch_size
        return {"mu": shift(self.model, (spec.height // edge) * (spec.width // edge))}

    def noise(self, spec: SampleSpec, generators: list[torch.Generator]) -> Tensor:
        channels = self.pipeline.transformer.config.in_channels
        noise: Tensor = self.prepared(channels, spec, generators, self.model.dtype)
        return noise

    def predict(self, states: Sequence[SampleState], seat: Seat) -> list[Tensor]:
        inputs = [self._inputs(state) for state in states]
        seat([(state, len(one["hidden_states"])) for state, one in zip(states, inputs, strict=True)])
        told = {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}
        predicted = self.pipeline.transformer(**told, return_dict=False)[0]
        parts = predicted.split([len(one["hidden_states"]) for one in inputs])
        found = []
        for state, part in zip(states, parts, strict=True):
            if self.guided(state.spec):
                negative, positive = part.chunk(2)
                found.append(self.guide(state, positive, negative))
            else:
                found.append(part)
        return found

    def _inputs(self, state: SampleState) -> dict[str, Tensor]:
        """Return the transformer's inputs for one state, the negative half first."""
        sides, count = state.text.sides, len(state.latents)
        sample = torch.cat([state.latents] * len(sides))
        return {
            "hidden_states": sample,
            "timestep": state.timestep.to(torch.float32).expand(len(sample)),
            "encoder_hidden_states": torch.cat([side.tokens.expand(count, -1, -1) for side in sides]),
            "pooled_projections": torch.cat(
                [side.pooled.expand(count, -1) for side in sides if side.pooled is not None]
            ),
        }
