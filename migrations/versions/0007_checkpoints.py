"""Jobs know their last checkpoint, and whether their attempt is asked to give way."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("checkpoint_key", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("checkpoint_sha256", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("checkpoint_step", INTEGER, nullable=True))
    op.add_column("jobs", sa.Column("preempt_attempt", INTEGER, nullable=True))


def downgrade() -> None:
    for name in ("preempt_attempt", "checkpoint_step", "checkpoint_sha256", "checkpoint_key"):
        op.drop_column("jobs", name)
