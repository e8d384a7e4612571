"""The loader settings of SD.Next's page, each with its effect on a real worker: what it holds, logs and renders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from farm.lora.pristine import Pristine
from farm.worker.worker import Worker
from tests.support.worker import Rig, Start


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


PROMPT = "a fox <lora:ink:0.2@1,0.9@2> <lora:gold:0.5:in=0:mid=1>"


def render(rig: Rig, worker: Worker, prompt: str) -> np.ndarray:
    job_id = rig.add_job(prompt)
    rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "succeeded", "failed").error_message is None
    return np.asarray(Image.open(BytesIO(rig.picture(job_id))), dtype=np.int16)


@pytest.fixture
def native(rig: Rig, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """A picture with adapters and one without, as the engine makes them."""
    rig.add_adapter("ink", seed=1)
    rig.add_adapter("gold", seed=2)
    worker = start()
    pictures = render(rig, worker, PROMPT), render(rig, worker, "a fox")
    worker.stop()
    assert np.abs(pictures[0] - pictures[1]).max() > 8
    return pictures


@contextmanager
def counting_copies() -> Iterator[list[str]]:
    kept: list[str] = []
    keep = Pristine.keep

    def counted(self: Pristine, name: str, weight: object) -> None:
        keep(self, name, weight)  # type: ignore[arg-type]
        if name in self._copies:
            kept.append(name)

    Pristine.keep = counted  # type: ignore[assignment, method-assign]
    try:
        yield kept
    finally:
        Pristine.keep = keep  # type: ignore[method-assign]


@pytest.mark.parametrize("fused", [False, True])
def test_lora_fuse_native_keeps_no_second_copy(
    rig: Rig, start: Start, native: tuple[np.ndarray, np.ndarray], fused: bool
) -> None:
    with counting_copies() as kept:
        worker = start(lora_fuse_native=fused)
        pictures = render(rig, worker, PROMPT), render(rig, worker, "a fox")
    assert bool(kept) is not fused
    assert all(map(np.array_equal, pictures, native))


@pytest.mark.parametrize("fused", [False, True])
def test_lora_force_diffusers_and_lora_fuse_diffusers_render_the_same(
    rig: Rig,
    start: Start,
    native: tuple[np.ndarray, np.ndarray],
    fused: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = start(lora_force_diffusers=True, lora_fuse_diffusers=fused)
    with_tags = render(rig, worker, PROMPT)
    plain = render(rig, worker, "a fox")
    assert np.abs(with_tags - native[0]).max() <= 2
    assert np.array_equal(plain, native[1]), "something of an adapter stayed behind"


def test_lora_force_reload_fetches_for_every_job(rig: Rig, start: Start) -> None:
    rig.add_adapter("ink")
    for forced in (False, True):
        worker = start(lora_force_reload=forced, cache_dir=rig.folder / f"cache-{forced}")
        render(rig, worker, "a fox <lora:ink:1>")
        job_id = rig.add_job("a fox <lora:ink:1>")
        rig.assign(job_id, worker.id)
        rig.wait_for(job_id, "succeeded")
        timings = rig.attempt(job_id).timings
        assert (timings["cache_misses"] > 0, timings["bytes_fetched"] > 0) == (forced, forced)
        worker.stop()


@pytest.mark.parametrize(("limit", "hot"), [(0, 0), (1, 1), (8, 3)])
def test_lora_in_memory_limit_is_what_stays(rig: Rig, start: Start, limit: int, hot: int) -> None:
    worker = start(lora_in_memory_limit=limit)
    for number, name in enumerate(("ink", "gold", "neon")):
        rig.add_adapter(name, seed=number)
        render(rig, worker, f"a fox <lora:{name}:1>")
    rig.wait_until(lambda: len(worker.report().adapters) == hot)


def test_debugging_tells_of_every_layer(rig: Rig, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    rig.add_adapter("ink")
    render(rig, start(lora_debug=True), "a fox <lora:ink:0.3@1,0.7@2>")
    said = capsys.readouterr().out
    matched = [line for line in said.splitlines() if "adapter_layer" in line]
    written = [line for line in said.splitlines() if "layer_written" in line]
    assert len(matched) > 100
    assert "strengths=[0.3, 0.7]" in matched[0]
    assert any("0.3" in line for line in written)
    assert any("0.7" in line for line in written)
    assert all("seconds=" in line for line in written)
