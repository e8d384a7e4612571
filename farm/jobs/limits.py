"""What one job or batch may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self


class LimitValues(Protocol):
    """The settings that limits are made of."""

    @property
    def max_steps(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...
    @property
    def max_count(self) -> int: ...
    @property
    def max_frames(self) -> int: ...
    @property
    def max_batch_rows(self) -> int: ...
    @property
    def max_prompt_chars(self) -> int: ...
    @property
    def max_tags(self) -> int: ...
    @property
    def lora_apply_tags(self) -> int: ...
    @property
    def lora_default_strength(self) -> float: ...
    @property
    def lora_linear_curves(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of what may be asked for, and the defaults that the farm fills in."""

    max_steps: int = 500
    max_pixels: int = 4_194_304
    max_count: int = 64
    #: of one video
    max_frames: int = 257
    max_fps: float = 120.0
    #: how much larger a second pass may make a picture
    max_hr_scale: float = 4.0
    max_batch_rows: int = 100_000
    max_prompt_chars: int = 16_384
    #: adapter tags of one prompt
    max_tags: int = 64
    #: labels (`tags`) of one job, and the length of one
    max_labels: int = 32
    max_label_chars: int = 64
    min_side: int = 64
    max_side: int = 8192
    max_guidance_scale: float = 100.0
    max_webhook_chars: int = 2000
    #: trigger words put into the prompt: 0 none, n the first n of each adapter, -1 all
    apply_triggers: int = 0
    default_strength: float = 1.0
    linear_curves: bool = False

    @classmethod
    def from_settings(cls, values: LimitValues) -> Self:
        return cls(
            max_steps=values.max_steps,
            max_pixels=values.max_pixels,
            max_count=values.max_count,
            max_frames=values.max_frames,
            max_batch_rows=values.max_batch_rows,
            max_prompt_chars=values.max_prompt_chars,
            max_tags=values.max_tags,
            apply_triggers=values.lora_apply_tags,
            default_strength=values.lora_default_strength,
            linear_curves=values.lora_linear_curves,
        )
