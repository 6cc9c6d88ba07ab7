"""External systems with an endpoint, and the sampling of their completions.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

JSON = postgresql.JSONB(astext_type=sa.Text())
MOMENT = sa.DateTime(timezone=True)
SAMPLING_STATES = ("queued", "running", "finished", "failed", "cancelled")
REQUEST_STATES = ("waiting", "done", "failed")


def _state(kind: str, states: tuple[str, ...]) -> sa.Column[str]:
    words = sa.Enum(*states, name=kind, native_enum=False, create_constraint=False, length=32)
    return sa.Column("state", words, server_default=states[0], nullable=False)


def _check_state(table: str, kind: str, states: tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{state}'" for state in states)
    return sa.CheckConstraint(f"state IN ({listed})", name=op.f(f"ck_{table}_{kind}"))


def _reference(
    table: str, target: str, *columns: str, of: tuple[str, ...] = ("id",)
) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        list(columns),
        [f"{target}.{column}" for column in of],
        name=op.f(f"fk_{table}_{'_'.join(columns)}"),
    )


def _zero(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, MOMENT, server_default=sa.text("now()"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "external_systems",
        sa.Column("policy_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        _now("created_at"),
        _reference("external_systems", "policies", "policy_id", "study_id", of=("id", "study_id")),
        _reference("external_systems", "studies", "study_id"),
        _reference("external_systems", "users", "created_by"),
        sa.PrimaryKeyConstraint("policy_id", name=op.f("pk_external_systems")),
        sa.UniqueConstraint(
            "policy_id", "study_id", name=op.f("uq_external_systems_policy_id_study_id")
        ),
    )
    op.create_index(op.f("ix_external_systems_study_id"), "external_systems", ["study_id"])
    op.create_table(
        "samplings",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("policy_id", sa.BigInteger(), nullable=False),
        sa.Column("choice", JSON, nullable=False),
        _state("samplingstate", SAMPLING_STATES),
        _zero("attempt"),
        _zero("fruitful_attempt"),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("note", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        _now("created_at"),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        _check_state("samplings", "samplingstate", SAMPLING_STATES),
        sa.CheckConstraint(
            "(state = 'failed') = (error IS NOT NULL)", name=op.f("ck_samplings_failed_says_why")
        ),
        _reference(
            "samplings", "external_systems", "policy_id", "study_id", of=("policy_id", "study_id")
        ),
        _reference("samplings", "studies", "study_id"),
        _reference("samplings", "users", "created_by"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_samplings")),
    )
    op.create_index(op.f("ix_samplings_study_id"), "samplings", ["study_id"])
    op.create_index(op.f("ix_samplings_policy_id"), "samplings", ["policy_id"])
    op.create_index(
        "uq_samplings_active",
        "samplings",
        ["policy_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_table(
        "sampling_requests",
        sa.Column("sampling_id", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("prompt_id", sa.BigInteger(), nullable=False),
        sa.Column("sample_index", sa.BigInteger(), nullable=False),
        _state("requeststate", REQUEST_STATES),
        _zero("tries"),
        sa.Column("completion_id", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.String(), nullable=True),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        _check_state("sampling_requests", "requeststate", REQUEST_STATES),
        sa.CheckConstraint(
            "(state = 'done') = (completion_id IS NOT NULL)",
            name=op.f("ck_sampling_requests_done_is_there"),
        ),
        sa.CheckConstraint(
            "(state = 'failed') = (problem IS NOT NULL)",
            name=op.f("ck_sampling_requests_failed_says_why"),
        ),
        _reference("sampling_requests", "prompts", "prompt_id", "study_id", of=("id", "study_id")),
        _reference("sampling_requests", "samplings", "sampling_id"),
        _reference("sampling_requests", "completions", "completion_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sampling_requests")),
        sa.UniqueConstraint(
            "sampling_id",
            "prompt_id",
            "sample_index",
            name=op.f("uq_sampling_requests_sampling_id_prompt_id_sample_index"),
        ),
        sa.UniqueConstraint("completion_id", name=op.f("uq_sampling_requests_completion_id")),
    )
    op.create_index("ix_sampling_requests_prompt", "sampling_requests", ["prompt_id"])
    op.create_index(
        "ix_sampling_requests_state", "sampling_requests", ["sampling_id", "state", "id"]
    )


def downgrade() -> None:
    """What was sampled stays, as completions of external policies without an endpoint."""
    op.drop_table("sampling_requests")
    op.drop_table("samplings")
    op.drop_table("external_systems")
