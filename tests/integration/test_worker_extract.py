"""A worker extracts: from an assigned row to an adapter in the store and in SQL, once, and not at all when cancelled."""

from __future__ import annotations

import dataclasses
import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis
from safetensors.torch import load, load_file, save_file
from sqlalchemy import select

from farm.db.models import Adapter, AdapterVersion
from farm.errors import Transient
from farm.jobs import control, extraction, ingest
from farm.jobs.limits import Limits
from farm.models import families
from farm.store import keys
from farm.worker.effects import Effects
from tests.support import jobs as rows
from tests.support.tiny import tiny_lora
from tests.support.worker import Rig, Start


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: what differs between databases is tested with the statements themselves."""
    return sqlite_url


@pytest.fixture
def rig(rig: Rig, tmp_path: Path, small_model: Path) -> Rig:
    """With two adapters in the farm."""
    for seed, name in enumerate(("ink", "gold")):
        add(rig, tiny_lora(tmp_path / f"{name}.safetensors", small_model, seed))
    return rig


def add(rig: Rig, path: Path) -> None:
    ingest.add_adapter(rig.sessions, rig.store, rows.OWNER, path, path.stem, datetime.now(UTC))


def ask(rig: Rig, prompt: str = "<lora:ink:0.8> <lora:gold:-0.5>", name: str = "both", **fields: Any) -> str:
    asked = extraction.parse_extract(
        {"name": name, "model": "small", "prompt": prompt, **({"energy": 1.0} | fields)}
    )
    with rig.sessions.begin() as session:
        return extraction.submit_extraction(
            session, rows.OWNER, asked, limits=Limits(), now=datetime.now(UTC)
        )


def versions(rig: Rig, name: str = "both") -> list[AdapterVersion]:
    with rig.sessions() as session:
        query = select(AdapterVersion).join(Adapter, Adapter.id == AdapterVersion.adapter_id)
        return list(session.scalars(query.where(Adapter.name == name)))


def sums(tensors: dict[str, torch.Tensor], strength: float = 1.0) -> dict[str, torch.Tensor]:
    """Changes by module, computed from the file alone."""
    modules = {key.split(".")[0] for key in tensors if ".lora_up" in key}
    return {
        name: strength * tensors[f"{name}.alpha"] / tensors[f"{name}.lora_down.weight"].shape[0]
        * tensors[f"{name}.lora_up.weight"].flatten(1) @ tensors[f"{name}.lora_down.weight"].flatten(1)
        for name in modules
    }  # fmt: skip


def test_two_adapters_become_one_in_the_store_and_in_sql(rig: Rig, start: Start, redis: Redis) -> None:
    worker = start()
    job_id = ask(rig)
    rig.assign(job_id, worker.id)
    job = rig.wait_for(job_id, "succeeded", "failed")

    assert (job.state, job.error_message) == ("succeeded", None)
    assert job.result is not None
    assert job.result["report"]["error"] < 1e-6
    assert job.result["report"]["layers"] == job.steps == job.step
    (version,) = versions(rig)
    assert (version.sha256, version.size) == (job.result["adapter"]["sha256"], job.result["adapter"]["size"])
    made = load(rig.store.get_bytes(keys.blob(version.sha256)))
    first, second = (load_file(rig.folder / f"{name}.safetensors") for name in ("ink", "gold"))
    wanted, other, found = sums(first, 0.8), sums(second, -0.5), sums(made)
    assert found.keys() == wanted.keys()
    for name, change in found.items():
        torch.testing.assert_close(change, wanted[name] + other[name], rtol=1e-5, atol=1e-6)
    said = json.loads(version.info["metadata"]["farm.sources"])
    assert [(row["name"], row["strength"]) for row in said] == [
        ("ink.safetensors", "0.8"),
        ("gold.safetensors", "-0.5"),
    ]
    timings = rig.attempt(job_id).timings
    assert timings["extracting"] > 0
    assert timings["sampling"] == 0
    assert f"extract:{rig.model_key[:16]}" in worker.report().seconds_per_step
    assert rows.image_count(rig.sessions, job_id) == 0


def test_an_adapter_made_by_the_farm_renders_in_the_farm(rig: Rig, start: Start, redis: Redis) -> None:
    worker = start()
    made = ask(rig, rank=2, energy=None)
    rig.assign(made, worker.id)
    rig.wait_for(made, "succeeded")
    (version,) = versions(rig)
    rig.networks.append(
        {
            "name": "both", "sha256": version.sha256, "size": version.size, "file_name": version.file_name,
            "type": version.type, "base_model": version.base_model, "adapter_id": version.adapter_id,
            "default_strength": 1.0,
        }
    )  # fmt: skip
    picture = rig.add_job("a fox <lora:both:1>", steps=1)
    rig.assign(picture, worker.id)
    assert rig.wait_for(picture, "succeeded", "failed").state == "succeeded"


def test_what_is_not_low_rank_reads_the_model_s_files(rig: Rig, start: Start, redis: Redis) -> None:
    """Also while a loaded model holds another job's adapter."""
    layer = next(
        x for x in families.layout("demo", families.describe(rig.model_folder).configs).layers.values()
        if x.path.endswith("attn2.to_k")
    )  # fmt: skip
    key = "lora_unet_" + layer.path.replace(".", "_")
    scale = torch.linspace(-0.5, 0.5, layer.shape[0])
    tensors = {f"{key}.weight": scale, f"{key}.on_input": torch.tensor([False])}
    save_file(tensors, rig.folder / "ia3.safetensors")
    add(rig, rig.folder / "ia3.safetensors")
    worker = start()
    rig.add_adapter("loud", 5, 3.0)
    picture = rig.add_job("a fox <lora:loud:1>", steps=1)
    rig.assign(picture, worker.id)
    rig.wait_for(picture, "succeeded")
    job_id = ask(rig, "<lora:ia3:0.5>")
    rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "succeeded", "failed").error_message is None
    (version,) = versions(rig)
    (change,) = sums(load(rig.store.get_bytes(keys.blob(version.sha256)))).values()
    weight = load_file(rig.model_folder / "unet/diffusion_pytorch_model.safetensors")[f"{layer.path}.weight"]
    torch.testing.assert_close(change, weight * (0.5 * scale)[:, None], rtol=1e-4, atol=1e-6)


def test_a_cancel_ends_it_between_two_layers(
    rig: Rig, start: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from farm.lora import extract

    third, go_on, seen, compress = threading.Event(), threading.Event(), [0], extract.compress

    def slow(*arguments: Any) -> Any:
        seen[0] += 1
        if seen[0] == 3:
            third.set()
            assert go_on.wait(60)
        return compress(*arguments)

    monkeypatch.setattr(extract, "compress", slow)
    worker = start()
    job_id = ask(rig)
    rig.assign(job_id, worker.id)
    assert third.wait(60)
    with rig.sessions.begin() as session:
        control.cancel(session, rows.OWNER, job_id, datetime.now(UTC))
    rig.wait_until(lambda: any(held.cancel for held in worker.hands._held.values()))
    go_on.set()
    job = rig.wait_for(job_id, "cancelled", "succeeded", "failed")
    assert (job.state, job.result) == ("cancelled", None)
    assert seen[0] == 3
    assert versions(rig) == []


def test_a_worker_that_stops_hands_back_what_does_not_fit(
    rig: Rig, start: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from farm.lora import extract

    first, go_on, compress = threading.Event(), threading.Event(), extract.compress

    def slow(*arguments: Any) -> Any:
        first.set()
        assert go_on.wait(60)
        return compress(*arguments)

    monkeypatch.setattr(extract, "compress", slow)
    worker = start()
    job_id = ask(rig, name="long " + "é" * 90)
    rig.assign(job_id, worker.id)
    assert first.wait(60)
    worker.hands.leave_within(0.5)
    go_on.set()
    assert rig.wait_for(job_id, "queued", "succeeded", "failed").state == "queued"
    worker.stop()
    again = start(worker_name="other")
    rig.assign(job_id, again.id)
    assert rig.wait_for(job_id, "succeeded", "failed").state == "succeeded"
    assert len(versions(rig, "long " + "é" * 90)) == 1


def test_a_record_of_unknown_outcome_is_repeated_and_registers_once(
    rig: Rig, start: Start, redis: Redis
) -> None:
    calls = []

    def wrap(effects: Effects) -> Effects:
        def twice(*arguments: Any) -> bool:
            calls.append(effects.succeed_with_adapter(*arguments))
            if len(calls) == 1:
                raise Transient("the answer got lost")
            return calls[-1]

        return dataclasses.replace(effects, succeed_with_adapter=twice)

    worker = start(wrap)
    job_id = ask(rig)
    rig.assign(job_id, worker.id)
    rig.wait_for(job_id, "succeeded")
    rig.wait_until(lambda: len(calls) == 2)
    assert calls == [True, True]
    assert len(versions(rig)) == 1


def test_another_attempt_makes_the_same_bytes(rig: Rig, start: Start, redis: Redis) -> None:
    kept: list[str] = []

    def wrap(effects: Effects) -> Effects:
        def keep(sha256: str, path: Path) -> None:
            kept.append(sha256)
            if len(kept) == 1:
                raise RuntimeError("this attempt fails")
            effects.keep(sha256, path)

        return dataclasses.replace(effects, keep=keep)

    worker = start(wrap)
    job_id = ask(rig)
    rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "failed", "succeeded").state == "failed"
    with rig.sessions.begin() as session:
        control.retry(session, rows.OWNER, job_id, datetime.now(UTC))
    rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "succeeded", "failed").state == "succeeded"
    assert len(set(kept)) == 1


def test_a_kind_of_a_later_version_fails_in_a_sentence(rig: Rig, start: Start, redis: Redis) -> None:
    worker = start()
    job_id = rig.add_job()
    with rig.sessions.begin() as session:
        job = session.get(rows.Job, job_id)
        assert job is not None
        job.kind = "upscale"
    rig.assign(job_id, worker.id)
    job = rig.wait_for(job_id, "failed", "succeeded")
    assert job.error_code == "unknown_kind"
    assert "'upscale'" in (job.error_message or "")
