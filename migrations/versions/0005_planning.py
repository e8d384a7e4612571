"""Estimates with error bars that are judged afterwards; pauses; the front of each user's queue by an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from farm.db.types import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JOB_MOMENTS = ("estimated_low", "estimated_high", "first_estimate", "first_estimate_at")
ATTEMPT_SECONDS = ("expected_wait", "waited")


def upgrade() -> None:
    for name in JOB_MOMENTS:
        op.add_column("jobs", sa.Column(name, UtcDateTime(), nullable=True))
    for name in ATTEMPT_SECONDS:
        op.add_column("attempts", sa.Column(name, sa.Double(), nullable=True))
    op.add_column("workers", sa.Column("next_job", sa.String(), nullable=True))
    op.create_index("ix_jobs_owner_waiting", "jobs", ["owner_id", "state", "priority", "id"])
    op.create_table(
        "pauses",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "subject", name="pk_pauses"),
    )


def downgrade() -> None:
    op.drop_table("pauses")
    op.drop_index("ix_jobs_owner_waiting", "jobs")
    op.drop_column("workers", "next_job")
    for name in ATTEMPT_SECONDS:
        op.drop_column("attempts", name)
    for name in JOB_MOMENTS:
        op.drop_column("jobs", name)
