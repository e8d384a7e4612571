"""A model's weights where they lie in its files: read layer by layer without loading the model, and told where to write.

A diffusers folder has a file (or shards) for each component; a checkpoint has all of them under LDM's names, where
OpenCLIP's encoder keeps query, key and value in one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from farm.lora.formats.header import read_header
from farm.lora.formats.match import layer_finder
from farm.lora.formats.schemes import address
from farm.lora.layout import Layer, Layout
from farm.lora.tensors import MappedFile
from farm.models import checkpoints, families, folders
from farm.models.layouts import known

_WORDS = ("weight", "bias")
_OPEN_CLIP = "conditioner.embedders.1.model."
_OPEN_CLIP_PARTS: Mapping[str, str] = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
_OPEN_CLIP_TOP: Mapping[str, tuple[str, str]] = {
    "token_embedding.weight": ("text_model.embeddings.token_embedding", "weight"),
    "positional_embedding": ("text_model.embeddings.position_embedding", "weight"),
    "ln_final.weight": ("text_model.final_layer_norm", "weight"),
    "ln_final.bias": ("text_model.final_layer_norm", "bias"),
    "text_projection": ("text_projection", "weight"),
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a layer's weight or bias stands."""

    #: relative to the model; the file itself for a checkpoint
    file: str
    key: str
    #: rows of a tensor that several layers share
    rows: slice | None = None
    #: stored transposed
    turned: bool = False

    def cut(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The layer's part of the stored tensor, in the layer's shape: a view."""
        part = tensor if self.rows is None else tensor[self.rows]
        return (part.T if self.turned else part).reshape(shape)

    def put(self, tensor: Tensor, value: Tensor) -> None:
        """Write the layer's part into the stored tensor."""
        part = tensor if self.rows is None else tensor[self.rows]
        part.copy_((value.T if self.turned else value).reshape(part.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model's files, mapped into memory."""

    path: Path
    family: str
    #: `diffusers` or `ldm`
    format: str
    layout: Layout
    files: Mapping[str, MappedFile]
    #: by (layer name, `weight` or `bias`)
    places: Mapping[tuple[str, str], Place]

    def read(self, layer: Layer, word: str) -> Tensor | None:
        """The weight or bias of `layer` in the file's dtype; None when the model has none."""
        place = self.places.get((layer.name, word))
        if place is None:
            return None
        shape = layer.shape if word == "weight" else layer.shape[:1]
        return place.cut(self.files[place.file].tensor(place.key), shape)


def open_stored(path: Path) -> StoredModel:
    """The diffusers folder or single-file checkpoint at `path`; no weight is read yet.

    Raises:
        BadRequest: it cannot be used, see `families.describe`. A checkpoint needs no tokenizer here.
    """
    info = None if path.is_file() else families.describe(path)
    if info is not None and info.format == "diffusers":
        layout = families.layout(info.family, info.configs)
        names = [name for name in folders.read_folder(path).files if name.endswith(".safetensors")]
        files = {name: MappedFile(path / name) for name in names if name.split("/")[0] in layout.components}
        places = dict(_in_folder(files, layout))
        return StoredModel(
            path=path, family=info.family, format="diffusers", layout=layout, files=files, places=places
        )
    file = families.checkpoint_in(path)
    family, _ = checkpoints.read_checkpoint(file)
    layout = families.layout(family, known.BY_FAMILY[family])
    mapped = MappedFile(file, read_header(file))
    places = dict(_in_checkpoint(file.name, mapped, layout))
    return StoredModel(
        path=file, family=family, format="ldm", layout=layout, files={file.name: mapped}, places=places
    )


def _in_folder(files: Mapping[str, MappedFile], layout: Layout) -> Iterator[tuple[tuple[str, str], Place]]:
    """Some versions of transformers have a `text_model` level, some do not; the file decides."""
    held = {(name.split("/")[0], key): name for name, file in files.items() for key in file.header.tensors}
    for layer in layout.layers.values():
        bare = layer.path.removeprefix("text_model.")
        for word in _WORDS:
            for path in (layer.path, bare, f"text_model.{bare}"):
                key = f"{path}.{word}"
                if (layer.component, key) in held:
                    yield (layer.name, word), Place(file=held[layer.component, key], key=key)
                    break


def _in_checkpoint(name: str, file: MappedFile, layout: Layout) -> Iterator[tuple[tuple[str, str], Place]]:
    find = layer_finder(layout)
    for key in file.header.tensors:
        if key.startswith(_OPEN_CLIP):
            yield from _of_open_clip(name, key, layout)
            continue
        module, _, word = key.rpartition(".")
        if word in _WORDS and address(module).component and (layer := find(module)) is not None:
            yield (layer.name, word), Place(file=name, key=key)


def _of_open_clip(name: str, key: str, layout: Layout) -> Iterator[tuple[tuple[str, str], Place]]:
    inside = key.removeprefix(_OPEN_CLIP)
    found: list[tuple[str, str, slice | None]] = []
    if inside in _OPEN_CLIP_TOP:
        found.append((*_OPEN_CLIP_TOP[inside], None))
    elif match := _BLOCK.fullmatch(inside):
        number, part, word = match.groups()
        base = f"text_model.encoder.layers.{number}"
        if part in _OPEN_CLIP_PARTS:
            found.append((f"{base}.{_OPEN_CLIP_PARTS[part]}", word, None))
        elif part == "attn.in_proj":
            for i, projection in enumerate(("q_proj", "k_proj", "v_proj")):
                path = f"{base}.self_attn.{projection}"
                layer = layout.layers.get(f"text_encoder_2.{path}")
                rows = layer.shape[0] if layer else 0
                found.append((path, word, slice(i * rows, (i + 1) * rows)))
    for path, word, part_rows in found:
        if f"text_encoder_2.{path}" in layout.layers:
            turned = path == "text_projection"
            yield (f"text_encoder_2.{path}", word), Place(file=name, key=key, rows=part_rows, turned=turned)
