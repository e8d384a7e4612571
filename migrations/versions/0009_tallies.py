"""Jobs counted by triggers, so that pages need not count them; one row for what the leader foresees.

On SQLite a later migration that makes the table `jobs` anew (`batch_alter_table`) has to make the triggers again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from farm.db.types import Json, UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

COUNT = """
insert into tallies (owner_id, batch_id, priority, state, n)
select owner_id, coalesce(batch_id, ''), priority, state, count(*) from jobs group by 1, 2, 3, 4
"""
#: rows of a statement at a time: a batch costs as much as a job
POSTGRESQL = """
create function tally_jobs() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into tally_changes (owner_id, batch_id, priority, state, n)
    select owner_id, coalesce(batch_id, ''), priority, state, count(*) from newer group by 1, 2, 3, 4;
  else
    insert into tally_changes (owner_id, batch_id, priority, state, n)
    select owner_id, coalesce(batch_id, ''), priority, state, sum(n) from (
      select owner_id, batch_id, priority, state, 1 as n from newer
      union all select owner_id, batch_id, priority, state, -1 from older
    ) changes group by 1, 2, 3, 4 having sum(n) <> 0;
  end if;
  return null;
end $$;
create trigger tally_inserted after insert on jobs referencing new table as newer
  for each statement execute function tally_jobs();
create trigger tally_updated after update on jobs referencing new table as newer old table as older
  for each statement execute function tally_jobs();
"""
ADD = """
insert into tallies (owner_id, batch_id, priority, state, n)
values ({row}.owner_id, coalesce({row}.batch_id, ''), {row}.priority, {row}.state, {n})
on conflict (owner_id, batch_id, priority, state) do update set n = n + {n};
"""
SQLITE = (
    f"create trigger tally_inserted after insert on jobs begin {ADD.format(row='new', n=1)} end",
    "create trigger tally_updated after update of state, priority on jobs "
    "when new.state <> old.state or new.priority <> old.priority "
    f"begin {ADD.format(row='old', n=-1)} {ADD.format(row='new', n=1)} end",
)


def upgrade() -> None:
    columns = (
        sa.Column("owner_id", sa.String(), nullable=False),
        sa.Column("batch_id", sa.String(), nullable=False),
        sa.Column("priority", INTEGER, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("n", INTEGER, nullable=False),
    )
    op.create_table(
        "tallies",
        *(column.copy() for column in columns),
        sa.PrimaryKeyConstraint("owner_id", "batch_id", "priority", "state", name="pk_tallies"),
    )
    op.create_index("ix_tallies_batch_id", "tallies", ["batch_id"])
    op.create_index("ix_tallies_state", "tallies", ["state", "owner_id"])
    op.create_table(
        "tally_changes",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name="pk_tally_changes"),
    )
    op.create_table(
        "forecasts",
        sa.Column("id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("written_at", UtcDateTime(), server_default=sa.func.current_timestamp(), nullable=False),
        sa.Column("foreseen", Json(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_forecasts"),
    )
    op.create_index("ix_attempts_started_at", "attempts", ["started_at"])
    if op.get_bind().dialect.name == "postgresql":
        # keeps writers out until the commit: between them, trigger and count miss nobody
        op.execute(POSTGRESQL)
    else:
        for statement in SQLITE:
            op.execute(statement)
    op.execute(COUNT)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("drop trigger tally_inserted on jobs; drop trigger tally_updated on jobs")
        op.execute("drop function tally_jobs()")
    else:
        for name in ("tally_inserted", "tally_updated"):
            op.execute(f"drop trigger {name}")
    op.drop_index("ix_attempts_started_at", "attempts")
    for name in ("forecasts", "tally_changes", "tallies"):
        op.drop_table(name)
