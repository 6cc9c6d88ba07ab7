"""The labeler's workbench: corrections, guidelines acknowledged, flags, prompts that labelers write.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KINDS = ("demonstration", "ranking")
STATES = ("leased", "submitted", "skipped", "returned")
STYLES = ("plain", "few_shot", "user_based")


def _words(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def _set_words(table: str, name: str, column: str, words: tuple[str, ...]) -> None:
    op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
    op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, _words(column, words))


def upgrade() -> None:
    op.add_column(
        "studies",
        sa.Column("correction_minutes", sa.BigInteger(), server_default="1440", nullable=False),
    )
    op.add_column(
        "batches", sa.Column("suggest_order", sa.Boolean(), server_default="true", nullable=False)
    )
    op.add_column(
        "prompts", sa.Column("few_shot", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    )
    for table in ("batches", "label_tasks"):
        _set_words(table, "labelkind", "kind", (*KINDS, "prompt"))
    op.alter_column("label_tasks", "prompt_id", nullable=True)
    op.add_column("label_tasks", sa.Column("writing_style", sa.String(32), nullable=True))
    op.add_column("label_tasks", sa.Column("brief", sa.String(), nullable=True))
    op.create_check_constraint(
        op.f("ck_label_tasks_writingstyle"), "label_tasks", _words("writing_style", STYLES)
    )
    op.create_check_constraint(
        op.f("ck_label_tasks_prompt_fits_kind"),
        "label_tasks",
        "(kind = 'prompt') = (prompt_id IS NULL)",
    )
    op.create_check_constraint(
        op.f("ck_label_tasks_writing_style_fits_kind"),
        "label_tasks",
        "(kind = 'prompt') = (writing_style IS NOT NULL)",
    )
    _set_words("assignments", "assignmentstate", "state", (*STATES, "reserved"))
    op.create_index(
        "uq_assignments_one_reserved",
        "assignments",
        ["study_id", "user_id"],
        unique=True,
        postgresql_where=sa.text("state = 'reserved'"),
    )
    op.drop_index("ix_assignments_leased_until", table_name="assignments")
    op.create_index(
        "ix_assignments_held_until",
        "assignments",
        ["lease_until"],
        postgresql_where=sa.text("state IN ('leased', 'reserved')"),
    )
    op.create_table(
        "guideline_acknowledgements",
        sa.Column("guideline_version_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["guideline_version_id"],
            ["guideline_versions.id"],
            name=op.f("fk_guideline_acknowledgements_guideline_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_guideline_acknowledgements_user_id")
        ),
        sa.PrimaryKeyConstraint(
            "guideline_version_id", "user_id", name=op.f("pk_guideline_acknowledgements")
        ),
    )
    op.create_index(
        op.f("ix_guideline_acknowledgements_user_id"), "guideline_acknowledgements", ["user_id"]
    )
    op.create_table(
        "flags",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("assignment_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("answer", sa.String(), nullable=True),
        sa.Column("answered_by", sa.BigInteger(), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("message <> ''", name=op.f("ck_flags_message_not_empty")),
        sa.CheckConstraint(
            "(answer IS NULL) = (answered_at IS NULL)", name=op.f("ck_flags_answered_with_answer")
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_flags_study_id")),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignments.id"], name=op.f("fk_flags_assignment_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_flags_user_id")),
        sa.ForeignKeyConstraint(["answered_by"], ["users.id"], name=op.f("fk_flags_answered_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_flags")),
    )
    for column in ("study_id", "assignment_id", "user_id"):
        op.create_index(op.f(f"ix_flags_{column}"), "flags", [column])
    _create_written_prompts()


def _create_written_prompts() -> None:
    op.create_table(
        "written_prompts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("assignment_id", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("pool", sa.String(32), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("prompt_id", sa.BigInteger(), nullable=False),
        sa.Column("writing_style", sa.String(32), nullable=False),
        sa.Column("guideline_version_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            _words("pool", ("training", "heldout")), name=op.f("ck_written_prompts_pool")
        ),
        sa.CheckConstraint(
            _words("purpose", ("training", "evaluation")), name=op.f("ck_written_prompts_purpose")
        ),
        sa.CheckConstraint(
            _words("writing_style", STYLES), name=op.f("ck_written_prompts_writingstyle")
        ),
        sa.ForeignKeyConstraint(
            ["assignment_id", "study_id", "user_id", "pool", "purpose"],
            [
                "assignments.id",
                "assignments.study_id",
                "assignments.user_id",
                "assignments.pool",
                "assignments.purpose",
            ],
            name=op.f("fk_written_prompts_assignment_id_study_id_user_id_pool_purpose"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "simulated"],
            ["users.id", "users.simulated"],
            name=op.f("fk_written_prompts_user_id_simulated"),
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id", "study_id"],
            ["prompts.id", "prompts.study_id"],
            name=op.f("fk_written_prompts_prompt_id_study_id"),
        ),
        sa.ForeignKeyConstraint(
            ["guideline_version_id"],
            ["guideline_versions.id"],
            name=op.f("fk_written_prompts_guideline_version_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_written_prompts")),
        sa.UniqueConstraint(
            "id",
            "study_id",
            "pool",
            "purpose",
            "simulated",
            name=op.f("uq_written_prompts_id_study_id_pool_purpose_simulated"),
        ),
    )
    op.create_index(op.f("ix_written_prompts_user_id"), "written_prompts", ["user_id"])
    op.create_index("ix_written_prompts_prompt", "written_prompts", ["prompt_id"])
    op.create_index(
        "uq_written_prompts_current",
        "written_prompts",
        ["assignment_id"],
        unique=True,
        postgresql_where=sa.text("superseded_at IS NULL"),
    )


def downgrade() -> None:
    """Fails, and changes nothing, while there are label tasks that ask for a prompt."""
    for table in ("written_prompts", "flags", "guideline_acknowledgements"):
        op.drop_table(table)
    op.drop_index("ix_assignments_held_until", table_name="assignments")
    op.create_index(
        "ix_assignments_leased_until",
        "assignments",
        ["lease_until"],
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.drop_index("uq_assignments_one_reserved", table_name="assignments")
    # What was fetched ahead goes back to the queue.
    op.execute(
        "WITH back AS (UPDATE assignments SET state = 'returned' WHERE state = 'reserved'"
        " RETURNING label_task_id)"
        " UPDATE label_tasks SET slots_taken = slots_taken - 1"
        " WHERE id IN (SELECT label_task_id FROM back)"
    )
    _set_words("assignments", "assignmentstate", "state", STATES)
    for name in ("writing_style_fits_kind", "prompt_fits_kind", "writingstyle"):
        op.drop_constraint(op.f(f"ck_label_tasks_{name}"), "label_tasks", type_="check")
    op.drop_column("label_tasks", "brief")
    op.drop_column("label_tasks", "writing_style")
    op.alter_column("label_tasks", "prompt_id", nullable=False)
    for table in ("batches", "label_tasks"):
        _set_words(table, "labelkind", "kind", KINDS)
    op.drop_column("prompts", "few_shot")
    op.drop_column("batches", "suggest_order")
    op.drop_column("studies", "correction_minutes")
