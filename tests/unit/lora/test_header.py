"""The safetensors header reader: accepts what the library writes, refuses everything else in one sentence."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load as reference_load
from safetensors.torch import save

from farm.errors import BadRequest
from farm.lora.formats.header import MAX_HEADER_BYTES, MAX_TENSORS, parse_header, read_header

GOOD = save({"a.lora_up.weight": torch.ones(4, 2), "a.alpha": torch.tensor(1.0)}, {"ss_output_name": "ink"})


def file(document: Any, data: int = 0, *, text: str | None = None) -> bytes:
    raw = (text if text is not None else json.dumps(document)).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(data)


def tensor(begin: int = 0, end: int = 4, dtype: str = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def parse(raw: bytes) -> Any:
    return parse_header(raw, len(raw))


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(GOOD)
    header = read_header(path)
    assert header == parse(GOOD)
    assert header.metadata == {"ss_output_name": "ink"}
    assert header.tensors["a.lora_up.weight"].shape == (4, 2)
    assert header.tensors["a.alpha"].shape == ()
    assert header.size + max(info.end for info in header.tensors.values()) == len(GOOD)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "0 bytes, too few"),
        (GOOD[:7], "too few"),
        (struct.pack("<Q", 2**63) + b"{}", "more than"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "more than"),
        (struct.pack("<Q", 5000) + b"{}", "cut off"),
        (GOOD[:-1], "cut off"),
        (GOOD + b"x", "1 bytes follow"),
        (file(None, text="[" * 100_000), "starts with b'.'"),
        (file(None, 4, text='{"a":' * 3000), "nests|no JSON"),
        (file(None, text='{"a":' + "[" * 5000 + "]" * 5000 + "}"), "lists"),
        (file(None, 4, text='{"a":' * 40_000), "more than 32768"),
        (file(None, text="{" + "".join(f'"{i}":1,' for i in range(600_000)) + "}"), "values"),
        (file(None, text='{"a":NaN}'), "NaN"),
        (file(None, text='{"a": 1' + "0" * 5000 + "}"), "no JSON"),
        (file({}), "no tensors"),
        (struct.pack("<Q", 4) + b'{"\xff}', "UTF-8"),
        (file({"a": tensor(), "__metadata__": {"x": 1}}, 4), "no string"),
        (file({"a": tensor(), "__metadata__": [1]}, 4), "no object"),
        (file({"__metadata__": {"x": "y" * (5 * 1024 * 1024)}}), "more than 4194304"),
        (file(None, 8, text=f'{{"a":{json.dumps(tensor())},"a":{json.dumps(tensor(4, 8))}}}'), "'a' twice"),
        (file({"a": tensor(0, 4), "b": tensor(2, 6)}, 6), "overlaps"),
        (file({"a": tensor(0, 4), "b": tensor(8, 12)}, 12), "gap"),
        (file({"a": tensor(4, 8)}, 8), "gap"),
        (file({"a": tensor(0, 0, shape=(0,))}), "dimension '0'"),
        (file({"a": tensor(0, 0, shape=(0, 2**62))}), "dimension"),
        (file({"a": tensor(shape=(True,))}, 4), "dimension 'True'"),
        (file({"a": tensor(shape=(1.0,))}, 4), "dimension '1.0'"),
        (file({"a": tensor(shape=(-1, -1))}, 4), "dimension '-1'"),
        (file({"a": tensor(shape=(1,) * 6)}, 4), "at most 5"),
        (file({"a": tensor(shape=(2,))}, 4), "need 8"),
        (file({"a": tensor(dtype="F4")}, 4), "unknown dtype 'F4'"),
        (file({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, 4), "unknown dtype"),
        (file({"a": tensor(False, 4)}, 4), "two counts"),
        (file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, 4), "two counts"),
        (file({"a": {"dtype": "F32", "shape": [1]}}, 4), "alone"),
        (file({"a": {**tensor(), "x": 1}}, 4), "alone"),
        (file({"a": 1}, 4), "alone"),
        (file({"n" * 600: tensor()}, 4), "longer than 512"),
        (file({"a\n": tensor()}, 4), "not printable"),
        (file(None, 4, text=f'{{"\\ud800":{json.dumps(tensor())}}}'), "surrogate"),
        (pickle.dumps({"a": list(range(500))}), "this is a pickle file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00", "GGUF"),
    ],
)  # fmt: skip
def test_refuses_in_one_sentence(raw: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        parse(raw)
    assert caught.value.code == "bad_file"
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_torch_checkpoint_is_called_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(BadRequest, match=r"pickle file \(a zip.*only safetensors is accepted; convert it"):
        read_header(path)


def test_too_many_tensors_are_counted_before_they_are_parsed() -> None:
    entry = json.dumps(tensor(0, 0))
    hidden = entry.replace("data_offsets", "data\\u005foffsets")
    for one in (entry, hidden):
        text = "{" + ",".join(f'"{i}":{one}' for i in range(MAX_TENSORS + 1)) + "}"
        with pytest.raises(BadRequest, match="more than 32768 tensors"):
            parse(file(None, text=text))


def _fields() -> st.SearchStrategy[Any]:
    leaf = st.one_of(
        st.none(), st.booleans(), st.integers(-3, 70), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from(["F32", "F16", "BOOL", "X"]),
    )  # fmt: skip
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "U8", "I64", "X"]),
        "shape": st.lists(st.integers(-1, 4), max_size=6),
        "data_offsets": st.lists(st.integers(0, 40), min_size=1, max_size=3),
    }
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FUZZ
@given(
    st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), ENTRY | _fields(), max_size=4),
    st.integers(0, 64),
)
def test_any_header_is_read_or_refused(document: Any, data: int) -> None:
    _read_or_refuse(file(document, data))


@FUZZ
@given(
    st.binary(max_size=64)
    | st.binary(min_size=2, max_size=80).map(lambda b: struct.pack("<Q", len(b)) + b"{" + b)
)
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    _read_or_refuse(raw)


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(-9, 9)
)
def test_any_mutant_of_a_good_file_is_read_or_refused(changes: list[tuple[int, int]], tail: int) -> None:
    raw = bytearray(GOOD)
    for place, value in changes:
        raw[place] = value
    _read_or_refuse(bytes(raw[:tail]) if tail < 0 else bytes(raw) + bytes(tail))


def _read_or_refuse(raw: bytes) -> None:
    """What we read, the reference reader reads as well, with the same tensors: ours is the stricter one."""
    try:
        header = parse(raw)
    except BadRequest:
        return
    tensors = reference_load(raw)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        n: i.shape for n, i in header.tensors.items()
    }
