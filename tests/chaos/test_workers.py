"""Workers are killed, stopped and cut off at every place where they touch the world."""

from __future__ import annotations

import signal
from io import BytesIO

import pytest
from PIL import Image as Pictures
from sqlalchemy import select

from farm.db.models import Worker as WorkerRow
from tests.chaos.fleet import Fault, Fleet, kill
from tests.support.worker import Rig

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: what differs between databases is tested with the statements themselves."""
    return sqlite_url


def up(rig: Rig, name: str) -> str:
    """The id of a worker once it is up."""
    found: list[str] = []

    def look() -> bool:
        with rig.sessions() as session:
            found[:] = session.scalars(
                select(WorkerRow.id).where(WorkerRow.name.startswith(name), WorkerRow.state == "up")
            ).all()
        return bool(found)

    rig.wait_until(look, lambda: name)
    return found[0]


def pixels(rig: Rig, job_id: str) -> bytes:
    return Pictures.open(BytesIO(rig.picture(job_id))).tobytes()


PLACES = (
    Fault("claim", "after"),
    Fault("read_job", "after"),
    Fault("load_model", "before"),
    Fault("step", "before"),
    Fault("step", "after", call=2),
    Fault("upload", "before"),
    Fault("upload", "after"),
    Fault("succeed", "before"),
    Fault("succeed", "after"),
)


def test_g01_g19_a_worker_killed_at_any_place_costs_no_job_and_no_pixel(fleet: Fleet) -> None:
    rig = fleet.rig
    doomed = {fault: fleet.worker(f"doomed-{place}", fault) for place, fault in enumerate(PLACES)}
    for place, process in enumerate(doomed.values()):
        (job,) = fleet.submit()
        rig.assign(job, up(rig, f"doomed-{place}"))
        del process
    for process in doomed.values():
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, fleet.logs()
    fleet.scheduler()
    fleet.worker("healthy")
    fleet.finished()
    attempts = {fault: rig.job(job).attempt for fault, job in zip(doomed, fleet.jobs, strict=True)}
    # what was recorded before its worker died is not rendered again; all else is, once
    assert attempts == {fault: 1 if fault == Fault("succeed", "after") else 2 for fault in PLACES}
    assert len({pixels(rig, job) for job in fleet.jobs}) == 1
