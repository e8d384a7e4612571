"""Operators may ask a worker to load its models afresh."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("reloads_requested", INTEGER, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("workers", "reloads_requested")
