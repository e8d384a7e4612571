"""Every guard, term by term: what a transition must not touch stays as it is, in every table. On SQLite in memory.

Each table below names a call and the situations in which it has to change nothing; a job of every state stands by
twice, so that a term that is missing shows in the rows of another job, owner, worker or attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session, sessionmaker

from farm.db.engine import make_engine, make_sessions
from farm.db.models import Attempt, Base, Batch, Job, Lease
from farm.errors import FarmError
from farm.jobs import attempts, control, leases, resuming
from farm.jobs.states import TRANSITIONS
from tests.support.jobs import EPOCH, LATER, NOW, OWNER, STRANGER, add_job, add_worker, seed
from tests.support.jobs import new_image as image

Sessions = sessionmaker[Session]
Call = Callable[[Session, str, int], Any]
Dump = dict[tuple[str, str], dict[str, Any]]

#: the present attempt of every job; each had one before
ATTEMPT = 2
ELSEWHERE = ("batch_2", "running")
STATES = ("queued", "assigned", "running", "cancelling", "succeeded", "failed", "quarantined", "cancelled")


class World:
    """Two workers, three batches, and jobs of every state."""

    def __init__(self, copied: World | None = None) -> None:
        self.engine = make_engine("sqlite://")
        self.sessions = make_sessions(self.engine)
        if copied is None:
            self._fill()
            return
        self.here, self.there, self.jobs = copied.here, copied.there, copied.jobs
        with copied.engine.connect() as source, self.engine.connect() as target:
            source.connection.dbapi_connection.backup(target.connection.dbapi_connection)  # type: ignore[union-attr]

    def _fill(self) -> None:
        Base.metadata.create_all(self.engine)
        seed(self.sessions)
        self.here, self.there = (add_worker(self.sessions, name) for name in ("here", "there"))
        with self.sessions.begin() as session:
            # of another name, with what the leader's lease has not
            session.add(Lease(name="other", holder="somebody", epoch=EPOCH + 7, seq=5))
            for name, owner in (("batch_1", OWNER), ("batch_2", OWNER), ("batch_3", STRANGER)):
                session.add(Batch(id=name, owner_id=owner, name=name, total=1, created_at=NOW))
        self.jobs = {
            (batch, state): self.add(batch, state)
            for batch in ("batch_1", "batch_2", "batch_3")
            for state in STATES
        }

    def add(self, batch: str, state: str) -> str:
        plain = {"cancelling": "running", "quarantined": "failed"}.get(state, state)
        held = plain in ("assigned", "running")
        owner = STRANGER if batch == "batch_3" else OWNER
        job = add_job(
            self.sessions, owner, id=f"job_{batch}_{state}", batch_id=batch, state=plain, attempt=ATTEMPT,
            worker_id=self.here if held else None, hb_seq=4, crash_count=0, retry_count=1, webhook="https://a.example/",
            result_attempt=ATTEMPT if plain == "succeeded" else None,
            error_code={"failed": "bad", "quarantined": "quarantined"}.get(state),
            cancel_requested_at=NOW if state in ("cancelling", "cancelled") else None,
            finished_at=NOW if plain in ("succeeded", "failed", "cancelled") else None,
            checkpoint_key=f"{batch} {state}",
        )  # fmt: skip
        with self.sessions.begin() as session:
            for number in range(1, ATTEMPT + (plain != "assigned")):
                session.add(
                    Attempt(
                        job_id=job, attempt=number, worker_id=self.here, started_at=NOW, timings={},
                        ended_at=None if number == ATTEMPT and plain == "running" else NOW,
                        outcome=None if number == ATTEMPT and plain == "running" else "drained",
                    )
                )  # fmt: skip
        return job

    def dump(self) -> Dump:
        """Every row of every table, by table and key; events by their job."""
        found: Dump = {}
        with self.sessions() as session:
            for table in Base.metadata.sorted_tables:
                for row in session.execute(select(table)).mappings():
                    key = "/".join(str(row[column.name]) for column in table.primary_key)
                    found[table.name, key] = dict(row)
        return found

    def do(self, call: Callable[[Session], Any]) -> tuple[Any, set[tuple[str, str]]]:
        """What a call returned, and the rows that it changed or made; an error is its answer."""
        before = self.dump()
        answer: Any
        try:
            with self.sessions.begin() as session:
                answer = call(session)
        except FarmError as error:
            answer = error
        after = self.dump()
        return answer, {key for key, row in after.items() if before.get(key) != row}

    def of(self, changed: set[tuple[str, str]]) -> set[tuple[str, int]]:
        """The jobs, with their attempts where a row has one, that rows belong to; 0 where it has none."""
        rows = self.dump()
        return {(str(row.get("job_id", row.get("id"))), int(row.get("attempt") or 0)) for row in map(rows.get, changed) if row}  # fmt: skip

    @staticmethod
    def nothing(answer: Any, changed: set[tuple[str, str]]) -> bool:
        return (not answer or isinstance(answer, FarmError)) and not changed


@pytest.fixture(scope="module")
def first() -> World:
    """Made once, and copied for each test."""
    return World()


@pytest.fixture
def world(first: World) -> Iterator[World]:
    made = World(first)
    yield made
    made.engine.dispose()


#: (transition, the state it starts from, the call)
CALLS: list[tuple[str, str, Call]] = [
    ("assign", "queued", lambda s, job, attempt: attempts.assign(s, job, attempt, _here(s), NOW, epoch=EPOCH)),
    ("claim", "assigned", lambda s, job, attempt: attempts.claim(s, job, attempt, _here(s), NOW)),
    ("unassign", "assigned", lambda s, job, attempt: attempts.unassign(s, job, attempt, NOW, epoch=EPOCH)),
    ("note_send", "assigned", attempts.note_send),
    ("heartbeat", "running", lambda s, job, attempt: not attempts.heartbeat(s, _here(s), [(job, attempt, "sampling", 3)]).lost),
    ("succeed", "running", lambda s, job, attempt: attempts.succeed(s, job, attempt, [image()], {}, NOW)),
    ("fail", "running", lambda s, job, attempt: attempts.fail(s, job, attempt, "bad", "it broke", NOW)),
    ("retry_later", "running", lambda s, job, attempt: attempts.retry_later(s, job, attempt, "away", "away", NOW)),
    ("hand_back", "running", lambda s, job, attempt: attempts.hand_back(s, job, attempt, NOW)),
    ("hand_back", "assigned", lambda s, job, attempt: attempts.hand_back(s, job, attempt, NOW)),
    ("lose", "running", lambda s, job, attempt: attempts.lose(s, job, attempt, 4, crash_limit=3, now=NOW, epoch=EPOCH)),
    ("quarantine", "running", lambda s, job, attempt: attempts.lose(s, job, attempt, 4, crash_limit=1, now=NOW, epoch=EPOCH)),
    ("cancelled", "cancelling", lambda s, job, attempt: attempts.cancelled(s, job, attempt, NOW)),
    ("note_checkpoint", "running", lambda s, job, attempt: resuming.note_checkpoint(s, job, attempt, "k", "h", 3)),
    ("resume", "running", lambda s, job, attempt: resuming.resumed(s, job, attempt, 3, "went on", NOW)),
    ("preempt", "running", lambda s, job, attempt: resuming.preempt(s, job, attempt, "urgent", NOW, epoch=EPOCH)),
]  # fmt: skip
IDS = [f"{name} {state}" for name, state, _ in CALLS]
#: states from which a call may start besides those of its transition
ALSO = {"note_send": {"assigned"}, "note_checkpoint": {"running"}}


def _here(session: Session) -> str:
    from farm.db.models import Worker

    return session.execute(select(Worker.id).where(Worker.name == "here")).scalar_one()


def _sources(name: str) -> set[str]:
    sources = ALSO.get(name) or {str(state) for state in TRANSITIONS[name].sources}
    if name == "cancelled":
        return {"cancelling"}
    return sources | ({"cancelling"} if "running" in sources else set())


@pytest.mark.parametrize(("name", "state", "call"), CALLS, ids=IDS)
def test_a_transition_changes_its_own_job_and_attempt_alone(
    world: World, name: str, state: str, call: Call
) -> None:
    if name == "claim":
        # whoever runs beside it is another test's
        _end_all(world, "running", "cancelling")
    job = world.jobs["batch_1", state]
    answer, changed = world.do(lambda session: call(session, job, ATTEMPT))
    assert answer
    assert changed
    new = ATTEMPT + (name == "assign")
    assert world.of(changed) <= {(job, new), (job, 0)}


@pytest.mark.parametrize(("name", "state", "call"), CALLS, ids=IDS)
def test_from_any_other_state_a_transition_does_nothing(
    world: World, name: str, state: str, call: Call
) -> None:
    for other in sorted(set(STATES) - _sources(name)):
        job = world.jobs["batch_1", other]
        answer, changed = world.do(lambda session, job=job: call(session, job, ATTEMPT))
        if name == "succeed" and other == "succeeded":
            # this attempt's own result
            assert (answer, changed) == (True, set())
        else:
            assert world.nothing(answer, changed), (other, answer, changed)
    assert state in _sources(name)


@pytest.mark.parametrize(("name", "state", "call"), CALLS, ids=IDS)
def test_for_any_other_attempt_a_transition_does_nothing(
    world: World, name: str, state: str, call: Call
) -> None:
    if name == "claim":
        _end_all(world, "running", "cancelling")
    job, done = world.jobs["batch_1", state], world.jobs["batch_1", "succeeded"]
    for attempt in (0, ATTEMPT - 1, ATTEMPT + 1):
        assert world.nothing(*world.do(lambda session, a=attempt: call(session, job, a))), attempt
    if name == "succeed":
        for attempt in (ATTEMPT - 1, ATTEMPT + 1):
            assert world.nothing(*world.do(lambda session, a=attempt: call(session, done, a))), attempt


@pytest.mark.parametrize("name", ["assign", "unassign", "lose", "preempt"])
@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1, EPOCH + 7])
def test_an_epoch_that_does_not_lead_does_nothing(world: World, name: str, epoch: int) -> None:
    calls: dict[str, tuple[str, Call]] = {
        "assign": ("queued", lambda s, job, a: attempts.assign(s, job, a, world.here, NOW, epoch=epoch)),
        "unassign": ("assigned", lambda s, job, a: attempts.unassign(s, job, a, NOW, epoch=epoch)),
        "lose": ("running", lambda s, job, a: attempts.lose(s, job, a, 4, crash_limit=3, now=NOW, epoch=epoch)),
        "preempt": ("running", lambda s, job, a: resuming.preempt(s, job, a, "urgent", NOW, epoch=epoch)),
    }  # fmt: skip
    state, call = calls[name]
    assert world.nothing(*world.do(lambda session: call(session, world.jobs["batch_1", state], ATTEMPT)))


def test_another_worker_claims_nothing_and_beats_for_nothing(world: World) -> None:
    _end_all(world, "running")
    job = world.jobs["batch_1", "assigned"]
    assert world.nothing(*world.do(lambda s: attempts.claim(s, job, ATTEMPT, world.there, NOW)))
    beat = (world.jobs["batch_1", "cancelling"], ATTEMPT, "sampling", 3)
    answer, changed = world.do(lambda s: attempts.heartbeat(s, world.there, [beat]))
    assert (answer.lost, changed) == ({beat[0]}, set())


def test_a_heartbeat_of_one_attempt_keeps_no_other_of_the_same_job(world: World) -> None:
    job = world.jobs["batch_1", "running"]
    answer, changed = world.do(
        lambda s: attempts.heartbeat(s, world.here, [(job, ATTEMPT - 1, "sampling", 1)])
    )
    assert (answer.lost, changed) == ({job}, set())


def test_a_worker_is_told_of_its_own_assigned_jobs_alone(world: World) -> None:
    with world.sessions() as session:
        given = attempts.assigned_to(session, world.here)
        assert {job for job, _ in given} == {
            job for (_, state), job in world.jobs.items() if state == "assigned"
        }
        assert attempts.assigned_to(session, world.there) == []


def test_a_paused_or_cancelled_job_is_not_assigned(world: World) -> None:
    job = world.jobs["batch_1", "queued"]

    def assign(session: Session) -> bool:
        return attempts.assign(session, job, ATTEMPT, world.here, NOW, epoch=EPOCH)

    _set(world, job, not_before=NOW + timedelta(seconds=1))
    assert world.nothing(*world.do(assign))
    _set(world, job, not_before=NOW)
    assert world.do(assign)[0]


def test_what_is_cancelled_needs_to_be_asked_for(world: World) -> None:
    job = world.jobs["batch_1", "running"]
    assert world.nothing(*world.do(lambda s: attempts.cancelled(s, job, ATTEMPT, NOW)))


def test_a_heartbeat_that_moved_on_is_not_lost(world: World) -> None:
    job = world.jobs["batch_1", "running"]
    for seen in (3, 5):
        lose = lambda s, n=seen: attempts.lose(s, job, ATTEMPT, n, crash_limit=3, now=NOW)  # noqa: E731
        assert world.nothing(*world.do(lose))


def test_an_attempt_is_asked_once_to_give_way(world: World) -> None:
    job = world.jobs["batch_1", "running"]
    ask = lambda s: resuming.preempt(s, job, ATTEMPT, "urgent", NOW, epoch=EPOCH)  # noqa: E731
    assert world.do(ask)[0]
    assert world.nothing(*world.do(ask))


@pytest.mark.parametrize(
    ("mine", "beside", "begins"),
    [
        # (crashes of the job, (state, crashes, on the same worker) of the other one, whether the job begins)
        (1, ("running", 0, True), False), (1, ("assigned", 0, True), True), (1, ("running", 0, False), True),
        (0, ("running", 0, True), True), (0, ("running", 1, True), False), (0, ("assigned", 1, True), False),
        (0, ("assigned", 0, True), True), (0, ("running", 1, False), True), (0, ("queued", 1, False), True),
        (1, ("assigned", 1, True), True),
    ],
)  # fmt: skip
def test_what_was_lost_has_its_worker_to_itself(
    world: World, mine: int, beside: tuple[str, int, bool], begins: bool
) -> None:
    _end_all(world, "assigned", "running", "cancelling")
    job = add_job(world.sessions, state="assigned", attempt=1, worker_id=world.here, crash_count=mine)
    state, crashes, here = beside
    worker = None if state == "queued" else world.here if here else world.there
    add_job(world.sessions, state=state, attempt=1, worker_id=worker, crash_count=crashes)
    assert world.do(lambda s: attempts.claim(s, job, 1, world.here, NOW))[0] == begins


def test_the_number_of_crashes_is_counted_on_from_what_was_read(world: World) -> None:
    job = world.jobs["batch_1", "running"]
    changing = f"UPDATE jobs SET crash_count = 0 WHERE id = '{job}'"
    _set(world, job, crash_count=1)
    with _between(world, changing):
        assert not world.do(lambda s: attempts.lose(s, job, ATTEMPT, 4, crash_limit=9, now=NOW))[0]


@pytest.mark.parametrize("changing", ["state = 'queued'", "attempt = attempt + 1"])
def test_a_retry_of_what_has_changed_meanwhile_is_refused(world: World, changing: str) -> None:
    job = world.jobs["batch_1", "failed"]
    with _between(world, f"UPDATE jobs SET {changing} WHERE id = '{job}'"):
        answer, _ = world.do(lambda s: control.retry(s, OWNER, job, NOW))
    assert getattr(answer, "code", "") == "job_changed"


# owners

OWNERS: list[tuple[str, str, Callable[[Session, str, str], Any]]] = [
    ("cancel", "queued", lambda s, owner, job: control.cancel(s, owner, job, NOW)),
    ("cancel", "assigned", lambda s, owner, job: control.cancel(s, owner, job, NOW)),
    ("cancel", "running", lambda s, owner, job: control.cancel(s, owner, job, NOW)),
    ("retry", "failed", lambda s, owner, job: control.retry(s, owner, job, NOW)),
    ("retry", "cancelled", lambda s, owner, job: control.retry(s, owner, job, NOW)),
    ("set_priority", "queued", lambda s, owner, job: control.set_priority(s, owner, job, "bulk", NOW)),
]
OWNER_IDS = [f"{name} {state}" for name, state, _ in OWNERS]


@pytest.mark.parametrize(("name", "state", "call"), OWNERS, ids=OWNER_IDS)
def test_an_owner_changes_the_one_job_of_theirs_alone(
    world: World, name: str, state: str, call: Callable[[Session, str, str], Any]
) -> None:
    job = world.jobs["batch_1", state]
    answer, changed = world.do(lambda s: call(s, OWNER, job))
    assert not isinstance(answer, FarmError)
    assert {found for found, _ in world.of(changed)} == {job}
    other = world.jobs["batch_3", state]
    answer, changed = world.do(lambda s: call(s, OWNER, other))
    assert (getattr(answer, "code", ""), changed) == ("no_job", set()), name


@pytest.mark.parametrize(("name", "call"), {name: call for name, _, call in OWNERS}.items())
def test_an_owner_changes_nothing_in_any_other_state(
    world: World, name: str, call: Callable[[Session, str, str], Any]
) -> None:
    fits = {state for other, state, _ in OWNERS if other == name}
    for state in sorted(set(STATES) - fits):
        _, changed = world.do(lambda s, state=state: call(s, OWNER, world.jobs["batch_1", state]))
        assert changed == set(), state


def test_a_second_cancel_changes_nothing(world: World) -> None:
    for state in ("queued", "running"):
        job = world.jobs["batch_1", state]
        world.do(lambda s, job=job: control.cancel(s, OWNER, job, NOW))
        assert world.do(lambda s, job=job: control.cancel(s, OWNER, job, LATER))[1] == set()


def test_a_batch_is_cancelled_and_no_other_job(world: World) -> None:
    _set(world, world.jobs["batch_1", "queued"], webhook=None)
    before = world.dump()
    count, changed = world.do(lambda s: control.cancel_batch(s, OWNER, "batch_1", LATER))
    ids = [world.jobs["batch_1", state] for state in ("queued", "assigned", "running")]
    assert count == len(ids)
    rows = world.dump()
    assert {key for table, key in changed if table == "jobs"} == set(ids)
    assert {key for table, key in changed if table == "batches"} == {"batch_1"}
    assert {row["job_id"]: row["transition"] for key in changed if key[0] == "job_events" for row in [rows[key]]} == {
        ids[0]: "cancel", ids[1]: "cancel", ids[2]: "request_cancel",
    }  # fmt: skip
    assert [rows[key]["job_id"] for key in changed if key[0] == "outbox"] == [ids[1]]
    # asked again, nothing more; neither by another owner
    assert world.do(lambda s: control.cancel_batch(s, OWNER, "batch_1", LATER + timedelta(1)))[1] == set()
    assert world.do(lambda s: control.cancel_batch(s, OWNER, "batch_3", LATER))[1] == set()
    assert before["jobs", world.jobs[ELSEWHERE]] == rows["jobs", world.jobs[ELSEWHERE]]


def test_the_failed_jobs_of_a_batch_are_retried_and_no_other(world: World) -> None:
    count, changed = world.do(lambda s: control.retry_failed(s, OWNER, "batch_1", NOW))
    assert count == 1
    assert {found for found, _ in world.of(changed)} == {world.jobs["batch_1", "failed"]}
    assert world.do(lambda s: control.retry_failed(s, OWNER, "batch_3", NOW))[1] == set()


def test_a_job_that_somebody_else_put_into_a_batch_is_not_of_it(world: World) -> None:
    job = world.jobs["batch_3", "queued"]
    failed = world.jobs["batch_3", "failed"]
    for found in (job, failed):
        _set(world, found, batch_id="batch_1")
    for call in (control.cancel_batch, control.retry_failed):
        _, changed = world.do(lambda s, call=call: call(s, OWNER, "batch_1", LATER))
        assert changed
        assert not {job, failed} & {found for found, _ in world.of(changed)}


def test_a_first_estimate_is_noted_for_the_waiting_job_alone_and_once(world: World) -> None:
    job = world.jobs["batch_1", "queued"]

    def note(job: str, start: datetime) -> Callable[[Session], None]:
        return lambda s: attempts.note_first_estimates(s, {job: start}, NOW)

    assert {found for found, _ in world.of(world.do(note(job, LATER))[1])} == {job}
    assert world.do(note(job, NOW))[1] == set()
    assert world.do(note(world.jobs["batch_1", "running"], NOW))[1] == set()


# leases


@pytest.mark.parametrize(
    "call",
    [
        lambda s: leases.take(s, "scheduler", "me", EPOCH + 1, 0), lambda s: leases.take(s, "scheduler", "me", EPOCH, 1),
        lambda s: leases.renew(s, "scheduler", "another", EPOCH), lambda s: leases.renew(s, "scheduler", "test", EPOCH + 1),
        lambda s: leases.release(s, "scheduler", "another", EPOCH),
        lambda s: leases.release(s, "scheduler", "test", EPOCH + 1),
        # what would fit the other lease
        lambda s: leases.take(s, "scheduler", "me", EPOCH + 7, 5), lambda s: leases.renew(s, "scheduler", "somebody", EPOCH + 7),
        lambda s: leases.release(s, "scheduler", "somebody", EPOCH + 7),
    ],
)  # fmt: skip
def test_a_lease_that_is_another_ones_stays(world: World, call: Callable[[Session], Any]) -> None:
    assert world.nothing(*world.do(call))


def test_a_lease_is_read_by_its_name(world: World) -> None:
    with world.sessions() as session:
        found = [leases.read(session, name) for name in ("scheduler", "other", "none")]
    assert [view and (view.holder, view.epoch, view.seq) for view in found] == [
        ("test", EPOCH, 0), ("somebody", EPOCH + 7, 5), None,
    ]  # fmt: skip


def _set(world: World, job: str, **values: Any) -> None:
    with world.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job).values(**values))


def _end_all(world: World, *states: str) -> None:
    """Put jobs of these states out of the way."""
    with world.sessions.begin() as session:
        for (_, state), job in world.jobs.items():
            if state in states:
                session.execute(
                    update(Job).where(Job.id == job).values(state="failed", worker_id=None, finished_at=NOW)
                )


class _between:
    """Another transaction's change, right before the next UPDATE of a job."""

    def __init__(self, world: World, statement: str):
        self._world, self._statement, self._done = world, statement, False

    def __enter__(self) -> None:
        event.listen(self._world.engine, "before_cursor_execute", self._interfere)

    def __exit__(self, *_: object) -> None:
        event.remove(self._world.engine, "before_cursor_execute", self._interfere)
        assert self._done

    def _interfere(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE jobs") and not self._done:
            self._done = True
            cursor.connection.execute(self._statement)
