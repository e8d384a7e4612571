"""All names by which files may call the layers of one component of a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from farm.lora.formats.schemes import (
    auraflow,
    flux1,
    flux2,
    hunyuanvideo,
    ltxv,
    lumina2,
    sana,
    sd3,
    text,
    unet,
    wan,
    zimage,
)
from farm.lora.formats.schemes.address import flatten
from farm.lora.formats.schemes.rows import Row, Target, own, targets
from farm.lora.layout import Layout

#: by family; those that are not here go by diffusers' own names everywhere
_ROWS: Mapping[str, tuple[Row, ...]] = {
    "sd3": sd3.ROWS, "flux1": flux1.ROWS, "chroma": flux1.ROWS, "flux2": flux2.ROWS, "wan": wan.ROWS,
    "zimage": zimage.ROWS, "hunyuanvideo": hunyuanvideo.ROWS, "ltxv": ltxv.ROWS, "lumina2": lumina2.ROWS,
    "auraflow": auraflow.ROWS, "sana": sana.ROWS,
}  # fmt: skip
#: diffusers' own attention with its projections fused
_FUSED: tuple[Row, ...] = (
    Row("{*}.to_qkv", ("{*}.to_q", "{*}.to_k", "{*}.to_v")),
    Row("{*}.to_kv", ("{*}.to_k", "{*}.to_v")),
    Row("{*}.to_added_qkv", ("{*}.add_q_proj", "{*}.add_k_proj", "{*}.add_v_proj")),
)


@lru_cache(maxsize=16)
def name_table(layout: Layout, component: str) -> Mapping[str, Target]:
    """Flattened name -> the rows of our layers that it stands for, for all names of one component. Kept, because a
    model's adapters come one after the other."""
    layers = {layer.path: layer for layer in layout.layers.values() if layer.component == component}
    table: dict[str, Target] = {}
    if component in layout.text_encoders:
        layers = {path.removeprefix("text_model."): layer for path, layer in layers.items()}
        for path, layer in layers.items():
            table[flatten(f"text_model.{path}")] = own(layer)
        rows = text.ROWS
    else:
        for path, other in unet.aliases(layers):
            table.setdefault(flatten(other), own(layers[path]))
        rows = _ROWS.get(layout.family, ()) + _FUSED
    for name, target in targets(layers, rows):
        table.setdefault(flatten(name), target)
    # a layer's own name wins over another layer's alias
    table.update({flatten(path): own(layer) for path, layer in layers.items()})
    return table
