"""Batches of imported labels know their import; an import can be undone.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("imports", sa.Column("undone_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("batches", sa.Column("import_id", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("fk_batches_import_id"), "batches", "imports", ["import_id"], ["id"])
    op.create_index(op.f("ix_batches_import_id"), "batches", ["import_id"])


def downgrade() -> None:
    op.drop_column("batches", "import_id")
    op.drop_column("imports", "undone_at")
