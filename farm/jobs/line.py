"""How many jobs of its owner stand before a job: exact, by the index of each owner's line, from its nearer end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from farm.db.models import Job
from farm.jobs.states import State

#: an owner and a priority
Line = tuple[str, int]
#: jobs that are counted from the far end; an index answers for so many in some milliseconds
COUNTED = 10_000


def before(session: Session, jobs: Sequence[Job], counts: Mapping[Line, int]) -> dict[str, int]:
    """Waiting jobs of the same owner that are taken before each of `jobs`, which wait.

    Args:
        counts: waiting jobs by (owner, priority).
    """
    lines: dict[Line, list[str]] = defaultdict(list)
    for job in jobs:
        lines[job.owner_id, job.priority].append(job.id)
    found: dict[str, int] = {}
    for (owner, priority), ids in lines.items():
        urgent = sum(n for (other, its), n in counts.items() if other == owner and its < priority)
        places = _places(session, owner, priority, sorted(ids), counts.get((owner, priority), 0))
        found |= {job_id: urgent + place for job_id, place in places.items()}
    return found


def _places(session: Session, owner: str, priority: int, ids: Sequence[str], total: int) -> dict[str, int]:
    """Places of `ids`, in order, within one class of their owner.

    Conditions and orders name the class and the id together: only the line's own index answers those, so that no planner
    goes by ids alone, through everybody's jobs.
    """
    line = (Job.owner_id == owner, Job.state == State.QUEUED)
    place = tuple_(Job.priority, Job.id)
    numbered = (
        select(Job.id, func.row_number().over(order_by=(Job.priority, Job.id)).label("number"))
        .where(*line, place >= (priority, ids[0]), place <= (priority, ids[-1]))
        .subquery()
    )
    between = dict(
        session.execute(select(numbered.c.id, numbered.c.number).where(numbered.c.id.in_(ids))).tuples().all()
    )
    if not between:
        return {}
    later = (
        select(Job.id)
        .where(*line, place > (priority, ids[-1]), Job.priority <= priority)
        .order_by(Job.priority, Job.id)
        .limit(COUNTED + 1)
        .subquery()
    )
    after = session.execute(select(func.count()).select_from(later)).scalar_one()
    if after <= COUNTED:
        first = max(0, total - after - max(between.values()))
    else:
        ahead = (*line, place < (priority, ids[0]), Job.priority >= priority)
        first = session.execute(select(func.count()).select_from(Job).where(*ahead)).scalar_one()
    return {job_id: first + number - 1 for job_id, number in between.items()}
