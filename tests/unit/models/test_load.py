"""Models from folders and checkpoint files: ready to sample, named as their layout says, refused in a sentence."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from farm.errors import BadRequest, Permanent
from farm.models import checkpoints, families
from farm.models.layouts import known
from farm.models.load import LoadedModel, dtype_of, load
from tests.support.ldm import tiny_checkpoint


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_modules_are_named_as_the_layout_says(name: str, request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(name))
    assert set(model.modules) == set(model.layout.components)
    for layer in model.layout.layers.values():
        module = model.modules[layer.component].get_submodule(layer.path)
        assert tuple(module.weight.shape) == layer.shape
    parts = (*model.modules.values(), model.vae)
    assert not any(part.training for part in parts)
    assert not any(weight.requires_grad for part in parts for weight in part.parameters())
    assert model.bytes > 3_000_000


def test_dtype(sd15: Path) -> None:
    model = load(sd15, dtype="bfloat16")
    assert {weight.dtype for weight in model.unet.parameters()} == {torch.bfloat16}
    assert model.key() != load(sd15).key()
    assert dtype_of("auto", torch.device("cuda:0")) == torch.bfloat16
    assert dtype_of("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(BadRequest, match="unknown dtype 'float8'"):
        load(sd15, dtype="float8")


def test_weights_that_contradict_the_config_are_refused(sd15: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd15, tmp_path / "model"))
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "conv_in.weight": torch.zeros(16, 4, 5, 5)}, path)
    with pytest.raises(Permanent, match="unet cannot be read"):
        load(folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Permanent, match="unet cannot be read"):
        load(folder)


def pretend(family: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checkpoints of `family` be as small as the tiny model in `folder`."""
    info = families.describe(folder)
    monkeypatch.setitem(known.BY_FAMILY, family, dict(info.configs))
    monkeypatch.setitem(checkpoints._WIDTHS, info.configs["unet"]["cross_attention_dim"], family)


def weights(model: LoadedModel) -> dict[str, torch.Tensor]:
    parts = {**model.modules, "vae": model.vae}
    return {
        f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()
    }


@pytest.mark.parametrize(("name", "family"), [("sd15", "sd1"), ("sdxl", "sdxl")])
def test_a_checkpoint_file_is_the_model_that_it_was_made_of(
    name: str,
    family: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = request.getfixturevalue(name)
    path = tiny_checkpoint(tmp_path / "tiny.safetensors", folder)
    pretend(family, folder, monkeypatch)
    model, origin = load(path), load(folder)
    assert (model.info.format, model.family) == ("ldm", family)
    expected = weights(origin)
    assert set(weights(model)) == set(expected)
    for key, value in weights(model).items():
        assert torch.equal(value, expected[key]), key
    for component, tokenizer in model.tokenizers.items():
        twin = origin.tokenizers[component]
        assert tokenizer("a red fox").input_ids == twin("a red fox").input_ids
        assert tokenizer.pad_token_id == twin.pad_token_id
    assert model.zero_negative == origin.zero_negative
    assert load(path.parent).key() == model.key()


def test_changed_weights_do_not_reach_the_files(sd15: Path, tmp_path: Path) -> None:
    """Loaders may map files into memory; patching writes into weights in place, and the files are a shared cache's."""
    folder = Path(shutil.copytree(sd15, tmp_path / "model"))
    files = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    model = load(folder)
    for part in (*model.modules.values(), model.vae):
        for weight in part.parameters():
            weight.fill_(1.0)
    assert {path: path.read_bytes() for path in files} == files
    again = load(folder)
    assert not torch.equal(again.unet.conv_in.weight, model.unet.conv_in.weight)
