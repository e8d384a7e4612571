"""One scheduler: lead or stand by; each round expire, plan, assign, tell. Everything it knows is read anew from SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from farm.clock import Clock
from farm.db.models import Job, Worker
from farm.jobs import attempts, forecast, guesses, losses, tallies, workers
from farm.scheduler.facts import Outlook, Snapshot
from farm.scheduler.foresight import foresight
from farm.scheduler.known import Knowledge
from farm.scheduler.leader import Leadership
from farm.scheduler.outbox import Deliver, deliver_due
from farm.scheduler.plan import plan
from farm.scheduler.preempt import preempt
from farm.scheduler.room import as_assignment, make_room
from farm.scheduler.share import Ledger
from farm.scheduler.snapshot import take_snapshot
from farm.scheduler.watch import StandstillWatch

log = structlog.get_logger()

SWEEP_SECONDS = 3600.0
#: Between two times that the ledger of shares is kept for the next leader.
LEDGER_SECONDS = 3.0
#: A long queue is explained once in so many seconds, a short one by every round; and what was told is kept fresh.
EXPLAIN_SECONDS = 1.0
LONG = 100
#: Seconds between two looks at how good the estimates were.
JUDGE_SECONDS = 5.0
#: Seconds between two summings up of what writers left to count.
TALLY_SECONDS = 5.0
#: Messages sent for one assignment before it is taken back.
MAX_SENDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Seconds; see the settings of the same names."""

    round_seconds: float
    lease_seconds: float
    leader_lease_seconds: float
    claim_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What the loop does to the world outside SQL."""

    #: (worker, job, attempt): put the message into the worker's queue
    send: Callable[[str, str, int], None]
    #: wait for the wake bell or the seconds given
    wait: Callable[[float], None]
    #: (topic, owner, data): tell open pages
    tell: Callable[[str, str, dict[str, object]], None]
    deliver: Deliver
    #: do what may take long beside the rounds; nothing while the last such work still goes on
    aside: Callable[[Callable[[], object]], None]
    #: remove what belongs to nobody from the store
    sweep: Callable[[datetime], None]
    #: since when the store does not answer; None while it does, as far as is known
    store_away: Callable[[], datetime | None] = lambda: None


class Scheduler:
    """State of one process: whether it leads, and which heartbeats it has seen when."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        effects: Effects,
        clock: Clock,
        timers: Timers,
        *,
        holder: str,
        window: int,
        crash_limit: int,
        running_limit: int = 0,
    ):
        self._sessions = sessions
        self._effects = effects
        self._clock = clock
        self._timers = timers
        self._window = window
        self._crash_limit = crash_limit
        self._running_limit = running_limit
        self._ledger = Ledger()
        self._knowledge = Knowledge()
        self._kept: tuple[float, dict[str, object]] = (clock.monotonic(), self._ledger.as_dict())
        self._swept_at = clock.monotonic()
        self._explained_at = self._tallied_at = float("-inf")
        self._judged_at = float("-inf")
        self._bars: tuple[guesses.Bar, ...] = guesses.GUESSED
        self._slowness = 1.0
        #: jobs whose first estimate is written
        self._foreseen: frozenset[str] = frozenset()
        self._leadership = Leadership(holder, timers.leader_lease_seconds)
        longest = max(timers.round_seconds, 1.0) * 2
        self._job_watch: StandstillWatch[tuple[str, int]] = StandstillWatch(timers.lease_seconds, longest)
        self._worker_watch: StandstillWatch[str] = StandstillWatch(timers.lease_seconds, longest)
        self._claim_watch: StandstillWatch[tuple[str, int]] = StandstillWatch(timers.claim_seconds, longest)

    @property
    def leads(self) -> bool:
        return self._leadership.epoch is not None

    def run(self, stopping: Callable[[], bool]) -> None:
        """Rounds until `stopping()`; a database that is away pauses them, nothing is decided meanwhile."""
        while not stopping():
            try:
                self.round()
            except DBAPIError as error:
                log.warning("database_away", error=str(error.orig))
            self._effects.wait(self._timers.round_seconds)
        with self._sessions.begin() as session:
            self._leadership.keep_ledger(session, self._ledger.as_dict())
            self._leadership.release(session)

    def round(self) -> int:
        """One round; returns the number of jobs assigned. Does nothing while another process leads."""
        with self._sessions.begin() as session:
            led_before = self.leads
            leading = self._leadership.tick(session, self._clock.monotonic())
            if leading and not led_before:
                self._ledger = Ledger.from_dict(self._leadership.read_ledger(session))
        if leading != led_before:
            log.info("leading" if leading else "standing_by", epoch=self._leadership.epoch)
        if not leading:
            return 0
        standing_still = self._expire()
        self._send_again()
        assigned = self._assign(standing_still)
        self._effects.aside(partial(deliver_due, self._sessions, self._effects.deliver, self._clock.now()))
        if self._clock.monotonic() - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = self._clock.monotonic()
            self._effects.sweep(self._clock.now())
        return assigned

    def _expire(self) -> set[str]:
        """Take back what was lost with its worker; returns workers whose heartbeat has stopped."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        with self._sessions() as session:
            rows = session.execute(
                select(Job.id, Job.attempt, Job.hb_seq, Job.worker_id).where(Job.state == "running")
            ).all()
            running = {(row.id, row.attempt): row.hb_seq for row in rows}
            beating = {
                row.id: row.seq
                for row in session.execute(select(Worker.id, Worker.seq).where(Worker.state != "gone"))
            }
        given_up = self._job_watch.observe(running, monotonic)
        still = set(self._worker_watch.observe(beating, monotonic))
        outage = bool(given_up) and self._in_outage({row.id: row.worker_id for row in rows}, given_up)
        for job_id, attempt in given_up:
            with self._sessions.begin() as session:
                lost = attempts.lose(
                    session,
                    job_id,
                    attempt,
                    running[job_id, attempt],
                    crash_limit=self._crash_limit,
                    now=now,
                    epoch=self._leadership.epoch,
                    outage=outage,
                )
            if lost:
                log.warning("job_lost", job_id=job_id, attempt=attempt)
                self._told(job_id)
        for worker_id in still:
            with self._sessions.begin() as session:
                workers.mark_gone(session, worker_id, beating[worker_id], now)
            log.warning("worker_gone", worker=worker_id)
        return still

    def _in_outage(self, holders: Mapping[str, str], given_up: list[tuple[str, int]]) -> bool:
        """Whether the jobs given up now were lost in an outage; what was counted of it before is pardoned."""
        # workers that fell silent as well are lost before their leases tell it
        silent = set(self._worker_watch.still(self._clock.monotonic(), self._timers.lease_seconds / 2))
        silent |= {holders[job_id] for job_id, _ in given_up}
        losing = {worker: {job for job, holder in holders.items() if holder == worker} for worker in silent}
        now = self._clock.now()
        with self._sessions.begin() as session:
            if not losses.in_outage(session, losing, now):
                return False
            pardoned = losses.pardon(session, self._crash_limit, now)
        log.warning("outage", workers=len(losing), pardoned=pardoned)
        return True

    def _send_again(self) -> None:
        """Messages may be lost: send again what was not claimed, then take it back."""
        with self._sessions() as session:
            rows = session.execute(
                select(Job.id, Job.attempt, Job.worker_id, Job.sends, Worker.state)
                .outerjoin(Worker, Worker.id == Job.worker_id)
                .where(Job.state == "assigned")
            ).all()
        unclaimed = {(row.id, row.attempt): row.sends for row in rows}
        late = set(self._claim_watch.observe(unclaimed, self._clock.monotonic()))
        for row in rows:
            gone = row.state in (None, "gone")
            if not gone and (row.id, row.attempt) not in late:
                continue
            with self._sessions.begin() as session:
                if gone or row.sends >= MAX_SENDS:
                    attempts.unassign(
                        session, row.id, row.attempt, self._clock.now(), epoch=self._leadership.epoch
                    )
                    resend = False
                else:
                    resend = attempts.note_send(session, row.id, row.attempt)
            if resend:
                self._effects.send(row.worker_id, row.id, row.attempt)

    def _assign(self, standing_still: set[str]) -> int:
        now = self._clock.now()
        with self._sessions() as session:
            snapshot = take_snapshot(
                session,
                now,
                self._window,
                standing_still,
                running_limit=self._running_limit,
                ledger=self._ledger,
                store_away=self._effects.store_away(),
                knowledge=self._knowledge,
            )
        made = plan(snapshot, now)
        makes_room = preempt(snapshot, made)
        self._ledger = makes_room.ledger
        epoch = self._leadership.epoch
        assert epoch is not None
        urgent = [item for item in map(as_assignment, makes_room.handovers) if item is not None]
        wanted = (*made.assignments, *urgent)
        with self._sessions.begin() as session:
            won = attempts.assign_all(
                session, [(item.job_id, item.attempt, item.worker_id) for item in wanted], now, epoch=epoch
            )
            done = [item for item in wanted if (item.job_id, item.attempt) in won]
            given = {item.job_id for item in done}
            for handover in makes_room.handovers:
                if handover.attempt is None or handover.job_id in given:
                    make_room(session, handover, now, epoch)
            outlooks = [item for item in made.outlooks if item.job_id not in given]
            self._explain(session, snapshot, outlooks)
            self._add_up(session)
            workers.note_next(session, made.prefetch)
            self._keep_ledger(session)
        for item in done:
            self._effects.send(item.worker_id, item.job_id, item.attempt + 1)
        if done:
            log.info("assigned", jobs=len(done), waiting=len(outlooks))
        return len(done)

    def _keep_ledger(self, session: Session) -> None:
        """Keep who has had how much for the next leader, every few seconds."""
        kept_at, kept = self._kept
        now, ledger = self._clock.monotonic(), self._ledger.as_dict()
        if now - kept_at >= LEDGER_SECONDS and ledger != kept:
            self._leadership.keep_ledger(session, ledger)
            self._kept = (now, ledger)

    def _explain(self, session: Session, snapshot: Snapshot, outlooks: list[Outlook]) -> None:
        """Write what pages tell of waiting jobs."""
        moment = self._clock.monotonic()
        if len(outlooks) > LONG and moment - self._explained_at < EXPLAIN_SECONDS:
            return
        self._explained_at = moment
        now = self._clock.now()
        if moment - self._judged_at >= JUDGE_SECONDS:
            self._judged_at = moment
            self._bars, self._slowness = guesses.bars(session), guesses.slowness(session)
        foreseen = foresight(snapshot, outlooks, now, bars=self._bars, slowness=self._slowness)
        forecast.write(session, foreseen)
        starts = {start.job_id: now + timedelta(seconds=start.seconds) for start in foreseen.starts}
        new = starts.keys() - self._foreseen
        attempts.note_first_estimates(session, {job: starts[job] for job in new}, now)
        self._foreseen = frozenset(starts)

    def _add_up(self, session: Session) -> None:
        moment = self._clock.monotonic()
        if moment - self._tallied_at >= TALLY_SECONDS:
            self._tallied_at = moment
            tallies.add_up(session)

    def _told(self, job_id: str) -> None:
        with self._sessions() as session:
            job = session.get(Job, job_id)
        if job is not None:
            self._effects.tell("jobs", job.owner_id, {"id": job.id, "state": job.state})
