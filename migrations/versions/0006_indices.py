"""Lists of a batch in order, and what is due in the outbox, each by an index of its own; of jobs by worker, only those
that have one are kept.

Code of before finds what it needs: it names no index, and what replaces one answers the same questions.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

HELD = sa.text("worker_id IS NOT NULL")
DUE = sa.text("delivered_at IS NULL")
#: a batch changes a tenth of a long queue at once: statistics and visibility are to follow within a minute
VACUUM = (
    "autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor"
)


def upgrade() -> None:
    # SQLite, which has no statistics, prefers the index made last: it is to be this one for a batch, not an owner's
    op.create_index("ix_jobs_batch_list", "jobs", ["batch_id", "state", "id"])
    op.drop_index("ix_jobs_batch_state", "jobs")
    op.drop_index("ix_jobs_worker", "jobs")
    op.create_index(
        "ix_jobs_worker", "jobs", ["worker_id", "state"], postgresql_where=HELD, sqlite_where=HELD
    )
    op.create_index("ix_outbox_due", "outbox", ["id"], postgresql_where=DUE, sqlite_where=DUE)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE jobs SET ({VACUUM.replace(',', ' = 0.02,')} = 0.02)")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE jobs RESET ({VACUUM})")
    op.drop_index("ix_outbox_due", "outbox")
    op.drop_index("ix_jobs_worker", "jobs")
    op.create_index("ix_jobs_worker", "jobs", ["worker_id", "state"])
    op.create_index("ix_jobs_batch_state", "jobs", ["batch_id", "state"])
    op.drop_index("ix_jobs_batch_list", "jobs")
