"""Z-Image: a transformer that takes pictures and texts as lists, time from noise to picture, guidance from 0 on."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from farm.models.denoisers.base import PipelineDenoiser, Seat, shift
from farm.models.encode import Text
from farm.models.state import SampleSpec, SampleState


class ZImageDenoiser(PipelineDenoiser):
    """Denoises as `ZImagePipeline` does: latents are float32 whatever the model's dtype."""

    #: its first layers see the tokens of all pictures in a row
    mixes = False

    def encode(self, text: str, size: int) -> Text:
        """Return the last but one layer of Qwen3, as long as the text is."""
        found = self.pipeline.encode_prompt(
            text, device=self.model.device, do_classifier_free_guidance=False, max_sequence_length=512
        )
        return Text(found[0][0][None])

    def guided(self, spec: SampleSpec) -> bool:
        # a scale of g is what other families call 1 + g; kept, for model cards speak of it so
        return spec.guidance_scale > 0

    def timing(self, spec: SampleSpec) -> dict[str, Any]:
        edge = self.pipeline.vae_scale_factor * 2
        patches = (spec.height // edge) * (spec.width // edge)
        # rounded to float32 as the pipeline's are, but not a list, which UniPC cannot shift
        sigmas = torch.linspace(1.0, 1 / spec.steps, spec.steps).to(torch.float64).numpy()
        return {"sigmas": sigmas, "mu": shift(self.model, patches)}

    def noise(self, spec: SampleSpec, generators: list[torch.Generator]) -> Tensor:
        channels = self.pipeline.transformer.in_channels
        noise: Tensor = self.prepared(channels, spec, generators, torch.float32)
        return noise

    def key(self, state: SampleState) -> Hashable:
        # the transformer fills up texts of different lengths itself
        return None

    def predict(self, states: Sequence[SampleState], seat: Seat) -> list[Tensor]:
        """One pass: for each state all its pictures under the prompt, then under the negative prompt."""
        pictures: list[Tensor] = []
        times: list[Tensor] = []
        texts: list[Tensor] = []
        for state in states:
            rows = state.latents.to(self.model.dtype).unsqueeze(2).unbind(0)
            time = (1000 - state.timestep.to(torch.float32)) / 1000
            for side in reversed(state.text.sides):
                pictures += rows
                times += [time] * len(rows)
                texts += [side.tokens[0]] * len(rows)
        predicted = iter(self.pipeline.transformer(pictures, torch.stack(times), texts, return_dict=False)[0])
        found = []
        for state in states:
            # towards the picture, where the scheduler goes from the picture to noise
            sides = [self._take(predicted, len(state.latents)) for _ in state.text.sides]
            moved = (
                sides[0] if len(sides) == 1 else sides[0] + state.spec.guidance_scale * (sides[0] - sides[1])
            )
            found.append(-moved)
        return found

    @staticmethod
    def _take(predicted: Any, count: int) -> Tensor:
        """Return the next `count` predictions as one tensor."""
        return torch.stack([next(predicted).float() for _ in range(count)]).squeeze(2)
