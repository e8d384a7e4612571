"""Seconds from submission to the first finished step, on a warm worker and on a cold one.

Peer: diffusers in the same process as its user, model loaded (warm) or loaded from disk first (cold): no queue, no store,
no database. The difference is what the farm adds.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from farm.demo import catalog
from tests.support.farm import RunningFarm, running_farm

TRIES = 7
SPEC = {
    "prompt": "a red circle on a blue background <lora:{name}:0.8>",
    "steps": 30,
    "priority": "interactive",
}


def seconds_to_first_step(farm: RunningFarm, adapter: str) -> float:
    client = farm.client()
    began = time.perf_counter()
    job = client.submit({**SPEC, "prompt": SPEC["prompt"].format(name=adapter)})["id"]
    while True:
        now = client.get(f"/jobs/{job}")
        if now["step"] >= 1 or now["state"] == "succeeded":
            taken = time.perf_counter() - began
            break
        assert now["state"] != "failed", now
        time.sleep(0.005)
    while client.get(f"/jobs/{job}")["state"] not in ("succeeded", "failed"):
        time.sleep(0.02)
    return taken


def peer_seconds(*, cold: bool) -> float:
    """diffusers: from the call to the end of the first step."""
    from diffusers import StableDiffusionPipeline

    class FirstStep(Exception):
        pass

    def stop(*_: Any) -> Any:
        raise FirstStep

    began = time.perf_counter()
    pipeline = StableDiffusionPipeline.from_pretrained(catalog.MODEL_DIR, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if not cold:
        began = time.perf_counter()
    with contextlib.suppress(FirstStep):
        pipeline("a red circle on a blue background", num_inference_steps=30, callback_on_step_end=stop)
    return time.perf_counter() - began


def main() -> None:
    adapter = catalog.ADAPTERS[0].name
    with tempfile.TemporaryDirectory() as folder, running_farm(Path(folder), workers=1) as farm:
        cold = seconds_to_first_step(farm, adapter)
        warm = statistics.median(seconds_to_first_step(farm, adapter) for _ in range(TRIES))
    peer_cold = peer_seconds(cold=True)
    peer_warm = statistics.median(peer_seconds(cold=False) for _ in range(TRIES))
    print(f"warm: farm {warm:.3f} s, diffusers in process {peer_warm:.3f} s, ratio {warm / peer_warm:.2f}")
    print(
        f"cold: farm {cold:.3f} s (nothing on disk), diffusers from disk {peer_cold:.3f} s, ratio {cold / peer_cold:.2f}"
    )
    print(json.dumps({"warm_s": warm, "cold_s": cold, "peer_warm_s": peer_warm, "peer_cold_s": peer_cold}))


if __name__ == "__main__":
    main()
