"""Held jobs, patience, verdicts, rates, names and the device, each alone."""

from __future__ import annotations

import errno
import platform
from pathlib import Path

import pytest
import torch
from sqlalchemy.exc import OperationalError

from farm.errors import BadRequest, Conflict, NoRoom, NotFound, Permanent, Transient
from farm.jobs.attempts import HeartbeatAnswer
from farm.jobs.reports import WorkerReport
from farm.jobs.states import Stage
from farm.jobs.workers import WorkerOrders
from farm.worker import device
from farm.worker.held import Hands, HeldJob, Interrupted
from farm.worker.keeper import Keeper
from farm.worker.name import take_name
from farm.worker.outcomes import TABLE, Endings, Kind, judge
from farm.worker.patience import Patience
from farm.worker.pulse import Heartbeat, Poll
from farm.worker.rates import Rates
from tests.unit.worker.fakes import ManualClock, effects

AWAY = OperationalError("select 1", {}, Exception("connection refused"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def hands(clock: ManualClock) -> Hands:
    return Hands(clock)


def test_a_heartbeats_answer_reaches_the_jobs_it_names(hands: Hands) -> None:
    lost, cancelled, fine = (hands.take(name, 1) for name in ("a", "b", "c"))
    hands.obey(HeartbeatAnswer(lost=frozenset({"a"}), cancel=frozenset({"b", "unknown"})), hands.beats())
    fine.check()
    for held, reason in ((lost, "lost"), (cancelled, "cancelled")):
        with pytest.raises(Interrupted) as told:
            held.check()
        assert told.value.reason == reason


def test_an_answer_about_an_earlier_attempt_is_nothing_to_a_later_one(hands: Hands) -> None:
    asked = [("a", 1, "sampling", 3)]
    held = hands.take("a", 2)
    hands.obey(HeartbeatAnswer(lost=frozenset({"a"}), cancel=frozenset()), asked)
    held.check()


def test_a_job_that_is_to_give_way_notices_before_sampling_only(hands: Hands) -> None:
    held = hands.take("a", 1)
    hands.obey(
        HeartbeatAnswer(lost=frozenset(), cancel=frozenset(), give_way=frozenset({"a"})), hands.beats()
    )
    held.check()
    with pytest.raises(Interrupted, match="preempted"):
        held.check_before_sampling()


def test_beats_tell_stage_and_step(hands: Hands, clock: ManualClock) -> None:
    held = hands.take("a", 3)
    with held.timed(Stage.SAMPLING, clock):
        held.step = 4
        clock.sleep(2)
        assert hands.beats() == [("a", 3, "sampling", 4)]
    assert held.timings.as_dict()["sampling"] == 2
    hands.let_go(held)
    assert (hands.beats(), hands.current(), hands.done) == ([], (), 1)


def test_while_stopping_only_what_fits_goes_on(hands: Hands, clock: ManualClock) -> None:
    short, long = hands.take("a", 1), hands.take("b", 1)
    hands.hand_back_unless(long, 1e9)
    long.check()
    hands.leave_within(10)
    clock.sleep(4)
    hands.hand_back_unless(short, 5)
    hands.hand_back_unless(long, 7)
    short.check()
    with pytest.raises(Interrupted, match="drained"):
        long.check()
    assert not hands.takes_jobs()
    assert hands.seconds_left() == 6


def test_patience_tries_again_with_growing_pauses(hands: Hands, clock: ManualClock) -> None:
    at: list[float] = []

    def action() -> str:
        at.append(round(clock.seconds, 3))
        if len(at) < 4:
            raise Transient("away") if len(at) % 2 else AWAY
        return "done"

    assert Patience(hands=hands, clock=clock).until_done("test", action) == "done"
    assert at == [0, 0.2, 0.7, 1.7]


def test_patience_ends_after_ten_minutes(hands: Hands, clock: ManualClock) -> None:
    def action() -> None:
        raise Transient("away")

    with pytest.raises(Transient):
        Patience(hands=hands, clock=clock).until_done("test", action)
    assert 580 < clock.seconds <= 600


def test_patience_does_not_outlast_a_stopping_worker(hands: Hands, clock: ManualClock) -> None:
    hands.leave_within(5)

    def action() -> None:
        raise Transient("away")

    with pytest.raises(Transient):
        Patience(hands=hands, clock=clock).until_done("test", action)
    assert clock.seconds <= 5


def test_a_cancel_ends_patience(hands: Hands, clock: ManualClock) -> None:
    held = hands.take("a", 1)

    def action() -> None:
        raise Transient("away")

    def cancel(now: float) -> None:
        held.cancel = now > 3

    clock.on_sleep = cancel
    with pytest.raises(Interrupted):
        Patience(hands=hands, clock=clock).until_done("test", action, held)
    assert clock.seconds < 4


@pytest.mark.parametrize("error", [Permanent("no"), BadRequest("no"), NotFound("no"), ValueError("no")])
def test_what_no_waiting_cures_is_not_waited_for(hands: Hands, clock: ManualClock, error: Exception) -> None:
    def action() -> None:
        raise error

    with pytest.raises(type(error)):
        Patience(hands=hands, clock=clock).until_done("test", action)
    assert clock.seconds == 0


def test_a_full_disk_is_not_waited_for(hands: Hands, clock: ManualClock) -> None:
    def action() -> None:
        raise NoRoom("full")

    with pytest.raises(Transient):
        Patience(hands=hands, clock=clock).until_done("test", action)
    assert clock.seconds == 0


@pytest.mark.parametrize(("error", "kind", "code"), [
    (Transient("away", code="store_unreachable"), Kind.TRANSIENT, "store_unreachable"),
    (Permanent("bad", code="damaged_file"), Kind.PERMANENT, "damaged_file"),
    (BadRequest("bad", code="no_layer_matches"), Kind.PERMANENT, "no_layer_matches"),
    (NotFound("gone"), Kind.PERMANENT, "not_found"),
    (AWAY, Kind.TRANSIENT, "database_away"),
    (ConnectionResetError("reset"), Kind.TRANSIENT, "connection_lost"),
    (TimeoutError("late"), Kind.TRANSIENT, "timeout"),
    (OSError(5, "input/output error"), Kind.TRANSIENT, "io_error"),
    (OSError(errno.ENOSPC, "no space left"), Kind.BLOCKED, "disk_full"),
    (NoRoom("full"), Kind.BLOCKED, "disk_full"),
    (NoRoom("read-only", code="disk_closed"), Kind.BLOCKED, "disk_closed"),
    (KeyError("weight"), Kind.PERMANENT, "internal_error"),
    (MemoryError(), Kind.OOM, "out_of_memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), Kind.OOM, "out_of_memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Kind.OOM, "out_of_memory"),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), Kind.DEVICE, "device_broken"),
    (RuntimeError("shape mismatch"), Kind.PERMANENT, "internal_error"),
])  # fmt: skip
def test_verdicts(error: Exception, kind: Kind, code: str) -> None:
    verdict = judge(error)
    assert (verdict.kind, verdict.code) == (kind, code)
    assert verdict.message


def test_every_exception_has_a_verdict() -> None:
    assert TABLE[-1][0] is Exception


def test_endings_tell_sql_what_happened(hands: Hands, clock: ManualClock) -> None:
    held = hands.take("a", 1)
    recorded: list[tuple[str, str]] = []

    def note(outcome: str) -> object:
        def record(held: object, code: str = "", message: str = "") -> bool:
            recorded.append((outcome, code))
            return True

        return record

    patience = Patience(hands=hands, clock=clock)
    endings = Endings(
        effects(**{name: note(name) for name in ("fail", "retry_later", "hand_back", "cancelled")}),
        patience,
        Keeper(effects(), patience),
    )
    states = [
        endings.failed(held, Permanent("bad", code="damaged_file")),
        endings.failed(held, Transient("away")),
        endings.interrupted(held, Interrupted("drained")),
        endings.interrupted(held, Interrupted("cancelled")),
        endings.interrupted(held, Interrupted("lost")),
    ]
    assert states == ["failed", "queued", "queued", "cancelled", None]
    assert recorded == [
        ("fail", "damaged_file"),
        ("retry_later", "transient"),
        ("hand_back", "drained"),
        ("cancelled", ""),
    ]
    assert not hands.broken.is_set()
    endings.failed(held, RuntimeError("CUDA error: device-side assert triggered"))
    assert recorded[-1] == ("retry_later", "device_broken")
    assert hands.broken.is_set()


def test_g12_a_worker_without_room_hands_back_and_takes_nothing_until_it_has(
    hands: Hands, clock: ManualClock
) -> None:
    recorded: list[tuple[str, ...]] = []

    def hand_back(held: HeldJob, outcome: str, why: str) -> bool:
        recorded.append((held.id, outcome, why))
        return True

    patience = Patience(hands=hands, clock=clock)
    given = effects(hand_back=hand_back, assigned=lambda: [("b", 4)], beat=beat)
    endings = Endings(given, patience, Keeper(effects(), patience))
    assert hands.takes_jobs()
    assert endings.failed(hands.take("a", 1), NoRoom("the disk is full", needed=500)) == "queued"
    assert not hands.takes_jobs()
    poll = Poll(given, hands, None, None, lambda: 0, lambda: None, 1.0)  # type: ignore[arg-type]
    poll.look()
    assert recorded == [("a", "blocked", "the disk is full"), ("b", "blocked", "the disk is full")]
    free = [499, 500]
    heartbeat = Heartbeat(
        given, hands, None, WorkerReport, lambda: None, lambda: None, lambda size: free.pop(0) >= size, lambda job: None,
        "w", 1.0,
    )  # type: ignore[arg-type]  # fmt: skip
    heartbeat.beat()
    assert hands.blocked
    heartbeat.beat()
    assert not hands.blocked
    assert hands.takes_jobs()


def beat(*_: object) -> tuple[WorkerOrders, HeartbeatAnswer]:
    return WorkerOrders(drain=False, gone=False), HeartbeatAnswer(lost=frozenset(), cancel=frozenset())


def test_an_ending_that_cannot_be_recorded_is_left_to_the_lease(hands: Hands, clock: ManualClock) -> None:
    def fail(*_: object) -> bool:
        raise AWAY

    patience = Patience(hands=hands, clock=clock)
    endings = Endings(effects(fail=fail), patience, Keeper(effects(), patience))
    assert endings.failed(hands.take("a", 1), Permanent("bad")) is None


def test_rates_are_moving_averages_per_picture() -> None:
    rates = Rates()
    rates.step_took("k", 4.0, 2)
    assert rates.seconds_per_step() == {"k": 2.0}
    rates.step_took("k", 1.0, 1)
    assert rates.seconds_per_step()["k"] == pytest.approx(1.7)
    for number in range(300):
        rates.load_took(str(number), 1.0)
    assert len(rates.load_seconds()) == 200
    assert "299" in rates.load_seconds()


def test_names_are_unique_on_a_machine_and_stay_the_same(tmp_path: Path) -> None:
    host = platform.node().split(".")[0]
    first, lock = take_name("", "cuda:0", tmp_path)
    second, other = take_name("", "cuda:0", tmp_path)
    assert (first, second) == (f"{host}-cuda0", f"{host}-cuda0-2")
    lock.close()
    again, lock = take_name("", "cuda:0", tmp_path)
    assert again == first
    named, mine = take_name("gpu 1", "cpu", tmp_path)
    assert named == "gpu 1"
    with pytest.raises(Conflict, match="gpu 1"):
        take_name("gpu 1", "cpu", tmp_path)
    for file in (lock, other, mine):
        file.close()


def test_the_cpu_is_always_there_and_others_are_refused_in_words() -> None:
    cpu = device.pick_device("cpu")
    assert (cpu.name, cpu.is_cuda) == ("cpu", False)
    assert cpu.title
    assert 0 < cpu.memory_free() <= cpu.memory_total
    cpu.give_back_memory()
    for name in ("cuda:99", "tpu", "cuda:x"):
        with pytest.raises(BadRequest, match=f"no {name}"):
            device.pick_device(name)


@pytest.mark.parametrize(("text", "size"), [
    ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has", 20 * 2**20),
    ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes.", 123),
    ("out of memory", None),
])  # fmt: skip
def test_what_an_allocation_asked_for(text: str, size: int | None) -> None:
    assert device.needed_bytes(RuntimeError(text)) == size
