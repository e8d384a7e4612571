"""Losses that an outage explains are pardoned; which worker lost what of late is found by an index.

Code of before finds what it needs: the new column has a default.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

LOST = sa.text("outcome = 'lost'")


def upgrade() -> None:
    op.add_column("attempts", sa.Column("pardoned", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_attempts_lost", "attempts", ["ended_at"], postgresql_where=LOST, sqlite_where=LOST)
    op.create_index("ix_attempts_worker", "attempts", ["worker_id", "started_at"])


def downgrade() -> None:
    op.drop_index("ix_attempts_worker", "attempts")
    op.drop_index("ix_attempts_lost", "attempts")
    op.drop_column("attempts", "pardoned")
