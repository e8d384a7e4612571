"""Schedulers are killed, stopped and doubled; messages and clocks lie; receivers of webhooks are dead."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from farm.jobs import control
from tests.chaos.fleet import UNHURRIED, Fault, Fleet, await_stopped, kill, leader
from tests.support import jobs as rows

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: what differs between databases is tested with the statements themselves."""
    return sqlite_url


def test_g02_messages_doubled_reordered_and_late_claim_each_attempt_once(fleet: Fleet) -> None:
    fleet.scheduler(Fault("send_render", act="scramble"))
    for name in ("one", "two"):
        fleet.worker(name, poll_seconds=30.0)
    fleet.submit(12)
    fleet.finished()
    assert {rows.events_of(fleet.rig.sessions, job).count("succeed") for job in fleet.jobs} == {1}


def test_g02_messages_that_celery_takes_for_lost_start_their_job_once(fleet: Fleet) -> None:
    fleet.scheduler()
    fleet.worker("one", Fault("step", act="slow"), Fault("messages", act="redeliver"), poll_seconds=60.0)
    # long enough that its message comes again while it runs; then it need not go on
    (job,) = fleet.submit(steps=500)
    log = fleet.rig.folder / "one.log"
    fleet.rig.wait_until(lambda: log.exists() and log.read_text().count(f"received {job}") > 1, fleet.logs)
    assert fleet.rig.job(job).state == "running"
    with fleet.rig.sessions.begin() as session:
        control.cancel(session, rows.OWNER, job, rows.NOW)
    fleet.finished("cancelled")
    assert rows.events_of(fleet.rig.sessions, job) == ["assign", "claim", "request_cancel", "cancelled"]


def test_g10_clocks_an_hour_off_and_jumping_expire_nothing(fleet: Fleet) -> None:
    fleet.scheduler(jump=3600, **UNHURRIED)
    fleet.worker("early", jump=-3600)
    fleet.worker("late", jump=1800)
    fleet.submit(8)
    fleet.finished()
    assert {(rig_job.attempt, rig_job.crash_count) for rig_job in map(fleet.rig.job, fleet.jobs)} == {(1, 0)}


def test_g11_a_leader_killed_between_commit_and_publish_is_replaced_and_the_message_sent(
    fleet: Fleet,
) -> None:
    doomed = fleet.scheduler(Fault("send_render"))
    fleet.worker("one", poll_seconds=60.0)
    (job,) = fleet.submit()
    doomed.join(60)
    assert doomed.exitcode == -signal.SIGKILL
    assert fleet.rig.job(job).state == "assigned"
    fleet.scheduler(claim_seconds=2.5)
    fleet.finished()
    assert fleet.rig.job(job).attempt == 1


def test_g11_of_several_schedulers_one_leads_whichever_is_killed_or_stopped(fleet: Fleet) -> None:
    first = fleet.scheduler()
    fleet.worker("one")
    assert leader(fleet, [first]) is first
    fleet.submit(4)
    # stops itself between a commit and the message, as soon as it leads and assigns
    second = fleet.scheduler(Fault("send_render", act="stop"))
    kill(first)
    fleet.submit(4)
    await_stopped(second, fleet)
    third = fleet.scheduler()
    assert leader(fleet, [third]) is third
    # two that believe to lead: the one that wakes finds its epoch gone
    kill(second, signal.SIGCONT)
    fleet.rig.wait_until(lambda: fleet.logged("standing_by"), fleet.logs)
    fleet.submit(4)
    fleet.finished()
    assert leader(fleet, [second, third]).is_alive()


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent; while `hangs`, it answers nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ids: list[str] = []
        self.answers = 0
        self.bodies: list[bytes] = []
        self.awake = threading.Event()
        self.awake.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.server.ids.append(self.headers["webhook-id"])
        self.server.awake.wait(120)
        self.server.answers += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.awake.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_g17_a_webhook_whose_sender_dies_is_sent_again_under_the_same_id(
    fleet: Fleet, receiver: Receiver
) -> None:
    doomed = fleet.scheduler(Fault("deliver", "after"), webhook_private=True)
    fleet.worker("one")
    fleet.submit_with_webhook(receiver.url)
    doomed.join(60)
    assert doomed.exitcode == -signal.SIGKILL
    fleet.scheduler(webhook_private=True)
    fleet.rig.wait_until(lambda: len(receiver.ids) == 2, fleet.logs)
    fleet.finished()
    assert len(set(receiver.ids)) == 1
    assert fleet.jobs[0].encode() in receiver.bodies[1]


def test_g17_a_receiver_that_hangs_delays_no_job(fleet: Fleet, receiver: Receiver) -> None:
    receiver.awake.clear()
    scheduler = fleet.scheduler(webhook_private=True)
    fleet.worker("one")
    fleet.submit_with_webhook(receiver.url)
    fleet.rig.wait_until(lambda: bool(receiver.ids), fleet.logs)
    # the receiver holds its sender now, and goes on doing so until these have ended
    others = fleet.submit(3)
    fleet.rig.wait_until(lambda: all(fleet.rig.job(job).state == "succeeded" for job in others), fleet.logs)
    assert receiver.answers == 0
    assert scheduler.is_alive()
