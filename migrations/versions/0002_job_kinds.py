"""Kinds of jobs, and results that are no pictures. Only adds: processes of the version before go on meanwhile."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from farm.db.types import Json

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("kind", sa.String(), nullable=False, server_default="render"))
    op.add_column("jobs", sa.Column("result", Json(), nullable=True))
