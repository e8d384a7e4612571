"""Lists of a batch in order, and what is due in the outbox, each by an index of its own.

The index that goes is the beginning of the one that comes: code of before finds what it needs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

DUE = sa.text("delivered_at IS NULL")


def upgrade() -> None:
    op.create_index("ix_jobs_batch_list", "jobs", ["batch_id", "state", "id"])
    op.drop_index("ix_jobs_batch_state", "jobs")
    op.create_index("ix_outbox_due", "outbox", ["id"], postgresql_where=DUE, sqlite_where=DUE)


def downgrade() -> None:
    op.drop_index("ix_outbox_due", "outbox")
    op.create_index("ix_jobs_batch_state", "jobs", ["batch_id", "state"])
    op.drop_index("ix_jobs_batch_list", "jobs")
