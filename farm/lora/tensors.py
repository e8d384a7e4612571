"""Loads an adapter's file: mapped into memory, matched to a layout, each layer's tensors made into a Delta."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.algorithms.table import READERS
from farm.lora.delta import Delta, LayerTensors
from farm.lora.formats.header import Header, read_header
from farm.lora.formats.inspect import AdapterInfo, inspect
from farm.lora.formats.match import LayerFile, check, match
from farm.lora.formats.metadata import PeftConfig, peft_config, peft_configs
from farm.lora.formats.schemes import DENOISER, address
from farm.lora.layout import Layer, Layout
from farm.lora.parts import part_of

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
#: peft writes about a thousand
_MAX_CONFIG_LETTERS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A file's content, ready to be applied to models of one layout. Shared between jobs: nobody changes it."""

    #: content of the file, when the caller knows it
    sha256: str | None
    #: by layer name
    deltas: Mapping[str, Delta]
    #: memory that the deltas keep
    bytes: int
    info: AdapterInfo
    #: modules of the file that the layout lacks
    missed: tuple[str, ...]
    #: sentences for a job's log
    warnings: tuple[str, ...]


class MappedFile:
    """The tensors of a safetensors file as views of the mapped file; a context manager."""

    def __init__(self, path: Path, header: Header | None = None) -> None:
        self.header = header or read_header(path)
        with path.open("rb") as file:
            # a private mapping: torch wants writable memory, though nobody writes
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """The mapping lives as long as a view of it does; nothing to close by hand."""

    def tensor(self, key: str) -> Tensor:
        """The tensor `key` in the dtype of the file; valid as long as it is referenced."""
        info = self.header.tensors[key]
        dtype = DTYPES[info.dtype]
        begin = self.header.size + info.begin
        if begin % dtype.itemsize:
            aligned = torch.frombuffer(
                bytearray(self._map[begin : begin + info.end - info.begin]), dtype=torch.uint8
            )
            return aligned.view(dtype).view(info.shape)
        return torch.frombuffer(self._map, dtype=dtype, count=info.elements, offset=begin).view(info.shape)


def load(path: Path, layout: Layout, *, sha256: str | None = None, name: str = "") -> Adapter:
    """The adapter in the file at `path` for models of `layout`.

    Raises BadRequest when the file is damaged, made for another model, or uses what Farm cannot apply. `name` is what
    messages call it.
    """
    header = read_header(path)
    configs = peft_configs(header.metadata) or _neighbour(path)
    info = inspect(header, path.name, configs)
    found = match(header.tensors, header.metadata, layout)
    warnings = check(info, found, layout, name or path.stem)
    lycoris = "lycoris" in header.metadata.get("ss_network_module", "").lower()
    deltas: dict[str, Delta] = {}
    notes: dict[str, list[str]] = {}
    #: by module: one module of a file may change several layers, of both experts
    whole: dict[str, Delta] = {}
    with MappedFile(path, header) as file:
        for layer_name, tensors in found.layers.items():
            layer = layout.layers[layer_name]
            if tensors.module not in whole:
                whole[tensors.module] = READERS[tensors.algorithm](
                    _layer_tensors(file, layer, tensors, configs, lycoris, notes)
                )
            delta = whole[tensors.module]
            if tensors.pieces:
                delta = part_of(delta, layer_name, tensors.pieces, tensors.shape)
            deltas[layer_name] = delta
    return Adapter(
        sha256=sha256,
        deltas=deltas,
        bytes=_bytes(whole.values()),
        info=info,
        missed=found.missed,
        warnings=(*warnings, *_sentences(notes)),
    )


def _layer_tensors(
    file: MappedFile,
    layer: Layer,
    tensors: LayerFile,
    configs: Mapping[str, PeftConfig],
    lycoris: bool,
    notes: dict[str, list[str]],
) -> LayerTensors:
    keys = tensors.keys
    at = address(tensors.module)
    # a file for one expert calls it `transformer`, whichever it is
    names = (layer.component, *(("transformer", "unet") if at.component in ("", DENOISER) else ()), "")
    config = next((configs[name] for name in names if name in configs), None)

    def raw(suffix: str) -> Tensor | None:
        return file.tensor(keys[suffix]) if suffix in keys else None

    def warn(sentence: str) -> None:
        notes.setdefault(sentence, []).append(tensors.module)

    return LayerTensors(
        module=tensors.module,
        algorithm=tensors.algorithm,
        shape=tensors.shape,
        has_bias=layer.bias,
        raw=raw,
        path=at.path,
        peft=config,
        zero_alpha_is_rank=lycoris,
        warn=warn,
    )


def _sentences(notes: Mapping[str, list[str]]) -> list[str]:
    """One warning for each thing to know, however many modules it is about."""
    more = {
        sentence: f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        for sentence, found in notes.items()
    }
    return [f"{found[0]}{more[sentence]}: {sentence}" for sentence, found in notes.items()]


def _neighbour(path: Path) -> Mapping[str, PeftConfig]:
    """peft's own folder: the configuration lies beside the file."""
    config = path.with_name("adapter_config.json")
    if path.name != "adapter_model.safetensors" or not config.is_file():
        return {}
    try:
        with config.open(encoding="utf-8") as file:
            found = json.loads(file.read(_MAX_CONFIG_LETTERS))
    except (ValueError, RecursionError) as exc:
        raise BadRequest(
            f"{config.name} beside {path.name} is no JSON", "save the adapter again", code="bad_file"
        ) from exc
    return {"": peft_config(found)} if isinstance(found, dict) else {}


def _bytes(deltas: Iterable[Delta]) -> int:
    kept = (tensor for delta in deltas for tensor in (*delta.tensors(), delta.bias, delta.bias_factor))
    return sum(tensor.numel() * tensor.element_size() for tensor in kept if tensor is not None)
