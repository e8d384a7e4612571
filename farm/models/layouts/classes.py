"""Which layout belongs to which class of diffusers or transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from farm.lora.layout import Layer
from farm.models.layouts import (
    auraflow,
    clip,
    decoder,
    flux1,
    flux2,
    hidream,
    hunyuanvideo,
    ltxv,
    lumina2,
    qwenimage,
    sana,
    sd3,
    t5,
    unet,
    wan,
    zimage,
)
from farm.models.layouts.blocks import Config

#: config and component → the component's layers
Layers = Callable[[Config, str], Iterator[Layer]]


@dataclass(frozen=True, slots=True)
class Denoiser:
    """The layers of a class of denoisers and the labels of its blocks."""

    layers: Layers
    labels: Callable[[Config], tuple[str, ...]]
    #: what the class has where a config says nothing
    defaults: Config


DENOISERS: Mapping[str, Denoiser] = {
    "UNet2DConditionModel": Denoiser(unet.layers, unet.labels, unet.DEFAULTS),
    "SD3Transformer2DModel": Denoiser(sd3.layers, sd3.labels, sd3.DEFAULTS),
    "FluxTransformer2DModel": Denoiser(flux1.layers, flux1.labels, flux1.DEFAULTS),
    "Flux2Transformer2DModel": Denoiser(flux2.layers, flux2.labels, flux2.DEFAULTS),
    "ChromaTransformer2DModel": Denoiser(flux1.chroma_layers, flux1.labels, flux1.DEFAULTS),
    "WanTransformer3DModel": Denoiser(wan.layers, wan.labels, wan.DEFAULTS),
    "QwenImageTransformer2DModel": Denoiser(qwenimage.layers, qwenimage.labels, qwenimage.DEFAULTS),
    "ZImageTransformer2DModel": Denoiser(zimage.layers, zimage.labels, zimage.DEFAULTS),
    "HunyuanVideoTransformer3DModel": Denoiser(
        hunyuanvideo.layers, hunyuanvideo.labels, hunyuanvideo.DEFAULTS
    ),
    "LTXVideoTransformer3DModel": Denoiser(ltxv.layers, ltxv.labels, ltxv.DEFAULTS),
    "Lumina2Transformer2DModel": Denoiser(lumina2.layers, lumina2.labels, lumina2.DEFAULTS),
    "HiDreamImageTransformer2DModel": Denoiser(hidream.layers, hidream.labels, hidream.DEFAULTS),
    "AuraFlowTransformer2DModel": Denoiser(auraflow.layers, auraflow.labels, auraflow.DEFAULTS),
    "SanaTransformer2DModel": Denoiser(sana.layers, sana.labels, sana.DEFAULTS),
}
ENCODERS: Mapping[str, Layers] = {
    "CLIPTextModel": partial(clip.layers, projection=False),
    "CLIPTextModelWithProjection": partial(clip.layers, projection=True),
    "T5EncoderModel": t5.t5_layers,
    "UMT5EncoderModel": t5.umt5_layers,
    **{name: partial(decoder.layers, kind=kind) for name, kind in decoder.CLASSES.items()},
}
