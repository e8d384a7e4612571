"""The command line against a whole farm: what the README and the quickstart tell people to type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support.farm import RunningFarm, running_farm
from tests.support.tiny import tiny_lora, tiny_sd15

pytestmark = pytest.mark.timeout(300)


def test_submit_waits_and_writes_the_pictures(farm: RunningFarm, tmp_path: Path) -> None:
    done = farm.cli(
        "submit", "a red circle <lora:ink:0.8>", "--steps", "4", "--count", "2", "--seed", "5", "--wait", "--out",
        str(tmp_path), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["state"] == "succeeded"
    assert [image["seed"] for image in job["images"]] == [5, 6]
    for file in job["files"]:
        with Image.open(file) as picture:
            assert picture.size == (64, 64)
            assert json.loads(picture.text["farm"])["prompt"] == "a red circle <lora:ink:0.8>"  # type: ignore[attr-defined]
            assert "Steps: 4" in picture.text["parameters"]  # type: ignore[attr-defined]


def test_the_same_seed_gives_the_same_picture(farm: RunningFarm, tmp_path: Path) -> None:
    pictures = []
    for folder in ("one", "two"):
        out = tmp_path / folder
        done = farm.cli("submit", "a boat", "--steps", "3", "--seed", "9", "--out", str(out), "--json")
        with Image.open(json.loads(done.stdout)["files"][0]) as picture:
            pictures.append(picture.tobytes())
    assert pictures[0] == pictures[1]


def test_a_misspelt_adapter_is_refused_at_submission_with_column_and_remedy(farm: RunningFarm) -> None:
    done = farm.cli("submit", "a boat <lora:inc:0.8>")
    assert done.returncode == 2
    assert "'inc'" in done.stderr
    assert "did you mean 'ink'?" in done.stderr
    assert "column" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "0"], "steps"),
        (["--steps", "100000"], "steps"),
        (["--width", "63"], "width"),
        (["--width", "100000"], "width"),
        (["--sampler", "eulr"], "euler"),
        (["--model", "dmo"], "demo"),
        (["--priority", "urgent"], "interactive"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(
    farm: RunningFarm, words: list[str], told: str
) -> None:
    done = farm.cli("submit", "a boat", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_batch_is_taken_whole_or_told_row_by_row(farm: RunningFarm, tmp_path: Path) -> None:
    good = tmp_path / "jobs.jsonl"
    good.write_text(
        "\n".join(json.dumps({"prompt": "a star", "steps": 1, "seed": seed}) for seed in range(5))
    )
    done = farm.cli("batch", "submit", str(good), "--watch", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["states"]["succeeded"] == 5
    bad = tmp_path / "bad.csv"
    bad.write_text("prompt,steps\na star,4\na star,none\n<lora:inc> a star,4\n")
    refused = farm.cli("batch", "submit", str(bad), "--json")
    assert refused.returncode == 2
    pointers = [error["pointer"] for error in json.loads(refused.stdout)["errors"]]
    assert pointers == ["/rows/1/steps", "/rows/2/prompt"]


def test_a_damaged_upload_is_refused_and_nothing_is_kept(farm: RunningFarm, tmp_path: Path) -> None:
    bad = tmp_path / "broken.safetensors"
    bad.write_bytes((10**6).to_bytes(8, "little") + b"{}")
    done = farm.cli("loras", "add", str(bad))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "broken" not in farm.cli("loras", "ls").stdout


def test_lists_and_doctor(farm: RunningFarm) -> None:
    assert "worker-1" in farm.cli("workers", "ls").stdout
    assert "demo" in farm.cli("models", "ls").stdout
    assert farm.cli("jobs", "ls").returncode == 0
    assert farm.cli("batch", "ls").returncode == 0
    doctor = farm.cli("doctor", "--json")
    findings = json.loads(doctor.stdout)
    assert not findings["farm"]["remedy"], findings
    assert not findings["database"]["remedy"], findings


def test_explain_asks_the_farm(farm: RunningFarm) -> None:
    done = farm.cli("loras", "explain", "a boat <lora:ink:0.1@1,0.6@6>", "--steps", "8", "--json")
    assert done.returncode == 0, done.stderr
    explained = json.loads(done.stdout)
    assert explained["model"] == "demo"
    assert explained["adapters"][0]["strengths"]["unet"]["mid"] == [0.1] * 5 + [0.6] * 3


def test_a_drained_worker_gets_nothing_until_it_is_resumed(farm: RunningFarm) -> None:
    assert farm.cli("workers", "drain", "worker-1").returncode == 0
    job = farm.client().submit({"prompt": "a star", "steps": 1})["id"]
    assert farm.client().get(f"/jobs/{job}")["state"] == "queued"
    assert farm.cli("workers", "resume", "worker-1").returncode == 0
    assert farm.cli("jobs", "watch", job).returncode == 0


def test_an_extraction_is_watched_and_shown_like_any_job(farm: RunningFarm) -> None:
    asked = {"name": "ink-light", "prompt": "<lora:ink:0.5>", "energy": 0.99}
    with farm.client() as client:
        job = client.post("/loras:extract", asked)["id"]
        assert farm.cli("jobs", "watch", job).returncode == 0
        assert "ink-light" in farm.cli("loras", "ls").stdout
        shown = farm.cli("jobs", "show", job)
        client.delete("/loras/ink-light")
    assert "made ink-light" in shown.stdout
    assert "relative error" in shown.stdout


def test_an_adapter_is_added_used_and_removed(tmp_path: Path) -> None:
    """In a farm of its own: a new model becomes the one that jobs take when they name none."""
    with running_farm(tmp_path / "farm") as farm:
        add_use_and_remove(farm, tmp_path)


def add_use_and_remove(farm: RunningFarm, tmp_path: Path) -> None:
    model = tiny_sd15(tmp_path / "tiny", seed=3)
    added = farm.cli("models", "add", str(model), "--name", "tiny")
    assert added.returncode == 0, added.stderr
    adapter = tiny_lora(tmp_path / "own-style.safetensors", model)
    done = farm.cli("loras", "add", str(adapter))
    assert done.returncode == 0, done.stderr
    assert "own-style" in farm.cli("loras", "ls").stdout
    made = farm.cli(
        "submit", "a fox <lora:own-style:0@1,1@3>", "--model", "tiny", "--steps", "4", "--wait", "--json"
    )
    assert json.loads(made.stdout)["state"] == "succeeded", made.stdout
    wrong = farm.cli("submit", "a fox <lora:own-style>", "--model", "demo")
    assert wrong.returncode == 2
    assert "own-style" in wrong.stderr
    assert farm.cli("loras", "rm", "own-style").returncode == 0
    assert "own-style" not in farm.cli("loras", "ls").stdout
