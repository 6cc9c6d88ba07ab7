"""Demonstrations may be ranked: a completion knows the demonstration that it stands for.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("completions", sa.Column("demonstration_id", sa.BigInteger(), nullable=True))
    op.create_foreign_key(
        op.f("fk_completions_demonstration_id"),
        "completions",
        "demonstrations",
        ["demonstration_id"],
        ["id"],
    )
    op.create_unique_constraint(
        op.f("uq_completions_demonstration_id"), "completions", ["demonstration_id"]
    )


def downgrade() -> None:
    """The completions stay, and no longer say whose demonstrations they are."""
    op.drop_constraint(op.f("uq_completions_demonstration_id"), "completions", type_="unique")
    op.drop_constraint(op.f("fk_completions_demonstration_id"), "completions", type_="foreignkey")
    op.drop_column("completions", "demonstration_id")
