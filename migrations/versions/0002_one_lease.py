"""A labeler holds one lease in a study at a time.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "uq_assignments_one_lease",
        "assignments",
        ["study_id", "user_id"],
        unique=True,
        postgresql_where=text("state = 'leased'"),
    )


def downgrade() -> None:
    op.drop_index("uq_assignments_one_lease", table_name="assignments")
