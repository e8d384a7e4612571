"""Models from folders and checkpoint files: ready to sample, named as their layout says, refused in a sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2 as sentencepiece

from farm.errors import BadRequest, FarmError, Permanent
from farm.models import checkpoints, families
from farm.models.layouts import known
from farm.models.load import LoadedModel, dtype_of, load
from tests.support import tiny_pipelines
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


@pytest.fixture(scope="module")
def ltxv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.write("ltxv", tmp_path_factory.mktemp("ltxv"))


def test_a_model_without_a_unet_is_a_pipeline(ltxv: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load(ltxv, dtype="bfloat16")
    assert "Loading" not in capfd.readouterr().err
    assert (model.family, type(model.pipeline).__name__, model.unet) == ("ltxv", "LTXPipeline", None)
    assert model.modules == {
        "text_encoder": model.pipeline.text_encoder, "transformer": model.pipeline.transformer,
    }  # fmt: skip
    for part in (*model.modules.values(), model.vae):
        assert not part.training
        assert not any(weight.requires_grad for weight in part.parameters())
    assert {weight.dtype for weight in model.modules["transformer"].parameters()} == {torch.bfloat16}
    assert model.bytes > 300_000
    assert model.key() != load(ltxv).key()


def test_files_of_a_pipeline_that_are_damaged_are_named(ltxv: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ltxv, tmp_path / "model"))
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Permanent, match="model cannot be read"):
        load(folder)


def test_code_in_a_pipelines_folder_is_not_run(ltxv: Path, tmp_path: Path) -> None:
    """diffusers would take a component's class from a file of that name, and a pipeline's from `pipeline.py`."""
    folder = Path(shutil.copytree(ltxv, tmp_path / "model"))
    trap = "from pathlib import Path\nPath(__file__).with_name('sprung').touch()\nclass Trap: pass\n"
    (folder / "pipeline.py").write_text(trap)
    (folder / "scheduler" / "trap.py").write_text(trap)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["trap", "Trap"]}))
    with pytest.raises(FarmError):
        load(folder)
    assert not list(folder.rglob("sprung"))


def test_a_vocabulary_of_sentencepiece_alone_will_do(ltxv: Path, tmp_path: Path) -> None:
    """LTX-Video's own folder has no tokenizer.json."""
    folder = Path(shutil.copytree(ltxv, tmp_path / "model"))
    expected = load(folder).pipeline.tokenizer
    vocabulary = sentencepiece.ModelProto()
    vocabulary.trainer_spec.unk_id = 2
    for piece, score in json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]:
        kind = {"<unk>": 2, "<pad>": 3, "</s>": 3}.get(piece, 1)
        vocabulary.pieces.add(piece=piece, score=score, type=kind)
    (folder / "tokenizer" / "spiece.model").write_bytes(vocabulary.SerializeToString())
    (folder / "tokenizer" / "tokenizer.json").unlink()
    for text in ("a red fox", "the hill!"):
        assert load(folder).pipeline.tokenizer(text).input_ids == expected(text).input_ids


def test_a_processor_of_pictures_and_text_gives_its_tokenizer(tmp_path: Path) -> None:
    """Flux.2's own folder names a PixtralProcessor, whose half for pictures needs more than there is."""
    folder = tiny_pipelines.write("flux2", tmp_path)
    expected = load(folder).pipeline.encode_prompt("a red fox")[0]
    index = json.loads((folder / "model_index.json").read_text())
    changed = {**index, "tokenizer": ["transformers", "PixtralProcessor"]}
    (folder / "model_index.json").write_text(json.dumps(changed))
    (folder / "tokenizer" / "processor_config.json").write_text(
        json.dumps({"processor_class": "PixtralProcessor", "patch_size": 14})
    )
    pipeline = load(folder).pipeline
    assert torch.equal(pipeline.encode_prompt("a red fox")[0], expected)
    assert not torch.equal(pipeline.encode_prompt("blue house")[0], expected)
