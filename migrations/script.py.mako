"""${message}

Old code must run on the new schema: expand first, contract in a later release.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from farm.db.types import Json, UtcDateTime
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
