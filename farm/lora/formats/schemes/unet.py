"""LDM names of the layers of a UNet (`input_blocks.4.1…`): its numbering runs through all blocks, so it is counted from
the model's own layers and not written down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

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


def aliases(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(path, LDM name) for each LDM name of each layer."""
    paths = tuple(paths)
    blocks = _ldm_blocks(paths)
    for path in paths:
        if path in _LDM_TOP:
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
