"""Names in files that we write: kohya's for UNets, diffusers' for transformers, which kohya's cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping

from farm.lora.formats.detect import UNETS
from farm.lora.formats.schemes import flatten
from farm.lora.formats.schemes.unet import aliases
from farm.lora.layout import Layer, Layout

#: our suffix -> its end of a key; alpha stands only where the scheme has it, since it is the rank anyway
_KOHYA: Mapping[str, str] = {
    "lora_up": "lora_up.weight", "lora_down": "lora_down.weight", "alpha": "alpha", "diff": "diff", "diff_b": "diff_b",
}  # fmt: skip
_DIFFUSERS: Mapping[str, str] = {
    "lora_up": "lora_B.weight", "lora_down": "lora_A.weight", "diff": "diff", "diff_b": "diff_b",
}  # fmt: skip


def key_table(layout: Layout) -> Mapping[tuple[str, str], str]:
    """(layer name, our suffix) -> key in a file. A suffix that is absent is not written."""
    kohya = _is_unet(layout)
    modules = _kohya_modules(layout) if kohya else {name: name for name in layout.layers}
    ends = _KOHYA if kohya else _DIFFUSERS
    return {
        (name, suffix): f"{module}.{end}" for name, module in modules.items() for suffix, end in ends.items()
    }


def _is_unet(layout: Layout) -> bool:
    return layout.family in UNETS or layout.denoisers == ("unet",)


def _kohya_modules(layout: Layout) -> Mapping[str, str]:
    """Layer name -> module. Files for XL models have LDM's block names, as kohya's scripts read them."""
    paths = tuple(layer.path for layer in layout.layers.values() if layer.component in layout.denoisers)
    # a layer's first LDM name is the one of the original code
    other = dict(reversed(tuple(aliases(paths)))) if "text_encoder_2" in layout.components else {}
    encoders = len(layout.text_encoders)
    found = {}
    for layer in layout.layers.values():
        if layer.component in layout.denoisers:
            found[layer.name] = f"lora_unet_{flatten(other.get(layer.path, layer.path))}"
        else:
            number = str(layout.text_encoders.index(layer.component) + 1) if encoders > 1 else ""
            found[layer.name] = f"lora_te{number}_{flatten(_of_clip(layer))}"
    return found


def _of_clip(layer: Layer) -> str:
    """kohya names a CLIP's layers below `text_model`, whatever transformers calls them."""
    inside = layer.path.startswith(("encoder.layers.", "embeddings.", "final_layer_norm"))
    return f"text_model.{layer.path}" if inside else layer.path
