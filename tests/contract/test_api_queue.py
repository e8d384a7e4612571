"""The queue over HTTP and on its page: one order, one place of each job wherever it is asked for, and pauses."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from farm.db.models import Forecast as Row
from farm.jobs import forecast
from farm.jobs.forecast import Forecast, Start
from farm.queue import events
from tests.contract.test_api_auth import token_of
from tests.support.web import WebFarm


@pytest.fixture
def line(farm: WebFarm) -> list[str]:
    """Three jobs of the owner and one of a stranger; the leader foresees another order than that of their ids."""
    mine = [farm.post("/jobs", {"prompt": f"fox number {n}", "seed": n}).get_json()["id"] for n in range(3)]
    theirs = farm.post("/jobs", {"prompt": "a secret"}, key=farm.stranger_key).get_json()["id"]
    order = [mine[1], theirs, mine[0]]
    starts = tuple(
        Start(
            job_id=job,
            owner_id=farm.stranger_id if job == theirs else farm.owner_id,
            priority=1,
            seconds=60.0 * (place + 1),
            where="gpu-1 is free in about 1 min and has everything hot",
        )
        for place, job in enumerate(order)
    )
    foreseen = Forecast(at=datetime.now(UTC), starts=starts, workers=1, pace=60.0)
    with farm.services.sessions.begin() as session:
        forecast.write(session, foreseen)
    return [*order, mine[2]]


def page(browser: FlaskClient, query: str = "") -> str:
    return html.unescape(re.sub(r"\s+", " ", browser.get(f"/queue{query}").text))


def test_a_job_has_one_place_wherever_it_is_asked_for(farm: WebFarm, line: list[str]):
    front = farm.get("/queue").get_json()
    assert [item.get("id") for item in front["items"]] == [line[0], None, line[2], line[3]]
    assert [item["position"] for item in front["items"]] == [0, 1, 2, 3]
    assert (front["waiting"], front["mine"]["queued"], front["pauses"]) == (4, 3, [])
    listed = {item["id"]: item for item in farm.get("/jobs").get_json()["items"]}
    told = ("position", "estimated_start", "estimated_low", "estimated_high", "waiting_because")
    for item in front["items"]:
        if item["mine"]:
            alone = farm.get(f"/jobs/{item['id']}").get_json()
            assert {name: item[name] for name in told} == {name: alone[name] for name in told}
            assert {name: item[name] for name in told} == {name: listed[item["id"]][name] for name in told}
            assert all(item[name] for name in told[1:])
    assert front["items"][2]["waiting_because"].startswith("behind 2 jobs, 1 of them yours; gpu-1 is free")
    # not foreseen yet, so counted on from the last of its owner's
    assert front["items"][3]["waiting_because"].startswith(
        "behind 3 jobs, 2 of them yours; about 60 start an hour"
    )
    assert [item["id"] for item in farm.get("/queue?mine=true").get_json()["items"]] == [line[0], *line[2:]]
    assert len(farm.get("/queue?limit=2").get_json()["items"]) == 2
    assert farm.get("/queue?limit=0").status_code == 422


def test_of_others_no_word_and_no_id_is_told(farm: WebFarm, line: list[str]):
    (theirs,) = [item for item in farm.get("/queue").get_json()["items"] if not item["mine"]]
    assert set(theirs) == {
        "mine", "state", "priority", "model", "position", "estimated_start", "estimated_low", "estimated_high",
        "waiting_because",
    }  # fmt: skip
    assert theirs["waiting_because"].startswith("behind 1 job; ")
    text = page(farm.browser())
    assert "secret" not in text
    assert line[1] not in text


def test_the_page_shows_the_front_in_order_with_a_reason_for_each(farm: WebFarm, line: list[str]):
    browser = farm.browser()
    text = page(browser)
    places = [
        text.index(words) for words in ("fox number 1", "somebody's job", "fox number 0", "fox number 2")
    ]
    assert places == sorted(places)
    assert "behind 2 jobs, 1 of them yours; gpu-1 is free in about 1 min and has everything hot" in text
    assert "in about 3 min" in text
    assert "1 – 6 min" in text
    assert "4 jobs, 3 of yours" in text
    assert "somebody's job" not in page(browser, "?mine=1")
    for odd in ("?rows=7", "?rows=x", "?rows=200&mine=1"):
        assert browser.get(f"/queue{odd}").status_code == 200
    assert "/queue/lanes?mine=1&rows=200" in page(browser, "?rows=200&mine=1")


def press(farm: WebFarm, browser: FlaskClient, verb: str, what: str, **headers: str) -> Any:
    data = {"what": what, "csrf_token": token_of(browser)}
    return browser.post(f"/queue/{verb}", data=data, headers=headers)


def test_an_operator_pauses_on_the_page_and_everybody_sees_it(farm: WebFarm, line: list[str]):
    browser = farm.browser()
    stranger = farm.app.test_client()
    stranger.get(f"/login?token={farm.stranger_key}&next=/")
    assert "Pause the queue" in page(browser)
    assert "Pause the queue" not in page(stranger)
    assert browser.post("/queue/pause", data={"what": "queue:"}).status_code == 403
    assert press(farm, stranger, "pause", "queue:").status_code == 403
    before = events.latest_id(farm.services.redis)
    assert press(farm, browser, "pause", "queue:").headers["Location"] == "/queue"
    assert [event.type for _, event in events.read(farm.services.redis, before, 10)] == ["queue"]
    for who in (browser, stranger):
        text = page(who)
        assert "The queue is paused" in text
        assert "the queue is paused by an operator" in text
        assert "not known" in text
        assert ("Resume" in text) == (who is browser)
    assert farm.get("/stats").get_json()["sentence"].endswith("paused")
    assert farm.get(f"/jobs/{line[0]}").get_json()["estimated_start"] is None
    answer = press(farm, browser, "resume", "queue:", **{"HX-Request": "true"})
    assert answer.status_code == 204
    assert "The queue goes on." in answer.headers["HX-Trigger"]
    assert "The queue is paused" not in page(stranger)


def test_a_model_and_a_user_are_paused_by_what_they_are_called(farm: WebFarm, line: list[str]):
    browser = farm.browser()
    stranger = farm.app.test_client()
    stranger.get(f"/login?token={farm.stranger_key}&next=/")
    model = farm.get("/models").get_json()["items"][0]["id"]
    assert press(farm, browser, "pause", f"user:{farm.stranger_id}").status_code == 303
    assert "Your jobs are paused" in page(stranger)
    assert "Jobs of stranger are paused" in page(browser)
    assert press(farm, browser, "pause", f"model:{model}").status_code == 303
    assert "Jobs with the model demo are paused" in page(browser)
    models = browser.get("/models").text
    assert ">paused<" in models
    assert f'value="model:{model}"' in models
    assert press(farm, browser, "pause", "model:none").status_code == 404
    assert press(farm, browser, "pause", "colour:red").status_code == 422


def test_what_was_foreseen_long_ago_is_not_told_any_more(farm: WebFarm, line: list[str]):
    with farm.services.sessions.begin() as session:
        session.execute(update(Row).values(written_at=datetime.now(UTC) - timedelta(minutes=7)))
    found = farm.get(f"/jobs/{line[0]}").get_json()
    assert found["waiting_because"].startswith("no scheduler has looked at the queue for ")
    assert found["estimated_start"] is None
