"""Best-of-n policies: a checkpoint whose samples a reward model chooses from.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "policies",
        sa.Column("best_of", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
    )
    op.add_column("policies", sa.Column("reward_checkpoint_id", sa.BigInteger(), nullable=True))
    op.create_foreign_key(
        op.f("fk_policies_reward_checkpoint_id"),
        "policies",
        "checkpoints",
        ["reward_checkpoint_id"],
        ["id"],
    )
    op.create_check_constraint(
        op.f("ck_policies_best_of_by_a_reward_model"),
        "policies",
        "best_of = 1 AND reward_checkpoint_id IS NULL"
        " OR best_of > 1 AND num_nonnulls(checkpoint_id, reward_checkpoint_id) = 2",
    )
    op.drop_constraint(op.f("uq_policies_checkpoint_id"), "policies", type_="unique")
    op.create_index(
        "uq_policies_checkpoint",
        "policies",
        ["checkpoint_id"],
        unique=True,
        postgresql_where=sa.text("best_of = 1"),
    )
    op.create_index(
        "uq_policies_best_of",
        "policies",
        ["checkpoint_id", "best_of", "reward_checkpoint_id"],
        unique=True,
        postgresql_where=sa.text("best_of > 1"),
    )


def downgrade() -> None:
    """Best-of-n policies stay with their completions, as external ones."""
    op.drop_index("uq_policies_best_of", "policies")
    op.drop_index("uq_policies_checkpoint", "policies")
    op.drop_constraint(op.f("ck_policies_best_of_by_a_reward_model"), "policies", type_="check")
    op.execute("UPDATE policies SET kind = 'external', checkpoint_id = NULL WHERE best_of > 1")
    op.create_unique_constraint(op.f("uq_policies_checkpoint_id"), "policies", ["checkpoint_id"])
    op.drop_constraint(op.f("fk_policies_reward_checkpoint_id"), "policies", type_="foreignkey")
    op.drop_column("policies", "reward_checkpoint_id")
    op.drop_column("policies", "best_of")
