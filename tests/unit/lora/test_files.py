"""Files that we write are those that the safetensors library would: same tensors, a hash of the data, all or nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from farm.errors import BadRequest
from farm.lora.files import write_file
from farm.lora.formats.header import read_header

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).view(2, 3),
    "a": torch.arange(5, dtype=torch.float16),
    "Füchse": torch.randn(3, 4).bfloat16(),
    "turned": torch.arange(12.0).view(3, 4).T,
    "scalar": torch.tensor(4.0),
    "count": torch.tensor([2**40]),
}


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.safetensors"
    write_file(path, TENSORS, {"title": "Füchse"})
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    read_header(path)  # our own reader is stricter: no gap, no overlap
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert said["title"] == "Füchse"
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    assert start % 8 == 0
    assert said["sshs_model_hash"] == hashlib.sha256(raw[start:]).hexdigest()
    save_file(
        {name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "theirs.safetensors"
    )
    theirs = (tmp_path / "theirs.safetensors").read_bytes()
    assert theirs[8 + int.from_bytes(theirs[:8], "little") :] == raw[start:]


def test_nothing_is_written_over_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("mine")
    with pytest.raises(BadRequest, match="exists already"):
        write_file(path, TENSORS, {})
    assert path.read_text() == "mine"
    with pytest.raises(KeyError):
        write_file(tmp_path / "y.safetensors", {"x": torch.zeros(2, dtype=torch.complex64)}, {})
    assert [found.name for found in tmp_path.iterdir()] == ["x.safetensors"]
