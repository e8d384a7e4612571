"""Batches of any length: the same rows whether few or many, in memory that does not grow with them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Adapter, Job, JobEvent
from farm.jobs import drafts, submit
from farm.jobs.drafts import Drafts
from farm.jobs.limits import Limits
from farm.jobs.submit import submit_batch
from tests.support.catalog import add_adapter, add_model
from tests.support.jobs import NOW, OWNER, seed

Sessions = sessionmaker[Session]

#: submits a batch of each number of rows, no two with the same words; prints the most memory used up to then, in MB
PROGRAM = """
import json, resource, sys
from farm.db.engine import make_engine, make_sessions
from farm.jobs.limits import Limits
from farm.jobs.submit import submit_batch
from tests.support.jobs import NOW, OWNER

sessions = make_sessions(make_engine(sys.argv[1]))
most = []
for number in (1000, 8000):
    rows = ({"prompt": f"fox {n} " + "in the snow " * 40 + "<lora:ink:0.8>", "seed": n} for n in range(number))
    with sessions.begin() as session:
        assert submit_batch(session, OWNER, rows, name="b", limits=Limits(), now=NOW).accepted == number
    most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(most))
"""


@pytest.fixture
def farm(sessions: Sessions) -> Sessions:
    seed(sessions, model=False)
    add_model(sessions, OWNER, NOW)
    add_adapter(sessions, OWNER, NOW, "ink")
    return sessions


def test_memory_does_not_grow_with_the_rows(farm: Sessions, database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, database_url], capture_output=True, text=True, check=True
    )
    few, many = json.loads(done.stdout)
    # held, 7000 rows of 4 kB would be 28 MB and more
    assert many - few < 8, (few, many)
    with farm() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 9000
        assert session.scalar(select(func.count()).select_from(JobEvent)) == 9000


def words(number: int) -> Iterator[Mapping[str, Any]]:
    for n in range(number):
        yield {"prompt": f"fox {n % 7} <lora:ink:{n % 3}>", "seed": n, "tags": [f"t{n}"], "priority": "bulk"}


@pytest.mark.parametrize("kept", [1, 2, 7, 1000])
def test_rows_are_the_same_however_many_wordings_are_remembered(
    farm: Sessions, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "KEPT", kept)
    monkeypatch.setattr(submit, "_CHUNK", 10)
    with farm.begin() as session:
        result = submit_batch(session, OWNER, words(45), name="b", limits=Limits(), now=NOW)
    assert (result.accepted, result.images, result.steps, result.groups) == (45, 45, 900, 1)
    with farm() as session:
        rows = session.scalars(select(Job).order_by(Job.id)).all()
        found = [(row.batch_index, row.clean_prompt, row.spec["prompt"], row.spec["tags"]) for row in rows]
        assert session.scalar(select(Adapter.uses)) == 45
    assert found == [(n, f"fox {n % 7}", row["prompt"], row["tags"]) for n, row in enumerate(words(45))]
    assert [row.spec["seed"] for row in rows] == list(range(45))
    assert {row.priority for row in rows} == {2}


def test_a_failure_in_the_midst_of_writing_leaves_nothing(
    farm: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_CHUNK", 10)
    whole = submit._values

    def breaks(*given: Any) -> Iterator[dict[str, Any]]:
        for index, row in enumerate(whole(*given)):
            if index == 35:
                raise OSError("the disk with the temporary file is gone")
            yield row

    monkeypatch.setattr(submit, "_values", breaks)
    with pytest.raises(OSError, match="temporary"), farm.begin() as session:
        submit_batch(session, OWNER, words(45), name="b", limits=Limits(), now=NOW)
    with farm() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_warnings_of_many_rows_are_cut_and_that_is_said(
    farm: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "MAX_WARNINGS", 3)
    rows = ({"prompt": f"fox <lora:ink:{n}:hr=0.5>"} for n in range(1, 10))
    with farm.begin() as session:
        result = submit_batch(session, OWNER, rows, name="b", limits=Limits(), now=NOW)
    assert len(set(result.warnings)) == 4, result.warnings
    assert result.warnings[-1] == "there are more warnings; each job shows its own"


def test_drafts_come_back_in_order() -> None:
    with Drafts() as kept:
        first = kept.share({"clean_prompt": "ä\t\n"})
        kept.add(first, 2**53, ["a b"], None, "bulk")
        second = kept.share({"clean_prompt": "🦊"})
        kept.add(second, 1, [], "https://example.org", "normal")
        kept.add(first, 2, [], None, "normal")
        assert len(kept) == 3
        assert [(row.shared["clean_prompt"], row.seed, row.tags) for row in kept] == [
            ("ä\t\n", 2**53, ["a b"]), ("🦊", 1, []), ("ä\t\n", 2, []),
        ]  # fmt: skip
