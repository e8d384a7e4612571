"""From a spec to rows: what is filled in, what is refused and where, and batches that go in whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Adapter, Batch, Job, JobEvent
from farm.errors import BadRequest
from farm.jobs import adapters, attempts, estimate, models, workers
from farm.jobs.limits import Limits
from farm.jobs.reports import WorkerReport
from farm.jobs.submit import explain, prepare, submit, submit_batch
from tests.support.catalog import add_adapter, add_model
from tests.support.jobs import LATER, NOW, OWNER, job_row
from tests.support.jobs import seed as seed_users

Sessions = sessionmaker[Session]
LIMITS = Limits()


@pytest.fixture
def farm(sessions: Sessions) -> Sessions:
    seed_users(sessions, model=False)
    add_model(sessions, OWNER, NOW)
    add_adapter(sessions, OWNER, NOW, "ink", words="ink wash")
    add_adapter(sessions, OWNER, NOW, "Clay")
    return sessions


def problems(farm: Sessions, spec: dict[str, Any], limits: Limits = LIMITS) -> list[tuple[str, str]]:
    with farm() as session, pytest.raises(BadRequest) as caught:
        prepare(session, OWNER, spec, limits=limits)
    return [(problem.pointer, problem.code) for problem in caught.value.problems]


def test_a_prompt_alone_is_filled_in(farm: Sessions) -> None:
    with farm() as session:
        found = prepare(session, OWNER, {"prompt": "a fox <lora:INK:0.8>, at night"}, limits=LIMITS)
    spec = found.spec
    assert (spec.model, spec.width, spec.height, spec.steps) == ("Dreams", 512, 512, 20)
    assert (spec.guidance_scale, spec.sampler, spec.linear_curves) == (7.0, "euler", False)
    assert spec.seed is not None
    assert 0 <= spec.seed < 2**32
    assert found.clean_prompt == "a fox, at night"
    assert [network.name for network in found.networks] == ["ink"]
    assert found.plan.adapters[0].sha256 == found.networks[0].sha256


def test_trigger_words_are_put_in_when_asked(farm: Sessions) -> None:
    with farm() as session:
        found = prepare(session, OWNER, {"prompt": "a fox <lora:ink>"}, limits=Limits(apply_triggers=-1))
    assert found.clean_prompt == "a fox, ink wash"


def test_equal_sets_of_adapters_have_equal_keys(farm: Sessions) -> None:
    prompts = ("a <lora:ink:1><lora:clay:0.5>", "b <lora:Clay:0.1><lora:ink:0.2>", "c <lora:ink:1>", "d")
    with farm() as session:
        keys = [prepare(session, OWNER, {"prompt": prompt}, limits=LIMITS) for prompt in prompts]
    assert keys[0].network_set == keys[1].network_set != keys[2].network_set
    assert keys[3].network_set == ""
    assert len({key.batch_key for key in keys}) == 1


def test_all_problems_are_told_at_once(farm: Sessions) -> None:
    wrong = {
        "prompt": "a <lora:inc:0.8> <lora:ink:te5=1>",
        "model": "dreems",
        "width": 65,
        "height": 0,
        "steps": 501,
        "guidance_scale": float("nan"),
        "sampler": "eulr",
        "seed": -2,
        "count": 65,
        "tags": ["x" * 65],
        "webhook": "ftp://example.org",
    }
    found = problems(farm, wrong)
    assert {pointer for pointer, _ in found} == {
        "/prompt", "/model", "/width", "/height", "/steps", "/guidance_scale", "/sampler", "/seed", "/count", "/tags/0",
        "/webhook",
    }  # fmt: skip


def test_fields_of_wrong_type_or_name_are_told(farm: Sessions) -> None:
    with farm() as session, pytest.raises(BadRequest) as caught:
        prepare(session, OWNER, {"promt": "a fox", "steps": "20", "count": True}, limits=LIMITS)
    sentences = {problem.pointer: problem.sentence() for problem in caught.value.problems}
    assert sentences["/prompt"] == "prompt is missing: every job needs one"
    assert "did you mean 'prompt'" in sentences["/promt"]
    assert sentences["/steps"] == "steps is '20', not a whole number: give a whole number"
    assert "/count" in sentences


def test_an_unknown_adapter_is_told_with_its_column_and_near_names(farm: Sessions) -> None:
    with farm() as session, pytest.raises(BadRequest) as caught:
        prepare(session, OWNER, {"prompt": "a fox <lora:inc:0.8>"}, limits=LIMITS)
    (problem,) = caught.value.problems
    assert (problem.code, problem.column, problem.hint) == ("unknown_adapter", 13, "did you mean 'ink'?")


def test_an_adapter_for_another_model_is_refused(farm: Sessions) -> None:
    add_adapter(farm, OWNER, NOW, "xl", context=2048)
    with farm() as session, pytest.raises(BadRequest) as caught:
        prepare(session, OWNER, {"prompt": "a <lora:ink:1> fox <lora:xl:0.8>"}, limits=LIMITS)
    (problem,) = caught.value.problems
    assert (problem.code, problem.tag, problem.column) == ("wrong_base_model", "<lora:xl:0.8>", 26)


@pytest.mark.parametrize("text", ["a\x00b", "a\ud83e"])
def test_text_that_no_database_keeps_is_refused(farm: Sessions, text: str) -> None:
    assert ("/prompt", "bad_character") in problems(farm, {"prompt": text})
    assert ("/model", "unknown_model") in problems(farm, {"prompt": "a", "model": text})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("steps", 500, 501),
        ("steps", 1, 0),
        ("width", 64, 56),
        ("width", 8192, 8200),
        ("count", 64, 65),
        ("seed", 0, -2),
        ("guidance_scale", 100.0, 100.5),
        ("prompt", "x" * 16384, "x" * 16385),
    ],
)
def test_limits_stand_where_they_are_told(farm: Sessions, field: str, good: Any, bad: Any) -> None:
    with farm() as session:
        prepare(session, OWNER, {"prompt": "a fox", field: good}, limits=LIMITS)
    assert [pointer for pointer, _ in problems(farm, {"prompt": "a fox", field: bad})] == [f"/{field}"]


def test_pixels_are_limited_together(farm: Sessions) -> None:
    assert problems(farm, {"prompt": "a", "width": 4096, "height": 2048}) == [("/width", "too_large")]


def test_submit_writes_a_job_that_a_worker_can_load(farm: Sessions) -> None:
    with farm.begin() as session:
        job = submit(
            session, OWNER, {"prompt": "a <lora:ink:1>", "seed": 5, "count": 2, "priority": "bulk"}, limits=LIMITS, now=NOW
        )  # fmt: skip
    row = job_row(farm, job)
    assert (row.state, row.priority, row.count, row.attempt) == ("queued", 2, 2, 0)
    with farm() as session:
        loaded = attempts.load_for_worker(session, job)
        assert loaded.seeds == (5, 6)
        assert loaded.networks[0].name == "ink"
        assert loaded.clean_prompt == "a"
        assert session.scalar(select(Adapter.uses).where(Adapter.name == "ink")) == 1


def test_replacing_a_file_does_not_change_a_job_that_waits(farm: Sessions) -> None:
    with farm.begin() as session:
        job = submit(session, OWNER, {"prompt": "a <lora:ink:1>"}, limits=LIMITS, now=NOW)
    before = job_row(farm, job).networks[0]["sha256"]
    add_adapter(farm, OWNER, LATER, "ink", sha256="f" * 64)
    with farm.begin() as session:
        later = submit(session, OWNER, {"prompt": "a <lora:ink:1>"}, limits=LIMITS, now=NOW)
        view = adapters.adapter_view(session, job_row(farm, job).networks[0]["adapter_id"])
    assert job_row(farm, job).networks[0]["sha256"] == before != "f" * 64
    assert job_row(farm, later).networks[0]["sha256"] == "f" * 64
    assert len(view["versions"]) == 2


def test_explaining_shows_what_was_planned(farm: Sessions) -> None:
    with farm() as session:
        found = prepare(session, OWNER, {"prompt": "a <lora:ink:0.2@1,0.9@3>", "steps": 4}, limits=LIMITS)
        shown = explain(session, found)
    assert shown["prompt"] == "a"
    assert shown["adapters"][0]["strengths"]["unet"]["in"] == [0.2, 0.2, 0.9, 0.9]


def test_an_estimate_names_the_worker_that_has_it_hot(farm: Sessions) -> None:
    with farm() as session:
        found = prepare(session, OWNER, {"prompt": "a <lora:ink:1>", "steps": 10}, limits=LIMITS)
        assert estimate.estimate(session, found).worker is None
    hot = WorkerReport(
        models=(found.model_key,),
        adapters=(found.networks[0].sha256,),
        seconds_per_step={found.batch_key: 2.0},
    )
    with farm.begin() as session:
        workers.register(session, "cold", "cpu", WorkerReport(seconds_per_step={found.batch_key: 2.0}), NOW)
        workers.register(session, "warm", "cpu", hot, NOW)
    with farm() as session:
        guess = estimate.estimate(session, found)
    assert (guess.seconds, guess.starts_in, guess.worker) == (20.0, 0.0, "warm")
    assert guess.sentence == "20 s · starts at once on warm, which holds this model and the adapter"


def test_a_batch_keeps_the_order_of_its_rows(farm: Sessions) -> None:
    rows = [{"prompt": f"fox {number} <lora:ink:1>", "seed": number} for number in range(30)]
    with farm.begin() as session:
        result = submit_batch(session, OWNER, iter(rows), name="foxes", limits=LIMITS, now=NOW)
    assert (result.accepted, result.images, result.steps, result.groups) == (30, 30, 600, 1)
    with farm() as session:
        jobs = session.scalars(select(Job).where(Job.batch_id == result.batch_id).order_by(Job.id)).all()
        assert [job.batch_index for job in jobs] == list(range(30))
        assert [job.spec["seed"] for job in jobs] == list(range(30))
        assert [job.clean_prompt for job in jobs] == [f"fox {number}" for number in range(30)]
        assert session.scalar(select(func.count()).select_from(JobEvent)) == 30
        assert session.scalar(select(Adapter.uses).where(Adapter.name == "ink")) == 30


def test_rows_without_a_seed_draw_their_own(farm: Sessions) -> None:
    with farm.begin() as session:
        result = submit_batch(session, OWNER, [{"prompt": "a"}] * 5, name="b", limits=LIMITS, now=NOW)
    with farm() as session:
        rows = session.scalars(select(Job.spec).where(Job.batch_id == result.batch_id)).all()
    assert len({row["seed"] for row in rows}) == 5


def test_one_wrong_row_refuses_the_batch_and_is_named(farm: Sessions) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "seed": 1},
        {"prompt": "a", "seed": -7},
        {"prompt": "a", "stepz": 3},
        {"prompt": "a <lora:inc:1>"},
        {"prompt": "a", "steps": 0},
    ]
    with farm.begin() as session:
        result = submit_batch(session, OWNER, rows, name="b", limits=LIMITS, now=NOW)
    assert result.batch_id is None
    assert result.accepted == 0
    assert [problem.pointer for problem in result.errors] == [
        "/rows/1/seed", "/rows/2/stepz", "/rows/3/prompt", "/rows/4/steps",
    ]  # fmt: skip
    with farm() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
        assert session.scalar(select(func.count()).select_from(Batch)) == 0


def test_a_dry_run_writes_nothing(farm: Sessions) -> None:
    with farm.begin() as session:
        result = submit_batch(
            session, OWNER, [{"prompt": "a"}], name="b", limits=LIMITS, now=NOW, dry_run=True
        )
    assert (result.batch_id, result.accepted) == (None, 1)
    with farm() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_batches_have_a_first_and_a_last_row(farm: Sessions) -> None:
    limits = Limits(max_batch_rows=3)
    with farm() as session:
        for rows, code in (([], "empty_batch"), ([{"prompt": "a"}] * 4, "too_many_rows")):
            result = submit_batch(session, OWNER, rows, name="b", limits=limits, now=NOW, dry_run=True)
            assert [problem.code for problem in result.errors] == [code]


def test_names_of_deleted_models_and_adapters_are_free_again(farm: Sessions) -> None:
    with farm.begin() as session:
        adapter = adapters.find(session, ["ink"])["ink"]
        adapters.delete_adapter(session, OWNER, adapter.id, NOW)
        models.delete_model(session, OWNER, models.find(session, "dreams").id, NOW)
        assert models.exists(session, "Dreams")
        assert "ink" in adapters.known_names(session)
    assert add_adapter(farm, OWNER, NOW, "ink") != adapter.id
    assert add_model(farm, OWNER, NOW)
