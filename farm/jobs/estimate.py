"""How long a job takes and when it starts: a pure cost model over rates that workers measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from farm.db.models import Job, Worker
from farm.jobs.counts import QUEUE, counted
from farm.jobs.pins import nobody
from farm.jobs.prepare import Prepared
from farm.jobs.rates import STEP_SECONDS, Lane, Work, duration, fleet_seconds
from farm.jobs.reports import WorkerReport
from farm.jobs.states import HELD, PRIORITIES, State

#: jobs of a queue that are read one by one
FRONT = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    #: of rendering, once started
    seconds: float
    #: seconds until it starts; None while no worker is up
    starts_in: float | None
    #: name of the worker that would start it first
    worker: str | None
    #: all of it in words: "1 min 40 s · starts in about 20 s on gpu-2, which holds this model and 2 of 3 adapters"
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a job needs, as far as time goes."""

    model_key: str
    model_bytes: int
    #: bytes by sha256
    networks: Mapping[str, int]
    batch_key: str
    #: denoising steps of all pictures
    steps: int
    #: pins: memory and tags that the worker must have
    memory_bytes: int = 0
    tags: tuple[str, ...] = ()


def estimate(session: Session, prepared: Prepared, *, jobs: int = 1) -> Estimate:
    """What the fleet, as last reported, would need for `jobs` jobs like this one."""
    spec = prepared.spec
    need = Need(
        model_key=prepared.model_key,
        model_bytes=prepared.model_bytes,
        networks={network.sha256: network.size for network in prepared.networks},
        batch_key=prepared.batch_key,
        steps=spec.total_steps * spec.count,
        memory_bytes=spec.min_memory or 0,
        tags=tuple(spec.worker_tags),
    )
    return decide(need, read_lanes(session), read_queue(session, PRIORITIES[spec.priority]), jobs=jobs)


def decide(need: Need, lanes: Sequence[Lane], ahead: Sequence[Work], *, jobs: int = 1) -> Estimate:
    """The estimate itself. `ahead` is what waits before the job and is not given to a worker yet."""
    if not lanes:
        seconds = need.steps * STEP_SECONDS * jobs
        words = (
            f"about {duration(seconds)} on a middling worker · no worker is up; start one with `farm worker`"
        )
        return Estimate(seconds=seconds, starts_in=None, worker=None, sentence=words)
    waiting = fleet_seconds(lanes, ahead)
    fitting = [lane for lane in lanes if lane.meets(need.memory_bytes, need.tags)]
    if not fitting:
        seconds = need.steps * _mean_step(lanes, need.batch_key) * jobs
        words = f"about {duration(seconds)} · {nobody(need.memory_bytes, need.tags)}"
        return Estimate(seconds=seconds, starts_in=None, worker=None, sentence=words)

    def start(lane: Lane) -> float:
        return lane.busy_seconds + lane.start_seconds(need.model_key, need.model_bytes, need.networks)

    best = min(fitting, key=lambda lane: (start(lane), lane.name))
    each = best.step_seconds(need.batch_key) * need.steps
    # more jobs than one spread over the workers that may take them
    seconds = each * max(1.0, jobs / len(fitting))
    starts_in = waiting + start(best)
    when = "starts at once" if starts_in < 1 else f"starts in about {duration(starts_in)}"
    return Estimate(
        seconds=seconds,
        starts_in=starts_in,
        worker=best.name,
        sentence=f"{duration(seconds)} · {when} on {best.name}, {_holds(best, need)}",
    )


def _mean_step(lanes: Sequence[Lane], batch_key: str) -> float:
    return sum(lane.step_seconds(batch_key) for lane in lanes) / len(lanes)


def _holds(lane: Lane, need: Need) -> str:
    wanted, hot = len(need.networks), lane.hot(need.networks)
    adapters = "adapter" if wanted == 1 else "adapters"
    if need.model_key not in lane.report.models:
        return "which has to load this model first"
    if not wanted:
        return "which holds this model"
    if hot == wanted:
        return f"which holds this model and {'the' if wanted == 1 else f'all {wanted}'} {adapters}"
    return f"which holds this model and {hot} of {wanted} {adapters}"


def read_lanes(session: Session) -> list[Lane]:
    """Workers that take jobs, with the seconds of what they have been given."""
    reports = {
        row.id: (row.name, WorkerReport.from_dict(row.report))
        for row in session.execute(
            select(Worker.id, Worker.name, Worker.report).where(
                Worker.state == "up", Worker.drain_requested.is_(False)
            )
        )
    }
    steps: dict[str, list[Work]] = defaultdict(list)
    for worker_id, batch_key, left in session.execute(
        select(Job.worker_id, Job.batch_key, func.sum((Job.steps - Job.step) * Job.count))
        .where(Job.state.in_(sorted(HELD)))
        .group_by(Job.worker_id, Job.batch_key)
    ):
        steps[str(worker_id)].append(Work(batch_key=batch_key, steps=max(0, int(left))))
    lanes = []
    for worker_id, (name, report) in reports.items():
        idle = Lane(name=name, report=report)
        lanes.append(Lane(name=name, report=report, busy_seconds=fleet_seconds([idle], steps[worker_id])))
    return lanes


def read_queue(session: Session, priority: int = max(PRIORITIES.values())) -> list[Work]:
    """What waits with this priority or a more urgent one, by batch key.

    Of a long queue the front is read, and the rest is taken to be like it.
    """
    ahead = (Job.state == State.QUEUED, Job.priority <= priority)
    front = (
        select(Job.batch_key, (Job.steps * Job.count).label("steps"))
        .where(*ahead)
        .order_by(Job.priority, Job.id)
        .limit(FRONT)
        .subquery()
    )
    rows = session.execute(
        select(front.c.batch_key, func.sum(front.c.steps), func.count()).group_by(front.c.batch_key)
    ).all()
    read = sum(number for _, _, number in rows)
    times = (
        session.execute(select(counted(*ahead, order=QUEUE))).scalar_one() / read if read == FRONT else 1.0
    )
    return [Work(batch_key=batch_key, steps=round(int(steps) * times)) for batch_key, steps, _ in rows]
