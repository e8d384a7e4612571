"""What is a family's own in sampling: its texts, its noise, its schedule and its forward pass.

`StepMachine` does the rest, the same for all families.
"""

from __future__ import annotations

from collections.abc import Mapping

from farm.models.denoisers.base import Denoiser
from farm.models.denoisers.flux import FluxDenoiser
from farm.models.denoisers.qwenimage import QwenImageDenoiser
from farm.models.denoisers.sd3 import SD3Denoiser
from farm.models.denoisers.unet import UNetDenoiser
from farm.models.denoisers.wan import WanDenoiser
from farm.models.denoisers.zimage import ZImageDenoiser
from farm.models.load import LoadedModel

__all__ = ["DENOISERS", "Denoiser", "denoiser_for"]

#: class of each family that the step machine samples
DENOISERS: Mapping[str, type[Denoiser]] = {
    "sd1": UNetDenoiser,
    "sd2": UNetDenoiser,
    "sdxl": UNetDenoiser,
    "demo": UNetDenoiser,
    "sd3": SD3Denoiser,
    "flux1": FluxDenoiser,
    "qwenimage": QwenImageDenoiser,
    "zimage": ZImageDenoiser,
    "wan": WanDenoiser,
}


def denoiser_for(model: LoadedModel) -> Denoiser:
    """Return the denoiser of a model; one with a UNet is sampled as any of them, whatever its family is called."""
    cls = UNetDenoiser if model.pipeline is None else DENOISERS[model.family]
    return cls(model)
