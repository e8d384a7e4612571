"""Wan 2.1 and 2.2: videos; in 2.2 one expert denoises while there is much noise, another one the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.models.denoisers.base import PipelineDenoiser, joined, parted, timesteps, tokens
from farm.models.encode import Text
from farm.models.load import LoadedModel
from farm.models.state import SampleSpec, SampleState


class WanDenoiser(PipelineDenoiser):
    """Denoises as `WanPipeline` does: latents are float32 whatever the model's dtype."""

    video = True

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        # a model with a time for each patch sees those of all rows in a row
        self.mixes = not self.pipeline.config.expand_timesteps

    def check_frames(self, spec: SampleSpec) -> None:
        every = self.pipeline.vae_scale_factor_temporal
        frames = self._frames(spec)
        if frames < 1 or (frames - 1) % every:
            raise BadRequest(
                f"{frames} frames do not suit {self.model.info.name}",
                f"a multiple of {every} and one more, such as {every * 20 + 1}",
                code="bad_frames",
            )

    def encode(self, text: str, size: int) -> Text:
        """Return UMT5's tokens, filled up with zeros to 512."""
        found = self.pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=512, device=self.model.device
        )
        return Text(found[0].to(self.model.dtype))

    def timing(self, spec: SampleSpec) -> dict[str, Any]:
        return {}

    def noise(self, spec: SampleSpec, generators: list[torch.Generator]) -> Tensor:
        noise: Tensor = self.pipeline.prepare_latents(
            len(generators),
            self.pipeline.transformer.config.in_channels,
            spec.height,
            spec.width,
            self._frames(spec),
            torch.float32,
            self.model.device,
            generators,
        )
        return noise

    def components(self, state: SampleState) -> tuple[str, ...]:
        """Return the expert that the next step runs."""
        return ("transformer_2",) if self._low_noise(state) else ("transformer",)

    def forward(self, states: Sequence[SampleState], texts: Sequence[Text]) -> list[Tensor]:
        latents, times = joined(states), timesteps(states)
        if self.pipeline.config.expand_timesteps:
            # models that also take a first frame have a time for each patch
            frames, height, width = latents.shape[2:]
            times = times[:, None].expand(-1, frames * -(-height // 2) * -(-width // 2))
        expert = getattr(self.pipeline, self.components(states[0])[0])
        predicted = expert(
            hidden_states=latents.to(self.model.dtype),
            timestep=times,
            encoder_hidden_states=tokens(states, texts),
            return_dict=False,
        )[0]
        return parted(predicted, states)

    def guide(self, state: SampleState, positive: Tensor, negative: Tensor) -> Tensor:
        scale = state.spec.guidance_scale
        if self._low_noise(state) and state.spec.guidance_scale_2 is not None:
            scale = state.spec.guidance_scale_2
        return negative + scale * (positive - negative)

    def _frames(self, spec: SampleSpec) -> int:
        """Return how many frames a job asks for: as many as is usual for the model when it does not say."""
        return spec.frames or int(self.model.info.defaults["frames"])

    def _low_noise(self, state: SampleState) -> bool:
        ratio = self.pipeline.config.boundary_ratio
        if ratio is None:
            return False
        return bool(state.timestep < ratio * self.model.scheduler_config.get("num_train_timesteps", 1000))
