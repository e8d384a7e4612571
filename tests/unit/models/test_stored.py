"""Weights read from files are those that diffusers' own loader puts into the modules, for folders and checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from farm.errors import BadRequest
from farm.lora.patcher import layer_module
from farm.models.load import load
from farm.models.stored import open_stored
from tests.support.ldm import tiny_checkpoint
from tests.unit.models.test_load import pretend


@pytest.mark.parametrize("form", ["folder", "checkpoint", "checkpoint with its tokenizer, as a folder"])
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_every_layer_is_found(
    name: str, form: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path: Path = request.getfixturevalue(name)
    if form != "folder":
        pretend("sdxl" if name == "sdxl" else "sd1", path, monkeypatch)
        path = tiny_checkpoint(tmp_path / "one" / "tiny.safetensors", path)
    stored = open_stored(path.parent if "folder" in form and form != "folder" else path)
    model = load(path)
    assert stored.layout.layers.keys() == model.layout.layers.keys()
    for layer in stored.layout.layers.values():
        module = layer_module(model.modules[layer.component], layer)
        for word in ("weight", "bias"):
            wanted, found = getattr(module, word, None), stored.read(layer, word)
            assert (found is None) == (wanted is None), (layer.name, word)
            if found is not None:
                assert isinstance(wanted, torch.Tensor)
                torch.testing.assert_close(found, wanted, rtol=0, atol=0, msg=f"{layer.name}.{word}")


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no diffusers folder"):
        open_stored(tmp_path)
    with pytest.raises(BadRequest, match="no model at"):
        open_stored(tmp_path / "nowhere")
