"""Exports, tokens of the API, webhooks; withdrawal of labelers and prompts.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JSON = postgresql.JSONB(astext_type=sa.Text())
MOMENT = sa.DateTime(timezone=True)


def _words(kind: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=kind, native_enum=False, create_constraint=False, length=32)


def _check(table: str, column: str, kind: str, *words: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{kind}"))


def _id(table: str) -> tuple[sa.Column[int], sa.PrimaryKeyConstraint]:
    return (
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
    )


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, MOMENT, server_default=sa.text("now()"), nullable=False)


def _reference(table: str, column: str, target: str, **options: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"), **options
    )


def upgrade() -> None:
    op.add_column("memberships", sa.Column("withdrawn_at", MOMENT, nullable=True))
    op.add_column("prompts", sa.Column("withdrawn_at", MOMENT, nullable=True))
    op.create_table(
        "snapshot_prompts",
        sa.Column("snapshot_id", sa.BigInteger(), nullable=False),
        sa.Column("prompt_id", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["snapshot_id", "study_id"],
            ["snapshots.id", "snapshots.study_id"],
            name=op.f("fk_snapshot_prompts_snapshot_id_study_id"),
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id", "study_id"],
            ["prompts.id", "prompts.study_id"],
            name=op.f("fk_snapshot_prompts_prompt_id_study_id"),
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "prompt_id", name=op.f("pk_snapshot_prompts")),
    )
    op.create_index(op.f("ix_snapshot_prompts_prompt_id"), "snapshot_prompts", ["prompt_id"])
    _exports()
    _api_tokens()
    _webhooks()


def _exports() -> None:
    kinds = (
        "sft",
        "rankings",
        "comparisons",
        "preferences",
        "ratings",
        "prompts",
        "labeler",
        "prompt",
    )
    states = ("queued", "running", "ready", "failed")
    op.create_table(
        "exports",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", _words("exportkind", *kinds), nullable=False),
        sa.Column("query", JSON, nullable=False),
        sa.Column("freeze", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("snapshot_id", sa.BigInteger(), nullable=True),
        sa.Column("state", _words("exportstate", *states), server_default="queued", nullable=False),
        sa.Column("attempt", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("rows_done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("manifest", JSON, nullable=True),
        sa.Column("uri", sa.String(), nullable=True),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        _now("created_at"),
        sa.Column("finished_at", MOMENT, nullable=True),
        *_id("exports"),
        _check("exports", "kind", "exportkind", *kinds),
        _check("exports", "state", "exportstate", *states),
        sa.CheckConstraint(
            "(state = 'failed') = (error IS NOT NULL)", name=op.f("ck_exports_failed_says_why")
        ),
        sa.CheckConstraint(
            "(state = 'ready') = (manifest IS NOT NULL AND uri IS NOT NULL)",
            name=op.f("ck_exports_ready_is_there"),
        ),
        _reference("exports", "study_id", "studies"),
        _reference("exports", "created_by", "users"),
        sa.ForeignKeyConstraint(
            ["snapshot_id", "study_id"],
            ["snapshots.id", "snapshots.study_id"],
            name=op.f("fk_exports_snapshot_id_study_id"),
        ),
    )
    op.create_index(op.f("ix_exports_study_id"), "exports", ["study_id"])
    op.create_index(op.f("ix_exports_snapshot_id"), "exports", ["snapshot_id"])
    op.create_index(
        "ix_exports_due",
        "exports",
        ["state", "id"],
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )


def _api_tokens() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scope", _words("tokenscope", "read", "write"), nullable=False),
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("hint", sa.String(), nullable=False),
        _now("created_at"),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.Column("last_used_at", MOMENT, nullable=True),
        sa.Column("revoked_at", MOMENT, nullable=True),
        *_id("api_tokens"),
        _check("api_tokens", "scope", "tokenscope", "read", "write"),
        _reference("api_tokens", "study_id", "studies"),
        _reference("api_tokens", "user_id", "users"),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
    )
    op.create_index(op.f("ix_api_tokens_study_id"), "api_tokens", ["study_id"])
    op.create_index(op.f("ix_api_tokens_user_id"), "api_tokens", ["user_id"])


def _webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("events", JSON, nullable=False),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        _now("created_at"),
        *_id("webhooks"),
        sa.CheckConstraint("url ~ '^https?://'", name=op.f("ck_webhooks_url")),
        _reference("webhooks", "study_id", "studies"),
        _reference("webhooks", "created_by", "users"),
    )
    op.create_index(op.f("ix_webhooks_study_id"), "webhooks", ["study_id"])
    states = ("queued", "delivered", "failed")
    op.create_table(
        "webhook_deliveries",
        sa.Column("webhook_id", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column(
            "state", _words("deliverystate", *states), server_default="queued", nullable=False
        ),
        sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        _now("next_at"),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        _now("created_at"),
        sa.Column("delivered_at", MOMENT, nullable=True),
        *_id("webhook_deliveries"),
        _check("webhook_deliveries", "state", "deliverystate", *states),
        _reference("webhook_deliveries", "webhook_id", "webhooks", ondelete="CASCADE"),
    )
    op.create_index(op.f("ix_webhook_deliveries_webhook_id"), "webhook_deliveries", ["webhook_id"])
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["next_at"],
        postgresql_where=sa.text("state = 'queued'"),
    )


def downgrade() -> None:
    for table in ("webhook_deliveries", "webhooks", "api_tokens", "exports", "snapshot_prompts"):
        op.drop_table(table)
    op.drop_column("prompts", "withdrawn_at")
    op.drop_column("memberships", "withdrawn_at")
