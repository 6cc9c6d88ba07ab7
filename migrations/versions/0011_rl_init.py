"""Rounds that began before PPO had a policy of its own to start from say that it was SFT's.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""UPDATE rounds SET config = config || '{"rl_init": false}'""")
    op.execute(
        """
        UPDATE rounds SET reused = rounds.reused || jsonb_build_object(
            'rl-init', jsonb_build_object('checkpoint', run_inputs.checkpoint_id)
        )
        FROM runs JOIN run_inputs ON run_inputs.run_id = runs.id AND run_inputs.part = 'init'
        WHERE runs.round_id = rounds.id AND runs.stage = 'ppo'
        """
    )


def downgrade() -> None:
    """Runs of the stage keep their rows and checkpoints; rounds know it no more."""
    op.execute("UPDATE rounds SET config = config - 'rl_init', reused = reused - 'rl-init'")
    op.execute("UPDATE rounds SET stage = 'ppo' WHERE stage = 'rl-init'")
