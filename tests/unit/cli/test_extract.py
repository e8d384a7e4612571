"""`farm lora extract` and `farm lora merge` on checkpoint files: what is written, and how mistakes are told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from farm.models import checkpoints, families
from farm.models.layouts import known
from farm.models.stored import open_stored
from tests.support.ldm import tiny_checkpoint
from tests.support.tiny import tiny_lora, tiny_sd15, tiny_sdxl
from tests.unit.cli.conftest import Farm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def ink(tmp_path: Path, model: Path) -> Path:
    return tiny_lora(tmp_path / "ink.safetensors", model, 1)


@pytest.fixture
def gold(tmp_path: Path, model: Path) -> Path:
    return tiny_lora(tmp_path / "gold.safetensors", model, 2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for name in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        found |= {f"{name}:{k}": t for k, t in load_file(folder / f"{name}.safetensors").items()}
    return found


def test_an_extraction_merged_is_both_adapters_merged(
    farm: Farm, model: Path, ink: Path, gold: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both.safetensors"
    answer = farm(
        "lora", "extract", "--model", str(model), "--lora", f"{ink}:0.8", "--lora", f"{gold}:-0.5", "--energy", "1",
        "--out", str(both), "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    report = answer.json()
    assert report["total"]["error"] < 1e-6
    assert report["total"]["rank_max"] == 4
    assert len(report["layers"]) == report["total"]["layers"] == report["adapters"][0]["layers"]
    assert [row["strength"] for row in report["adapters"]] == [0.8, -0.5]
    once, twice = tmp_path / "once", tmp_path / "twice"
    farm("lora", "merge", "--model", str(model), "--lora", str(both), "--out", str(once))
    farm(
        "lora",
        "merge",
        "--model",
        str(model),
        "--lora",
        f"{ink}:0.8",
        "--lora",
        f"{gold}:-0.5",
        "--out",
        str(twice),
    )
    expected = weights(twice)
    for key, tensor in weights(once).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-5)


def test_what_was_left_out_is_told(farm: Farm, model: Path, ink: Path, gold: Path, tmp_path: Path) -> None:
    answer = farm(
        "lora", "extract", "--model", str(model), "--lora", str(ink), "--lora", str(gold), "--rank", "1",
        "--out", str(tmp_path / "both.safetensors"),
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "rank 1: kept" in answer.out
    assert "least exact layers" in answer.out


def test_the_difference_of_two_models(farm: Farm, model: Path, ink: Path, tmp_path: Path) -> None:
    tuned, out = tmp_path / "tuned", tmp_path / "tuned.safetensors"
    farm("lora", "merge", "--model", str(model), "--lora", str(ink), "--out", str(tuned))
    answer = farm(
        "lora",
        "extract",
        "--model",
        str(model),
        "--from",
        str(tuned),
        "--rank",
        "2",
        "--out",
        str(out),
        "--json",
    )
    assert answer.code == 0, answer.err
    # the adapter has rank 2, so nothing but the rounding of the merged weights is lost
    assert answer.json()["total"]["error"] < 1e-4
    assert farm("lora", "inspect", str(out), "--json").json()["ranks"] == [2]


def small_checkpoint(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    info = families.describe(folder)
    monkeypatch.setitem(known.BY_FAMILY, info.family, dict(info.configs))
    monkeypatch.setitem(checkpoints._WIDTHS, info.configs["unet"]["cross_attention_dim"], info.family)
    file = tiny_checkpoint(path, folder)
    shutil.rmtree(path.parent / "tokenizer")  # a merge needs none
    return file


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl])
def test_a_checkpoint_file_becomes_a_checkpoint_file(
    farm: Farm, make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's merge, which diffusers judges elsewhere, written into a file by the tests' own table of names."""
    assert callable(make)
    family = "sdxl" if make is tiny_sdxl else "sd1"
    folder: Path = make(tmp_path / "folder", family=family)
    lora = tiny_lora(tmp_path / "ink.safetensors", folder, 1)
    file = small_checkpoint(folder, tmp_path / "one" / "base.safetensors", monkeypatch)
    merged = tmp_path / "merged.safetensors"
    answer = farm(
        "lora", "merge", "--model", str(file), "--lora", f"{lora}:0.7", "--out", str(merged), "--json"
    )
    assert answer.code == 0, answer.err
    assert set(answer.json()["components"]) == {x.component for x in open_stored(file).layout.layers.values()}
    farm("lora", "merge", "--model", str(folder), "--lora", f"{lora}:0.7", "--out", str(tmp_path / "wanted"))
    wanted = load_file(tiny_checkpoint(tmp_path / "two" / "wanted.safetensors", tmp_path / "wanted"))
    found, before = load_file(merged), load_file(file)
    assert found.keys() == wanted.keys()
    changed = 0
    for key, tensor in wanted.items():
        torch.testing.assert_close(
            found[key], tensor, rtol=0, atol=1e-6, msg=lambda text, k=key: f"{k}: {text}"
        )
        changed += not torch.equal(tensor, before[key])
    assert changed > 50
    with safe_open(merged, "pt") as opened:
        said = opened.metadata()
    assert said["modelspec.title"] == "merged"
    assert said["modelspec.merged_from"] == "ink.safetensors"
    assert '"strength": "0.7"' in said["farm.sources"]
    assert len(said["sshs_model_hash"]) == 64


def test_a_merge_keeps_dtypes_and_writes_what_it_was_made_of(
    farm: Farm, model: Path, ink: Path, tmp_path: Path
) -> None:
    half, out = tmp_path / "half", tmp_path / "out"
    shutil.copytree(model, half)
    path = "unet/diffusion_pytorch_model.safetensors"
    save_file(
        {k: t.half() for k, t in load_file(half / path).items()},
        half / path,
        {"format": "pt", "note": "mine"},
    )
    assert farm("lora", "merge", "--model", str(half), "--lora", str(ink), "--out", str(out)).code == 0
    with safe_open(out / path, "pt") as opened:
        said = opened.metadata()
        assert {opened.get_tensor(key).dtype for key in opened.keys()} == {torch.float16}  # noqa: SIM118
    assert (said["format"], said["note"]) == ("pt", "mine")
    assert said["modelspec.architecture"] == "farm-demo"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--lora", "INK", "--rank", "0"], "rank is 0"),
        (["--lora", "INK", "--rank", "4", "--energy", "0.9"], "both rank and energy"),
        (["--lora", "INK"], "neither rank nor energy"),
        (["--lora", "INK", "--energy", "2"], "energy is 2"),
        (["--rank", "4"], "neither --lora nor --from"),
        (["--lora", "INK", "--from", "MODEL", "--rank", "4"], "--lora and --from together"),
        (["--from", "MODEL", "--rank", "4"], "nothing to extract"),
        (["--lora", "nowhere.safetensors", "--rank", "4"], "does not exist"),
        (["--lora", "INK:much", "--rank", "4"], "is no strength"),
    ],
)
def test_a_wrong_extraction_is_code_2_one_line_and_no_file(
    farm: Farm, model: Path, ink: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    named = [word.replace("INK", str(ink)).replace("MODEL", str(model)) for word in words]
    out = tmp_path / "out.safetensors"
    answer = farm("lora", "extract", "--model", str(model), "--out", str(out), *named)
    assert answer.code == 2
    assert told in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not out.exists()


def test_nothing_is_written_over(farm: Farm, model: Path, ink: Path, tmp_path: Path) -> None:
    before = ink.read_bytes()
    common = ("--model", str(model), "--lora", str(ink))
    for words in (
        ("extract", *common, "--rank", "2", "--out", str(ink)),
        ("merge", *common, "--out", str(model)),
    ):
        answer = farm("lora", *words)
        assert answer.code == 2
        assert "exists already" in answer.err
    assert ink.read_bytes() == before


def test_an_adapter_for_another_model_is_refused(farm: Farm, ink: Path, tmp_path: Path) -> None:
    other = tiny_sdxl(tmp_path / "xl")
    answer = farm(
        "lora",
        "extract",
        "--model",
        str(other),
        "--lora",
        str(ink),
        "--rank",
        "2",
        "--out",
        str(tmp_path / "x.safetensors"),
    )
    assert answer.code == 2
    assert "ink" in answer.err
