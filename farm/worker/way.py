"""How a worker applies adapters, as its settings say."""

from __future__ import annotations

from dataclasses import dataclass

from farm.settings import Settings
from farm.worker.mode import Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraWay:
    """The page's loader settings, and whether adapters are written into weights or act beside them."""

    mode: Wish = "auto"
    #: keep no second copy of weights that adapters change
    fuse_native: bool = False
    #: by diffusers' own loader
    diffusers: bool = False
    #: with `diffusers`: merged into the weights
    fuse_diffusers: bool = False
    #: say of every layer what was written, and how long it took
    debug: bool = False

    @classmethod
    def of(cls, settings: Settings) -> LoraWay:
        return cls(
            mode=settings.lora_mode,
            fuse_native=settings.lora_fuse_native,
            diffusers=settings.lora_force_diffusers,
            fuse_diffusers=settings.lora_fuse_diffusers,
            debug=settings.lora_debug,
        )
