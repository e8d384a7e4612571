"""Results that are no pictures: what kind of file, how many frames, how fast, and the still that stands for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # defaults, so that a farm of the last release goes on writing pictures meanwhile
    op.add_column(
        "images", sa.Column("media_type", sa.String(), nullable=False, server_default=sa.text("'image/png'"))
    )
    op.add_column("images", sa.Column("frames", INTEGER, nullable=False, server_default=sa.text("1")))
    op.add_column("images", sa.Column("fps", sa.Double(), nullable=True))
    op.add_column("images", sa.Column("duration", sa.Double(), nullable=True))
    op.add_column("images", sa.Column("poster_key", sa.String(), nullable=True))


def downgrade() -> None:
    for name in ("poster_key", "duration", "fps", "frames", "media_type"):
        op.drop_column("images", name)
