"""Layouts of a few shapes, with one layer in each region."""

from __future__ import annotations

from farm.lora.layout import Layer, Layout


def layer(component: str, path: str, block: str, index: int = -1) -> Layer:
    return Layer(
        component=component, path=path, kind="linear", shape=(1, 1), bias=False, block=block, index=index
    )


def unet(family: str, inputs: int, outputs: int, text_encoders: int = 1) -> Layout:
    texts = tuple("text_encoder" if n == 1 else f"text_encoder_{n}" for n in range(1, text_encoders + 1))
    labels = (*(f"IN{n:02}" for n in range(inputs)), "M00", *(f"OUT{n:02}" for n in range(outputs)))
    sides = ["in"] * inputs + ["mid"] + ["out"] * outputs
    layers = [layer(name, "layer", "all") for name in texts]
    layers += [layer("unet", "conv_in", "in")]
    layers += [
        layer("unet", label, side, index)
        for index, (label, side) in enumerate(zip(labels, sides, strict=True))
        if index > 0
    ]
    return Layout(
        family=family,
        denoisers=("unet",),
        text_encoders=texts,
        blocks=labels,
        layers={each.name: each for each in layers},
    )


def transformer(family: str, blocks: int, denoisers: tuple[str, ...], text_encoders: int = 2) -> Layout:
    texts = ("text_encoder", "text_encoder_2", "text_encoder_3")[:text_encoders]
    layers = [layer(name, "layer", "all") for name in texts]
    for name in denoisers:
        layers += [layer(name, "entrance", "in"), layer(name, "exit", "out")]
        layers += [
            layer(name, f"blocks.{n}", ("in", "mid", "out")[n * 3 // blocks], n) for n in range(blocks)
        ]
    return Layout(
        family=family,
        denoisers=denoisers,
        text_encoders=texts,
        blocks=tuple(f"B{n:02}" for n in range(blocks)),
        layers={each.name: each for each in layers},
    )


SD1 = unet("sd1", 12, 12)
SDXL = unet("sdxl", 9, 9, text_encoders=2)
DEMO = unet("demo", 4, 4)
FLUX = transformer("flux1", 57, ("transformer",))
WAN = transformer("wan", 6, ("transformer", "transformer_2"), text_encoders=1)
