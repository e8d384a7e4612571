"""How much each class of VAE shrinks pictures and videos, from its config alone, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from farm.models.layouts.blocks import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The measures of latents."""

    #: pixels that one latent is wide and high
    spatial: int
    #: frames that one latent stands for, but the first one, which stands for one frame
    temporal: int = 1
    channels: int


def scale(config: Config) -> Scale:
    """Return the measures of the latents that a VAE with this config makes."""
    return OF_CLASS[config.get("_class_name", "AutoencoderKL")](config)


def _kl(config: Config) -> Scale:
    levels = len(config.get("block_out_channels", (64,)))
    return Scale(spatial=2 ** (levels - 1), channels=config.get("latent_channels", 4))


def _flux2(config: Config) -> Scale:
    levels = len(config.get("block_out_channels", (128, 256, 512, 512)))
    return Scale(spatial=2 ** (levels - 1), channels=config.get("latent_channels", 32))


def _wan(config: Config) -> Scale:
    return Scale(
        spatial=config.get("scale_factor_spatial", 8),
        temporal=config.get("scale_factor_temporal", 4),
        channels=config.get("z_dim", 16),
    )


def _qwen_image(config: Config) -> Scale:
    # the class spells it so; it makes one frame
    levels = len(config.get("temperal_downsample", (False, True, True)))
    return Scale(spatial=2**levels, channels=config.get("z_dim", 16))


def _hunyuan_video(config: Config) -> Scale:
    return Scale(
        spatial=config.get("spatial_compression_ratio", 8),
        temporal=config.get("temporal_compression_ratio", 4),
        channels=config.get("latent_channels", 16),
    )


def _ltx_video(config: Config) -> Scale:
    halvings = 2 ** sum(config.get("spatio_temporal_scaling", (True, True, True, False)))
    return Scale(
        spatial=config.get("spatial_compression_ratio") or config.get("patch_size", 4) * halvings,
        temporal=config.get("temporal_compression_ratio") or config.get("patch_size_t", 1) * halvings,
        channels=config.get("latent_channels", 128),
    )


def _dc(config: Config) -> Scale:
    levels = len(config.get("encoder_block_out_channels", (128, 256, 512, 512, 1024, 1024)))
    return Scale(spatial=2 ** (levels - 1), channels=config.get("latent_channels", 32))


OF_CLASS: Mapping[str, Callable[[Config], Scale]] = {
    "AutoencoderKL": _kl,
    "AutoencoderKLFlux2": _flux2,
    "AutoencoderKLWan": _wan,
    "AutoencoderKLQwenImage": _qwen_image,
    "AutoencoderKLHunyuanVideo": _hunyuan_video,
    "AutoencoderKLLTXVideo": _ltx_video,
    "AutoencoderDC": _dc,
}
