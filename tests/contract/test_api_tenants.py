"""Nobody reaches what is another's: every route with an id, by every verb, and every list; made from the app's own map."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.test_api_events import open_stream
from tests.contract.test_api_jobs import submit
from tests.support.web import API, WebFarm, render

#: bodies that are right, so that nothing but the owner is wrong
BODIES: dict[str, Any] = {
    "/jobs/{job_id}": {"priority": "bulk"},
    "/images/{image_id}": {"starred": True},
    "/loras/{lora_id}": {"notes": "mine now"},
}
#: what all users of a farm share may be read by all of them
SHARED = {("GET", "lora_id"), ("GET", "worker_id"), ("GET", "model_id")}


@pytest.fixture
def belongings(farm: WebFarm) -> dict[str, str]:
    """Ids of things of the owner's, by the name that routes give them."""
    from tests.support.jobs import add_worker

    adapter = farm.add_adapter("secretink")
    job = submit(farm, prompt="secret fox <lora:secretink:1>")
    image = render(farm, job["id"], video=(5, 8.0))
    waiting = submit(farm, prompt="secret owl")
    batch = farm.post("/batches?name=secretbatch", {"rows": [{"prompt": "secret badger"}]}).get_json()
    preset = farm.post("/presets", {"name": "secretpreset", "spec": {}}).get_json()
    return {
        "job_id": waiting["id"],
        "image_id": image,
        "batch_id": batch["id"],
        "preset_id": preset["id"],
        "lora_id": adapter["id"],
        "key_id": farm.get("/keys").get_json()["items"][0]["id"],
        # users are for admins: what others get is 403
        "user_id": farm.owner_id,
        "worker_id": add_worker(farm.services.sessions, "gpu"),
        "model_id": farm.get("/models/demo").get_json()["id"],
    }


def requests(farm: WebFarm, ids: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """(verb, path, rule, name of the id) of every API route that takes an id."""
    for rule in farm.app.url_map.iter_rules():
        if not rule.rule.startswith(API) or not rule.arguments:
            continue
        (name,) = rule.arguments
        path = re.sub(r"<[^>]+>", ids[name], rule.rule)
        for verb in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield verb, path, re.sub(r"<[^:>]+:([^>]+)>", r"{\1}", rule.rule.removeprefix(API)), name


def test_foreign_ids_are_404_for_every_route_and_verb(farm: WebFarm, belongings: dict[str, str]):
    seen = 0
    for verb, path, rule, name in requests(farm, belongings):
        if (verb, name) in SHARED or name in {"worker_id", "user_id"}:
            continue
        options: dict[str, Any] = {"json": BODIES.get(rule, {})} if verb in {"POST", "PATCH"} else {}
        if verb == "PUT":
            options = {"data": _picture(), "content_type": "image/png"}
        answer = farm.request(verb, path, key=farm.stranger_key, **options)
        assert answer.status_code == 404, (verb, rule, answer.status_code, answer.text)
        seen += 1
    assert seen >= 18


def test_the_owner_reaches_all_of_it(farm: WebFarm, belongings: dict[str, str]):
    for verb, path, rule, name in requests(farm, belongings):
        if verb == "GET" and not rule.endswith("/preview"):
            assert farm.get(path).status_code in {200, 302}, (rule, name)


def test_nothing_changed_under_a_strangers_hands(farm: WebFarm, belongings: dict[str, str]):
    def state() -> list[str]:
        paths = [
            path for verb, path, _, _ in requests(farm, belongings) if verb == "GET" and "content" not in path
        ]
        return [farm.get(path).text for path in paths if "preview" not in path and "poster" not in path]

    before = state()
    for verb, path, rule, _ in requests(farm, belongings):
        if verb != "GET":
            farm.request(verb, path, key=farm.stranger_key, json=BODIES.get(rule, {}))
    assert state() == before


def test_lists_show_nothing_of_anothers(farm: WebFarm, belongings: dict[str, str]):
    for rule in farm.app.url_map.iter_rules():
        if rule.rule.startswith(API) and not rule.arguments and "GET" in (rule.methods or set()):
            if rule.rule.endswith(("/events", "/openapi.json", "/loras")):
                continue
            text = farm.get(rule.rule, key=farm.stranger_key).text
            assert "secret" not in text, rule.rule
            for name in ("job_id", "image_id", "batch_id", "preset_id"):
                assert belongings[name] not in text, rule.rule
    for query in (f"job={belongings['job_id']}", f"batch={belongings['batch_id']}", "q=secret"):
        assert farm.get(f"/images?{query}", key=farm.stranger_key).get_json()["items"] == []
    for query in (f"batch={belongings['batch_id']}", "lora=secretink", "model=demo"):
        assert farm.get(f"/jobs?{query}", key=farm.stranger_key).get_json()["items"] == []


def test_the_stream_shows_nothing_of_anothers(farm: WebFarm, belongings: dict[str, str]):
    from farm.queue.events import Event, publish

    stream = open_stream(farm, "?last_event_id=0-0", Authorization=f"Bearer {farm.stranger_key}")
    publish(farm.services.redis, Event(topic="jobs", type="job", owner=farm.stranger_id, data={"id": "mine"}))
    next(stream)
    seen = next(stream)
    assert seen.data == {"id": "mine"}
    assert not any(thing in json.dumps(seen.data) for thing in belongings.values())


def test_a_stranger_uses_a_shared_adapter_without_owning_it(farm: WebFarm, belongings: dict[str, str]):
    job = submit(farm, key=farm.stranger_key, prompt="a fox <lora:secretink:1>")
    assert job["networks"][0]["name"] == "secretink"


def _picture() -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()
