"""Extractions as rows, on both databases: refused whole with places, queued as jobs of a kind of their own, recorded once."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Adapter, AdapterVersion, Job
from farm.errors import BadRequest, Conflict
from farm.jobs import control, extraction, made, views
from farm.jobs.attempts import load_for_worker
from farm.jobs.limits import Limits
from farm.lora.formats.header import Header, TensorInfo
from farm.lora.formats.inspect import inspect
from tests.support import catalog
from tests.support import jobs as rows
from tests.support.jobs import NOW, OWNER, STRANGER

LAYER = catalog.LAYER.format(0, 2)
TAG = "<lora:ink:0.8>"


@pytest.fixture
def farm(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    rows.seed(sessions, model=False)
    catalog.add_model(sessions, OWNER, NOW)
    catalog.add_adapter(sessions, OWNER, NOW, "ink")
    catalog.add_adapter(sessions, OWNER, NOW, "gold")
    catalog.add_adapter(sessions, OWNER, NOW, "grand", context=2048)
    catalog.add_adapter(sessions, STRANGER, NOW, "theirs")
    return sessions


def ask(farm: sessionmaker[Session], **fields: Any) -> str:
    asked = extraction.parse_extract({"name": "both", "model": "Dreams", **fields})
    with farm.begin() as session:
        return extraction.submit_extraction(session, OWNER, asked, limits=Limits(), now=NOW)


def new_adapter(name: str = "both", sha256: str = "f" * 64) -> made.NewAdapter:
    tensors = {
        f"{LAYER}.lora_down.weight": TensorInfo(dtype="F32", shape=(1, 768), begin=0, end=3072),
        f"{LAYER}.lora_up.weight": TensorInfo(dtype="F32", shape=(320, 1), begin=3072, end=4352),
    }
    header = Header(tensors=tensors, metadata={}, size=100)
    return made.NewAdapter(
        name=name,
        file_name=f"{name}.safetensors",
        sha256=sha256,
        size=4452,
        header=header,
        info=inspect(header, name),
    )


def record(farm: sessionmaker[Session], job: str, attempt: int, adapter: made.NewAdapter) -> bool:
    with farm.begin() as session:
        return made.succeed_with_adapter(
            session, job, attempt, adapter, {"error": 0.1}, {}, NOW, warnings=["w"]
        )


def count(farm: sessionmaker[Session], table: type) -> int:
    with farm() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_job_of_its_own_kind_with_one_step_a_layer(farm: sessionmaker[Session]) -> None:
    job_id = ask(
        farm,
        prompt=f"some words {TAG}",
        networks=[{"name": "gold", "strength": -0.5}],
        energy=0.99,
        max_rank=8,
    )
    with farm() as session:
        view = views.job_view(session, OWNER, job_id)
        job = load_for_worker(session, job_id)
    assert (view["kind"], view["state"], view["steps"], view["width"]) == ("extract", "queued", 2, None)
    assert view["extract"] == {"name": "both", "rank": None, "energy": 0.99, "max_rank": 8}
    assert [network["name"] for network in view["networks"]] == ["ink", "gold"]
    assert view["prompt"] == f"some words {TAG} <lora:gold:-0.5>"
    assert job.batch_key.startswith("extract:")
    assert job.extraction is not None
    assert job.extraction.budget.energy == 0.99


def test_a_row_that_knows_of_no_kinds_is_a_render(farm: sessionmaker[Session]) -> None:
    """As a process of the version before writes it while both run."""
    job = ask(farm, prompt=TAG, rank=4)
    columns = [name for name in Job.__table__.c.keys() if name not in ("id", "kind", "result")]  # noqa: SIM118
    names = ", ".join(columns)
    with farm.begin() as session:
        session.execute(
            text(f"insert into jobs (id, {names}) select 'job_old', {names} from jobs where id = :id"),
            {"id": job},
        )
    with farm() as session:
        found = load_for_worker(session, "job_old")
    assert (found.kind, found.extraction) == ("render", None)


@pytest.mark.parametrize(
    ("fields", "code", "pointer", "told"),
    [
        ({"prompt": TAG}, "bad_budget", "/rank", "neither rank nor energy"),
        ({"prompt": TAG, "rank": 4, "energy": 0.9}, "bad_budget", "/rank", "both rank and energy"),
        ({"prompt": TAG, "rank": 0}, "bad_budget", "/rank", "rank is 0"),
        ({"prompt": TAG, "energy": 1.5}, "bad_budget", "/energy", "energy is 1.5"),
        ({"prompt": TAG, "rank": "many"}, "bad_type", "/rank", "not a whole number"),
        ({"prompt": "<lora:inc:1>", "rank": 4}, "unknown_adapter", "/prompt", "unknown adapter 'inc'"),
        ({"networks": [{"name": "gold"}, {"name": "inc"}], "rank": 4}, "unknown_adapter", "/networks/1", "'inc'"),
        ({"prompt": "<lora:grand:1>", "rank": 4}, "wrong_base_model", "/prompt", "made for SDXL"),
        ({"prompt": "a fox", "rank": 4}, "nothing_to_extract", "/prompt", "no adapter is named"),
        ({"prompt": "<lora:ink:0>", "rank": 4}, "nothing_to_extract", "/prompt", "all strengths are 0"),
        ({"prompt": "<lora:ink:0.1@1,0.9@6>", "rank": 4}, "not_constant", "/prompt", "a curve over steps"),
        ({"prompt": "<lora:ink:te=0~1,1~8>", "rank": 4}, "not_constant", "/prompt", "a curve over steps"),
        ({"prompt": "<lora:ink:1:start=0.5>", "rank": 4}, "not_constant", "/prompt", "a window of steps"),
        ({"prompt": TAG, "rank": 4, "model": "Dream"}, "unknown_model", "/model", "unknown model"),
        ({"prompt": TAG, "rank": 4, "name": "theirs"}, "name_taken", "/name", "of another user"),
        ({"prompt": TAG, "rank": 4, "name": "a<b"}, "bad_name", "/name", "cannot hold '<'"),
        ({"prompt": TAG, "rank": 4, "name": " "}, "bad_name", "/name", "needs a name"),
        ({"prompt": TAG, "rank": 4, "width": 512}, "unknown_field", "/width", "unknown field 'width'"),
        ({"prompt": TAG, "rank": 4, "webhook": "x"}, "bad_address", "/webhook", "https://"),
    ],
)  # fmt: skip
def test_what_cannot_be_extracted_is_refused_before_it_is_queued(
    farm: sessionmaker[Session], fields: dict[str, Any], code: str, pointer: str, told: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        ask(farm, **fields)
    (problem,) = caught.value.problems
    assert (problem.code, problem.pointer) == (code, pointer)
    assert told in problem.sentence()
    assert count(farm, Job) == 0


def test_every_mistake_is_told_at_once(farm: sessionmaker[Session]) -> None:
    with pytest.raises(BadRequest) as caught:
        ask(farm, name="", prompt="<lora:inc:1>", rank=0)
    assert {problem.pointer for problem in caught.value.problems} == {"/name", "/rank", "/prompt"}


def test_the_adapter_is_recorded_once(farm: sessionmaker[Session]) -> None:
    job, before = ask(farm, prompt=TAG, rank=4), count(farm, Adapter)
    worker = rows.add_worker(farm, "one")
    attempt = rows.start(farm, job, worker)
    assert record(farm, job, attempt, new_adapter())
    assert record(farm, job, attempt, new_adapter())  # after a commit of unknown outcome
    assert not record(farm, job, attempt + 1, new_adapter(sha256="0" * 64))
    assert (count(farm, Adapter), count(farm, AdapterVersion)) == (before + 1, before + 1)
    with farm() as session:
        view = views.job_view(session, OWNER, job)
        adapter = session.scalars(select(Adapter).where(Adapter.name == "both")).one()
    assert (view["state"], view["images"], view["warnings"]) == ("succeeded", [], ["w"])
    assert view["result"] == {
        "adapter": {"id": adapter.id, "name": "both", "sha256": "f" * 64, "size": 4452}, "report": {"error": 0.1},
    }  # fmt: skip
    assert adapter.owner_id == OWNER
    assert rows.events_of(farm, job)[-1] == "succeed"


def test_an_attempt_that_lost_the_job_records_nothing(farm: sessionmaker[Session]) -> None:
    job, before = ask(farm, prompt=TAG, rank=4), count(farm, Adapter)
    attempt = rows.start(farm, job, rows.add_worker(farm, "one"))
    with farm.begin() as session:
        control.cancel(session, OWNER, job, NOW)
        assert session.execute(select(Job.state).where(Job.id == job)).scalar_one() == "running"
    with farm.begin() as session:
        from farm.jobs import attempts

        assert attempts.cancelled(session, job, attempt, NOW)
    assert not record(farm, job, attempt, new_adapter())
    assert count(farm, Adapter) == before
    assert rows.job_row(farm, job).result is None


def test_a_name_that_was_taken_meanwhile_leaves_the_job_as_it_was(farm: sessionmaker[Session]) -> None:
    job = ask(farm, prompt=TAG, rank=4)
    attempt = rows.start(farm, job, rows.add_worker(farm, "one"))
    catalog.add_adapter(farm, STRANGER, NOW, "both")
    with pytest.raises(Conflict, match="of another user"):
        record(farm, job, attempt, new_adapter())
    assert rows.job_row(farm, job).state == "running"


def test_an_adapter_of_one_s_own_gets_a_new_version(farm: sessionmaker[Session]) -> None:
    job = ask(farm, prompt=TAG, rank=4, name="gold")
    assert "gets a new version" in rows.job_row(farm, job).warnings[-1]
    attempt = rows.start(farm, job, rows.add_worker(farm, "one"))
    before = count(farm, Adapter)
    assert record(farm, job, attempt, new_adapter("gold"))
    assert count(farm, Adapter) == before
