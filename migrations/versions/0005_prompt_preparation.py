"""What happens to a prompt on its way in: folds, groups of near-duplicates, PII, suggestions.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SPLITS = "('train', 'valid', 'test')"
USE_CASES = (
    "('generation', 'open_qa', 'brainstorming', 'chat', 'rewrite', 'summarization',"
    " 'classification', 'other', 'closed_qa', 'extract')"
)
JSON = postgresql.JSONB(astext_type=sa.Text())


def _created_at() -> sa.Column[object]:
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )


def upgrade() -> None:
    op.add_column(
        "studies", sa.Column("preparation", JSON, server_default=sa.text("'{}'"), nullable=False)
    )
    op.create_table(
        "duplicate_groups",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("split", sa.String(32), nullable=False),
        _created_at(),
        sa.CheckConstraint(f"split IN {SPLITS}", name=op.f("ck_duplicate_groups_split")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_duplicate_groups_study_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_duplicate_groups")),
        sa.UniqueConstraint(
            "id", "study_id", "split", name=op.f("uq_duplicate_groups_id_study_id_split")
        ),
    )
    op.create_index(op.f("ix_duplicate_groups_study_id"), "duplicate_groups", ["study_id"])
    _extend_prompts()
    op.create_table(
        "prompt_sketches",
        sa.Column("prompt_id", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("prefix", sa.BigInteger(), nullable=True),
        sa.Column("bands", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.ForeignKeyConstraint(
            ["prompt_id", "study_id"],
            ["prompts.id", "prompts.study_id"],
            name=op.f("fk_prompt_sketches_prompt_id_study_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("prompt_id", name=op.f("pk_prompt_sketches")),
    )
    op.create_index(
        "ix_prompt_sketches_prefix",
        "prompt_sketches",
        ["study_id", "prefix"],
        postgresql_where=sa.text("prefix IS NOT NULL"),
    )
    _create_folded_prompts()


def _extend_prompts() -> None:
    for column in (
        sa.Column("language", sa.String(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("duplicate_group", sa.BigInteger(), nullable=True),
        sa.Column("pii_state", sa.String(32), server_default="clear", nullable=False),
        sa.Column("pii_spans", JSON, nullable=True),
        sa.Column("pii_decided_by", sa.BigInteger(), nullable=True),
        sa.Column("pii_decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("original", JSON, nullable=True),
        sa.Column("suggested_use_case", sa.String(32), nullable=True),
        sa.Column("suggested_confidence", sa.Float(), nullable=True),
    ):
        op.add_column("prompts", column)
    op.create_foreign_key(
        op.f("fk_prompts_duplicate_group_study_id_split"),
        "prompts",
        "duplicate_groups",
        ["duplicate_group", "study_id", "split"],
        ["id", "study_id", "split"],
    )
    op.create_foreign_key(
        op.f("fk_prompts_pii_decided_by"), "prompts", "users", ["pii_decided_by"], ["id"]
    )
    for name, condition in (
        ("piistate", "pii_state IN ('clear', 'held', 'cleared', 'redacted', 'dropped')"),
        ("suggested_use_case", f"suggested_use_case IN {USE_CASES}"),
        ("original_of_redacted", "(pii_state = 'redacted') = (original IS NOT NULL)"),
    ):
        op.create_check_constraint(op.f(f"ck_prompts_{name}"), "prompts", condition)
    op.create_index("ix_prompts_source_user", "prompts", ["source_user_id"])
    for name, column, condition in (
        ("ix_prompts_held", "id", "pii_state = 'held'"),
        ("ix_prompts_pii_decided", "pii_decided_at", "pii_decided_at IS NOT NULL"),
        ("ix_prompts_duplicate_group", "duplicate_group", "duplicate_group IS NOT NULL"),
    ):
        op.create_index(name, "prompts", ["study_id", column], postgresql_where=sa.text(condition))


def _create_folded_prompts() -> None:
    op.create_table(
        "folded_prompts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("import_id", sa.BigInteger(), nullable=True),
        sa.Column("line", sa.BigInteger(), nullable=True),
        sa.Column("external_id", sa.String(), nullable=True),
        sa.Column("text_sha256", sa.String(), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("prompt_id", sa.BigInteger(), nullable=True),
        sa.Column("similarity", sa.Float(), nullable=True),
        _created_at(),
        sa.CheckConstraint(
            "reason IN ('exact', 'prefix', 'near', 'other_side', 'over_length', 'over_cap')",
            name=op.f("ck_folded_prompts_foldreason"),
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_folded_prompts_study_id")
        ),
        sa.ForeignKeyConstraint(
            ["import_id"],
            ["imports.id"],
            name=op.f("fk_folded_prompts_import_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"],
            ["prompts.id"],
            name=op.f("fk_folded_prompts_prompt_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_folded_prompts")),
    )
    op.create_index("ix_folded_prompts_text", "folded_prompts", ["study_id", "text_sha256"])
    op.create_index(op.f("ix_folded_prompts_import_id"), "folded_prompts", ["import_id"])
    op.create_index(
        "ix_folded_prompts_prompt",
        "folded_prompts",
        ["prompt_id"],
        postgresql_where=sa.text("prompt_id IS NOT NULL"),
    )
    op.create_index(
        "uq_folded_prompts_study_external",
        "folded_prompts",
        ["study_id", "external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    # Further names of a text were kept in its details.
    op.execute(
        "INSERT INTO folded_prompts (study_id, external_id, text_sha256, reason, prompt_id)"
        " SELECT study_id, name, text_sha256, 'exact', id"
        " FROM prompts, jsonb_array_elements_text(details->'other_ids') AS name"
        " ON CONFLICT DO NOTHING"
    )
    op.execute("UPDATE prompts SET details = details - 'other_ids' WHERE details ? 'other_ids'")


def downgrade() -> None:
    """Redacted prompts get their first text back; what was folded for other reasons is forgotten."""
    op.execute(
        "UPDATE prompts SET details = details || jsonb_build_object('other_ids', names)"
        " FROM (SELECT prompt_id, jsonb_agg(external_id ORDER BY id) AS names FROM folded_prompts"
        " WHERE reason = 'exact' AND external_id IS NOT NULL AND prompt_id IS NOT NULL"
        " GROUP BY prompt_id) AS folded WHERE folded.prompt_id = prompts.id"
    )
    op.execute(
        "UPDATE prompts SET text = original->>'text', constraint_text = original->>'constraint_text',"
        " few_shot = nullif(original->'few_shot', 'null') WHERE original IS NOT NULL"
    )
    op.drop_table("folded_prompts")
    op.drop_table("prompt_sketches")
    for name in ("source_user", "held", "pii_decided", "duplicate_group"):
        op.drop_index(f"ix_prompts_{name}", "prompts")
    for name in ("original_of_redacted", "suggested_use_case", "piistate"):
        op.drop_constraint(op.f(f"ck_prompts_{name}"), "prompts", type_="check")
    for name in ("pii_decided_by", "duplicate_group_study_id_split"):
        op.drop_constraint(op.f(f"fk_prompts_{name}"), "prompts", type_="foreignkey")
    for name in (
        "suggested_confidence",
        "suggested_use_case",
        "original",
        "pii_decided_at",
        "pii_decided_by",
        "pii_spans",
        "pii_state",
        "duplicate_group",
        "tokens",
        "language",
    ):
        op.drop_column("prompts", name)
    op.drop_table("duplicate_groups")
    op.drop_column("studies", "preparation")
