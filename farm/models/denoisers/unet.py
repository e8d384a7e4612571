"""Stable Diffusion 1, 2 and XL: a UNet that predicts noise, guided in one pass of two rows for each picture."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from farm.models.denoisers.base import Seat, only_pictures
from farm.models.denoisers.clip import ChunkedTexts
from farm.models.state import SampleSpec, SampleState


class UNetDenoiser(ChunkedTexts):
    """Denoises with the UNet of one loaded model."""

    video = False
    mixes = True

    def check_frames(self, spec: SampleSpec) -> None:
        only_pictures(self.model, spec)

    def guided(self, spec: SampleSpec) -> bool:
        return spec.guidance_scale > 1 and not self.model.guidance_is_told

    def timing(self, spec: SampleSpec) -> dict[str, Any]:
        return {}

    def noise(self, spec: SampleSpec, generators: list[torch.Generator]) -> Tensor:
        scale = self.model.scale
        shape = (len(generators), self.model.latent_channels, spec.height // scale, spec.width // scale)
        noise: Tensor = randn_tensor(
            shape, generator=generators, device=self.model.device, dtype=self.model.dtype
        )
        return noise

    def components(self, state: SampleState) -> tuple[str, ...]:
        return self.model.layout.denoisers

    def key(self, state: SampleState) -> Hashable:
        # the negative text is as long as the positive one
        return tuple(state.text.positive.tokens.shape)

    def unpack(self, latents: Tensor, spec: SampleSpec) -> Tensor:
        return latents

    def predict(self, states: Sequence[SampleState], seat: Seat) -> list[Tensor]:
        """Return what the UNet predicts for the next call of each state, in one forward pass."""
        inputs = [self._inputs(state) for state in states]
        seat([(state, len(one["sample"])) for state, one in zip(states, inputs, strict=True)])
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
            if not self.guided(state.spec):
                found.append(part)
                continue
            without, with_text = part.chunk(2)
            found.append(without + state.spec.guidance_scale * (with_text - without))
        return found

    def _inputs(self, state: SampleState) -> dict[str, Tensor]:
        """Return the UNet's inputs for one state, the negative half first."""
        timestep = state.timestep
        guided = self.guided(state.spec)
        sample = torch.cat([state.latents] * 2) if guided else state.latents
        sample = state.scheduler.scale_model_input(sample, timestep)
        sides = state.text.sides
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
