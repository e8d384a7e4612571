"""Jobs are pinned to workers by tags and memory; keys and users have limits of their own; a job remembers when it was
asked to give way; the leader's ledger of shares outlives it.

Code of before goes on: it reads none of these, and new columns fill themselves. Its look at the front of a user's queue
finds another index.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from farm.db.types import Json, UtcDateTime

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("worker_tags", Json(), nullable=False, server_default="[]"))
    op.add_column("jobs", sa.Column("min_memory", INTEGER, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("key_id", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("preempted_at", UtcDateTime(), nullable=True))
    op.add_column("users", sa.Column("running_limit", INTEGER, nullable=True))
    op.add_column("api_keys", sa.Column("running_limit", INTEGER, nullable=True))
    op.add_column("leases", sa.Column("ledger", Json(), nullable=True))
    op.create_index("ix_jobs_owner_key_waiting", "jobs", ["owner_id", "key_id", "state", "priority", "id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_owner_key_waiting", "jobs")
    for table, name in (
        ("leases", "ledger"),
        ("api_keys", "running_limit"),
        ("users", "running_limit"),
        ("jobs", "preempted_at"),
        ("jobs", "key_id"),
        ("jobs", "min_memory"),
        ("jobs", "worker_tags"),
    ):
        op.drop_column(table, name)
