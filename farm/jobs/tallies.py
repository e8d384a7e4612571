"""How many jobs there are, by owner, batch, priority and state: from rows that triggers keep, never by counting jobs."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import delete, func, literal_column, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from farm.db.models import Tally, TallyChange
from farm.jobs.states import OPEN, State

_KEY = ("owner_id", "batch_id", "priority", "state")


class OpenTally(NamedTuple):
    """Jobs of one owner that have not ended."""

    owner_id: str
    priority: int
    state: str
    n: int


def of_batches(session: Session, batch_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """Jobs of each batch by state."""
    found: dict[str, dict[str, int]] = {}
    if not batch_ids:
        return found
    rows = union_all(
        *(
            select(table.batch_id, table.state, table.n).where(table.batch_id.in_(batch_ids))
            for table in (Tally, TallyChange)
        )
    ).subquery()
    summed = select(rows.c.batch_id, rows.c.state, func.sum(rows.c.n)).group_by(rows.c.batch_id, rows.c.state)
    for batch_id, state, n in session.execute(summed):
        found.setdefault(batch_id, {})[state] = int(n)
    return found


def open_jobs(session: Session, *states: State) -> list[OpenTally]:
    """Jobs of everybody in these states, by default in all that are no end."""
    wanted = sorted(states or OPEN)
    rows = union_all(
        *(
            select(table.owner_id, table.priority, table.state, table.n).where(table.state.in_(wanted))
            for table in (Tally, TallyChange)
        )
    ).subquery()
    key = (rows.c.owner_id, rows.c.priority, rows.c.state)
    total = func.sum(rows.c.n)
    return [
        OpenTally(owner, priority, state, int(n))
        for owner, priority, state, n in session.execute(select(*key, total).group_by(*key).having(total > 0))
    ]


def add_up(session: Session) -> None:
    """Add what writers left to the tallies, and forget those of nothing. Nobody who reads sees a difference."""
    if session.get_bind().dialect.name == "postgresql":
        changes = delete(TallyChange).returning(TallyChange).cte("changes")
        keys = [changes.c[name] for name in _KEY]
        summed = select(*keys, func.sum(changes.c.n)).group_by(*keys)
        adding = insert(Tally).from_select([*_KEY, "n"], summed)
        more = {"n": Tally.n + literal_column("excluded.n")}
        session.execute(adding.on_conflict_do_update(index_elements=_KEY, set_=more))
    session.execute(delete(Tally).where(Tally.n == 0))
