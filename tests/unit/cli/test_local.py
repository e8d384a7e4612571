"""Commands that need no farm: explain, inspect, merge; and how mistakes are told."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.support.tiny import tiny_lora, tiny_sd15
from tests.unit.cli.conftest import Farm


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_sd15(tmp_path / "model")


@pytest.fixture
def lora(tmp_path: Path, model: Path) -> Path:
    return tiny_lora(tmp_path / "ink.safetensors", model)


def test_explain_with_the_prompt_alone(farm: Farm) -> None:
    answer = farm(
        "loras", "explain", "a fox <lora:any:te=0.1@1,0.6@6>", "--prompt-only", "--steps", "8", "--json"
    )
    assert answer.code == 0
    strengths = answer.json()["adapters"][0]["strengths"]
    assert strengths["text_encoder"]["all"] == [0.1] * 5 + [0.6] * 3
    assert set(strengths["unet"]) == {"in", "mid", "out"}
    assert answer.json()["prompt"] == "a fox"


def test_explain_of_a_second_pass(farm: Farm) -> None:
    answer = farm(
        "loras",
        "explain",
        "a fox <lora:any:0.8:hrunet=0@1,1@2>",
        "--prompt-only",
        "--steps",
        "3",
        "--hr",
        "--json",
    )
    strengths = answer.json()["adapters"][0]["strengths"]
    assert strengths["text_encoder"]["all"] == [0.8] * 3
    assert strengths["unet"]["mid"] == [0.0, 1.0, 1.0]


def test_explain_a_folder_and_a_file(farm: Farm, model: Path, lora: Path) -> None:
    answer = farm(
        "loras", "explain", "a fox <lora:ink:1:in=0:mid=1:out=0.5>", "--model", str(model), "--lora", str(lora),
        "--steps", "4", "--json",
    )  # fmt: skip
    adapter = answer.json()["adapters"][0]
    assert adapter["type"] == "lora"
    assert adapter["strengths"]["unet"] == {"in": [0.0] * 4, "mid": [1.0] * 4, "out": [0.5] * 4}


def test_explain_for_people_names_spans_of_steps(farm: Farm) -> None:
    answer = farm("loras", "explain", "a fox <lora:any:0.2@1,0.9@4>", "--prompt-only", "--steps", "6")
    assert "0.2 (1-3)  0.9 (4-6)" in answer.out


def test_a_wrong_curve_is_one_line_and_code_2(farm: Farm) -> None:
    answer = farm("loras", "explain", "a fox <lora:ink:0.5@@3>", "--prompt-only")
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) == 1
    assert "column" in answer.err


def test_errors_as_json_name_tag_item_and_column(farm: Farm) -> None:
    answer = farm("loras", "explain", "a fox <lora:ink:strong>", "--prompt-only", "--json")
    assert answer.code == 2
    (error,) = answer.json()["errors"]
    assert error["tag"] == "<lora:ink:strong>"
    assert error["item"] == "strong"
    assert error["column"] == 17
    assert error["message"]


def test_an_unknown_adapter_is_told_with_a_near_name(farm: Farm, model: Path, lora: Path) -> None:
    answer = farm("loras", "explain", "a fox <lora:inc>", "--model", str(model), "--lora", str(lora))
    assert answer.code == 2
    assert "did you mean 'ink'?" in answer.err


def test_inspect_tells_the_contract_s_fields(farm: Farm, lora: Path) -> None:
    info = farm("lora", "inspect", str(lora), "--json").json()
    assert info["type"] == "lora"
    assert info["scheme"] == "kohya"
    assert info["ranks"] == [2]
    assert {"types", "base_model", "layers", "trigger_words"} <= info.keys()


@pytest.mark.parametrize("kind", ["truncated", "pickle", "text", "lying"])
def test_a_damaged_file_is_refused_in_one_line(farm: Farm, lora: Path, tmp_path: Path, kind: str) -> None:
    bad = tmp_path / "bad.safetensors"
    whole = lora.read_bytes()
    bad.write_bytes(
        {
            "truncated": whole[:-100],
            "pickle": pickle.dumps({"a": 1}),
            "text": b"<html>not found</html>",
            "lying": (2**60).to_bytes(8, "little") + whole[8:],
        }[kind]
    )
    answer = farm("lora", "inspect", str(bad))
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.err.strip().splitlines()) == 1
    assert "Traceback" not in answer.err


def test_merge_writes_a_folder_that_diffusers_loads_with_the_adapter_in_it(
    farm: Farm, model: Path, lora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    answer = farm("lora", "merge", "--model", str(model), "--lora", f"{lora}:0.5", "--out", str(out))
    assert answer.code == 0, answer.err
    merged = StableDiffusionPipeline.from_pretrained(out, local_files_only=True, safety_checker=None)
    fused = StableDiffusionPipeline.from_pretrained(model, local_files_only=True, safety_checker=None)
    fused.load_lora_weights(lora)
    fused.fuse_lora(lora_scale=0.5)
    fused.unload_lora_weights()
    wanted = fused.unet.state_dict()
    for name, tensor in merged.unet.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-5, rtol=1e-4)


def test_merge_leaves_every_other_file_as_it_was(farm: Farm, model: Path, lora: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    farm("lora", "merge", "--model", str(model), "--lora", str(lora), "--out", str(out))
    for path in model.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert (out / path.relative_to(model)).read_bytes() == path.read_bytes()
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert load_file(out / vae).keys() == load_file(model / vae).keys()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lora", "inspect", "missing.safetensors"], "missing.safetensors does not exist"),
        (["submit", "a fox"], "no running farm was found"),
        (["jobs", "ls"], "no running farm was found"),
        (["lora", "frobnicate"], "frobnicate"),
        (["submit"], "prompt"),
        (["loras", "explain", "x", "--model", "nowhere"], "nowhere"),
        (["loras", "explain", "x", "--steps", "many"], "--steps"),
    ],
)
def test_bad_input_is_code_2_and_one_line(farm: Farm, words: list[str], told: str) -> None:
    answer = farm(*words)
    assert answer.code == 2
    assert told in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_a_bad_setting_is_named(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_PORT", "many")
    answer = farm("up")
    assert answer.code == 2
    assert "FARM_PORT" in answer.err


def test_doctor_says_what_is_missing_and_what_to_do(farm: Farm) -> None:
    answer = farm("doctor", "--json")
    assert answer.code == 1
    findings = answer.json()
    assert "farm up" in findings["farm"]["remedy"]
    assert findings["redis"]["remedy"]


def test_doctor_names_settings_that_do_not_exist(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_DATABSE_URL", "x")
    assert "FARM_DATABSE_URL" in farm("doctor", "--json").json()["settings"]["found"]
