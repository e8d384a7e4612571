"""Reads the header of a safetensors file with strict caps and without torch; every oddity is refused in one sentence.

A file is 8 bytes of little-endian header length, that many bytes of JSON, then the data. Hostile files lie in all
three: huge lengths, doubled keys (the first is smuggled past scanners), ranges that overlap or leave room for a second
format, a million empty tensors. What is accepted here is a subset of what the reference reader accepts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from farm.errors import BadRequest

MAX_HEADER_BYTES = 8 * 1024 * 1024
MAX_TENSORS = 32_768
MAX_METADATA_BYTES = 4 * 1024 * 1024
MAX_NAME_BYTES = 512
MAX_DIMENSIONS = 5
MAX_DIMENSION = 2**31

#: bytes of one element
DTYPES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

_CONVERT = "only safetensors is accepted; convert it"
_FRESH = "save the file again with the safetensors library, or download it afresh"
#: first bytes of files that people take for safetensors, and what they are
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "this is a pickle file (a zip archive, as torch.save writes it)", _CONVERT),
    (b"PK\x05\x06", "this is an empty zip archive", _CONVERT),
    (b"GGUF", "this is a GGUF file", _CONVERT),
    (b"version ", "this is a Git LFS pointer, not the file itself", "fetch the file with 'git lfs pull'"),
    (b"<", "this is an HTML or XML page", "the download went wrong; fetch the file itself"),
    (b"\x1f\x8b", "this is a gzip archive", "unpack it first; only safetensors is accepted"),
    (b"\x89PNG", "this is a PNG picture", "choose the adapter's .safetensors file"),
)
_PICKLE = tuple(b"\x80" + bytes([protocol]) for protocol in range(1, 6))
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor as the header describes it; `begin` and `end` count bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return (self.end - self.begin) // DTYPES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """All that is known of a file without reading its data."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    #: bytes before the data: 8 and the JSON
    size: int


def read_header(path: Path) -> Header:
    """Header of the file at `path`; reads no data. Raises BadRequest for anything but a sound safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        first += file.read(header_length(first, size))
    return parse_header(first, size)


def header_length(first8: bytes, size: int) -> int:
    """Bytes of JSON behind the first eight of a file of `size` bytes."""
    length = int.from_bytes(first8[:8], "little")
    fits = len(first8) >= 8 and 2 <= length <= min(MAX_HEADER_BYTES, size - 8)
    if not fits:
        _refuse_other_formats(first8)
    if size < 10 or len(first8) < 8:
        _refuse(f"the file has {size} bytes, too few for a safetensors file", _FRESH)
    if length > MAX_HEADER_BYTES:
        _refuse(f"the header says that it has {length} bytes, more than {MAX_HEADER_BYTES}", _FRESH)
    if not fits:
        _refuse(
            f"the header says that it has {length} bytes, but the file has {size}",
            f"it was cut off; {_FRESH}",
        )
    return length


def parse_header(first: bytes, size: int) -> Header:
    """Header of a file of `size` bytes that starts with `first`, which holds at least 8 bytes and the header."""
    length = header_length(first[:8], size)
    raw = first[8 : 8 + length]
    if len(raw) < length:
        _refuse(f"the file ends inside its header, after {len(raw)} of {length} bytes", _FRESH)
    if raw[:1] != b"{":
        _refuse_other_formats(first)
        _refuse(f"the header starts with {raw[:1]!r} and not with '{{'", _FRESH)
    document = _decode(raw)
    metadata = _metadata(document.pop("__metadata__", {}))
    _check_count(len(document))
    tensors = {name: _tensor(name, entry) for name, entry in document.items()}
    _check_ranges(tensors, size - 8 - length)
    return Header(tensors=tensors, metadata=metadata, size=8 + length)


def _decode(raw: bytes) -> dict[str, Any]:
    """JSON with the number of objects, lists, strings and numbers bounded before a parser makes them."""
    _check_count(raw.count(b'"data_offsets"'))
    _check_bones(raw)
    try:
        document = json.loads(raw.decode(), object_pairs_hook=_no_doubles, parse_constant=_no_constants)
    except UnicodeDecodeError as exc:
        _refuse(f"the header is no UTF-8 at byte {8 + exc.start}", _FRESH)
    except RecursionError:
        _refuse("the header nests its values too deeply", _FRESH)
    except ValueError as exc:
        _refuse(f"the header is no JSON ({_short(str(exc))})", _FRESH)
    return dict(document)


def _check_bones(raw: bytes) -> None:
    """Counts brackets and commas outside strings, and stops at the first that is too many; copies nothing."""
    objects = lists = commas = strings = at = 0
    while at < len(raw):
        found = _STRING.search(raw, at)
        end = found.start() if found else len(raw)
        objects += raw.count(b"{", at, end)
        lists += raw.count(b"[", at, end)
        commas += raw.count(b",", at, end)
        strings += 1
        _check_count(objects - 2)  # one object is the whole, one the metadata
        if lists > 2 * objects or commas > 16 * MAX_TENSORS or strings > 16 * MAX_TENSORS:
            _refuse("the header holds more lists or values than its tensors need", _FRESH)
        at = found.end() if found else end


def _check_count(tensors: int) -> None:
    if tensors > MAX_TENSORS:
        _refuse(f"the header lists more than {MAX_TENSORS} tensors", "no adapter has as many")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        _refuse(f"the header names {_short(name)} twice", _FRESH)
    return found


def _no_constants(word: str) -> NoReturn:
    _refuse(f"the header holds {word}, which JSON does not know", _FRESH)


def _metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict):
        _refuse("__metadata__ is no object of strings", _FRESH)
    total = 0
    for key, value in found.items():
        if not isinstance(value, str):
            _refuse(f"__metadata__ entry {_short(key)} is no string", _FRESH)
        total += _bytes(key, "a key of __metadata__") + _bytes(value, f"__metadata__ entry {_short(key)}")
    if total > MAX_METADATA_BYTES:
        _refuse(f"__metadata__ has {total} bytes, more than {MAX_METADATA_BYTES}", "shorten it")
    return found


def _tensor(name: str, entry: Any) -> TensorInfo:
    if not name or _bytes(name, "a tensor's name") > MAX_NAME_BYTES or not name.isprintable():
        _refuse_tensor(name, f"has a name that is empty, longer than {MAX_NAME_BYTES} bytes or not printable")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse_tensor(name, "is not described by dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        _refuse_tensor(name, f"has the unknown dtype {_short(str(dtype))}", "save it as F16, BF16 or F32")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        _refuse_tensor(name, f"has no shape of at most {MAX_DIMENSIONS} dimensions")
    elements = 1
    for dimension in shape:
        if type(dimension) is not int or not 1 <= dimension < MAX_DIMENSION:  # True is an int, too
            _refuse_tensor(
                name, f"has the dimension {_short(str(dimension))}, wanted 1 to {MAX_DIMENSION - 1}"
            )
        elements *= dimension
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or any(type(o) is not int or o < 0 for o in offsets)
    ):
        _refuse_tensor(name, "has data_offsets that are not two counts of bytes")
    begin, end = offsets
    if end - begin != elements * DTYPES[dtype]:
        needed = elements * DTYPES[dtype]
        _refuse_tensor(name, f"has {end - begin} bytes, its shape and dtype need {needed}")
    return TensorInfo(dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _check_ranges(tensors: Mapping[str, TensorInfo], data_bytes: int) -> None:
    """Data is covered exactly once: no gap, no overlap, nothing before, between or behind."""
    if not tensors:
        _refuse("the file holds no tensors", "choose a file with weights")
    expected = 0
    for name, info in sorted(tensors.items(), key=lambda item: item[1].begin):
        if info.begin != expected:
            what = "overlaps the tensor before it" if info.begin < expected else "leaves a gap before it"
            _refuse(
                f"tensor {_short(name)} starts at byte {info.begin} of the data, not {expected}: it {what}",
                _FRESH,
            )
        expected = info.end
    if expected > data_bytes:
        _refuse(
            f"the tensors need {expected} bytes of data, the file has {data_bytes}",
            f"it was cut off; {_FRESH}",
        )
    if expected < data_bytes:
        _refuse(f"{data_bytes - expected} bytes follow behind the last tensor", _FRESH)


def _refuse_other_formats(first: bytes) -> None:
    for magic, what, remedy in _MAGIC:
        if first.startswith(magic):
            _refuse(what, remedy)
    if first.startswith(_PICKLE):
        _refuse(f"this is a pickle file (protocol {first[1]}, as torch.save writes it)", _CONVERT)


def _bytes(text: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        _refuse(f"{where} holds half of a surrogate pair", _FRESH)


def _short(text: str) -> str:
    shown = text if len(text) <= 80 else text[:77] + "…"
    return ascii(shown) if any("\ud800" <= letter <= "\udfff" for letter in shown) else repr(shown)


def _refuse_tensor(name: str, what: str, hint: str = _FRESH) -> NoReturn:
    _refuse(f"tensor {_short(name)} {what}", hint)


def _refuse(message: str, hint: str) -> NoReturn:
    raise BadRequest(message, hint, code="bad_file")
