"""Naming schemes of adapter files: which scheme a file uses, and by which names it may call a layer. Tables, no guessing.

Names are compared flattened (dots become underscores), from the layer's side: un-flattening is ambiguous. A UNet's
layers also answer to their LDM names (`input_blocks.4.1…`), a CLIP encoder's with and without the `text_model.` level.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from farm.lora.layout import Layout

#: stands for every denoiser of a layout, whatever it is called there
DENOISER = "denoiser"

#: first row that any key of the file fits
_SCHEMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("kohya-oft", r"^oft_unet_"),
        ("musubi", r"^lora_unet__?blocks_\d+_(self_attn|cross_attn|ffn)"),
        ("kohya", r"^lora_(unet|te\d?|transformer|prior)_"),
        ("lycoris", r"^lycoris_"),
        ("xlabs", r"(double|single)_blocks\.\d+\.processor\."),
        ("bfl-control", r"img_in\.lora_A"),
        ("old-processor", r"\.(processor\.)?to_(q|k|v|out)_lora\."),
        ("old-diffusers", r"\.lora\.(up|down)\.weight$|\.lora_linear_layer\."),
        ("bfl", r"(double|single)_blocks\.\d+\."),
        ("diffusers", r"^(unet|transformer(_2)?|text_encoder(_[23])?)\."),
        ("peft", r"^base_model\.model\."),
    )
)

#: start of a flat (kohya) module name -> component; longer ones first
_FLAT: tuple[tuple[str, str], ...] = (
    ("lora_prior_unet_", DENOISER),
    ("lora_prior_te_", "text_encoder"),
    ("lora_transformer_", DENOISER),
    ("lora_unet__", DENOISER),
    ("lora_unet_", DENOISER),
    ("oft_unet_", DENOISER),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te3_", "text_encoder_3"),
    ("lora_te_", "text_encoder"),
    ("lycoris_", DENOISER),
)

#: start of a dotted module name -> component; "" for wrappers that say nothing; taken off one after another
_DOTTED: tuple[tuple[str, str], ...] = (
    ("base_model.model.", ""),
    ("model.diffusion_model.", DENOISER),
    ("diffusion_model.", DENOISER),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("conditioner.embedders.0.transformer.", "text_encoder"),
    ("cond_stage_model.transformer.", "text_encoder"),
    ("unet.", DENOISER),
    ("transformer_2.", "transformer_2"),
    ("transformer.", DENOISER),
    ("text_encoder_4.", "text_encoder_4"),
    ("text_encoder_3.", "text_encoder_3"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
)

#: parts of a UNet outside its blocks: ours -> LDM's
_LDM_TOP: Mapping[str, str] = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_LDM_RESNET: Mapping[str, str] = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_LDM_MID: Mapping[str, str] = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")
_MID = re.compile(r"^mid_block\.((?:resnets|attentions)\.\d+)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a module name of a file points: a component (DENOISER, a text encoder, "" for unsaid) and a path in it."""

    component: str
    path: str

    @property
    def flat(self) -> str:
        return flatten(self.path)


def flatten(path: str) -> str:
    return path.replace(".", "_")


def scheme_of(keys: Iterable[str]) -> str:
    """Name of the naming scheme of a file with these tensor names; `plain` when nothing tells."""
    names = tuple(keys)
    return next((scheme for scheme, sign in _SCHEMES if any(sign.search(key) for key in names)), "plain")


def address(module: str) -> Address:
    """Component and path of a module name.

    >>> address("lora_te1_text_model_encoder_layers_0_mlp_fc1")
    Address(component='text_encoder', path='text_model_encoder_layers_0_mlp_fc1')
    >>> address("base_model.model.unet.conv_in")
    Address(component='denoiser', path='conv_in')
    """
    for prefix, component in _FLAT:
        if module.startswith(prefix):
            return Address(component, module.removeprefix(prefix))
    found, path = "", module
    while step := next(((p, c) for p, c in _DOTTED if path.startswith(p)), None):
        prefix, component = step
        found, path = found or component, path.removeprefix(prefix)
    return Address(found, path)


def components(layout: Layout, wanted: str) -> tuple[str, ...]:
    """The components of a layout that an address may mean, the likeliest first."""
    if wanted == DENOISER:
        return layout.denoisers
    if wanted:
        return (wanted,) if wanted in layout.components else ()
    return layout.denoisers + layout.text_encoders


def name_table(layout: Layout, component: str) -> Mapping[str, str]:
    """Flattened name -> layer name, for all names by which files call the layers of one component."""
    layers = {layer.path: layer.name for layer in layout.layers.values() if layer.component == component}
    table: dict[str, str] = {}
    for path, other in _aliases(tuple(layers)):
        table.setdefault(flatten(other), layers[path])
    # a layer's own name wins over another layer's alias
    table.update({flatten(path): name for path, name in layers.items()})
    return table


def _aliases(paths: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(path, other name) for each other name of a layer."""
    blocks = _ldm_blocks(paths)
    for path in paths:
        if path.startswith("text_model."):
            yield path, path.removeprefix("text_model.")
        elif path.startswith(("encoder.layers.", "embeddings.", "final_layer_norm")):
            yield path, f"text_model.{path}"
        elif path in _LDM_TOP:
            yield path, _LDM_TOP[path]
        elif mid := _MID.match(path):
            yield path, _inside(f"middle_block.{_LDM_MID.get(mid[1], mid[1])}", path[mid.end() :], mid[1])
        elif (block := _BLOCK.match(path)) and block[0] in blocks:
            for start in blocks[block[0]]:
                yield path, _inside(start, path[block.end() :], block[3])


def _inside(start: str, rest: str, kind: str) -> str:
    """LDM name of a layer inside a block's part that LDM calls `start`."""
    if kind.startswith("resnets"):
        return f"{start}.{_LDM_RESNET.get(rest[1:], rest[1:])}"
    return start + (".op" if kind == "downsamplers" else rest)


def _ldm_blocks(paths: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """`down_blocks.1.resnets.0` -> (`input_blocks.4.0`,) for every part of every block, whatever their number."""
    parts = dict.fromkeys(found[0] for path in paths if (found := _BLOCK.match(path)))
    at = {
        (found[1], int(found[2]), found[3], int(found[4])) for part in parts if (found := _BLOCK.match(part))
    }
    table: dict[str, tuple[str, ...]] = {}
    for side, ldm, sampler in (
        ("down", "input_blocks", "downsamplers"),
        ("up", "output_blocks", "upsamplers"),
    ):
        count = 1 if side == "down" else 0  # input_blocks.0 is conv_in
        for block in sorted({index for s, index, _, _ in at if s == side}):
            start = f"{side}_blocks.{block}"
            for j in sorted({j for s, b, kind, j in at if (s, b, kind) == (side, block, "resnets")}):
                table[f"{start}.resnets.{j}"] = (f"{ldm}.{count}.0",)
                table[f"{start}.attentions.{j}"] = (f"{ldm}.{count}.1",)
                count += 1
            if (side, block, sampler, 0) in at and side == "down":
                table[f"{start}.{sampler}.0"] = (f"{ldm}.{count}.0",)
                count += 1
            elif (side, block, sampler, 0) in at:
                # behind resnet and attention; LyCORIS writes 2 also where there is no attention
                place = 2 if (side, block, "attentions", 0) in at else 1
                names = (f"{ldm}.{count - 1}.{place}", f"{ldm}.{count - 1}.2")
                table[f"{start}.{sampler}.0"] = tuple(dict.fromkeys(names))
    return table
