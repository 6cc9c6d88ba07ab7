"""the loop

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), server_default="", nullable=False),
        sa.Column("rehearsal", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "settings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "split_key",
            sa.String(),
            server_default=sa.text("gen_random_uuid()::text"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("id", "rehearsal", name=op.f("uq_studies_id_rehearsal")),
        sa.UniqueConstraint("slug", name=op.f("uq_studies_slug")),
    )
    op.create_table(
        "users",
        sa.Column("username", sa.String(), nullable=False),
        sa.Column("display_name", sa.String(), server_default="", nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("administrator", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("simulated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.CheckConstraint(
            "username ~ '^[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}$'", name=op.f("ck_users_username")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("id", "simulated", name=op.f("uq_users_id_simulated")),
    )
    op.create_index(
        "uq_users_username_lower", "users", [sa.literal_column("lower(username)")], unique=True
    )
    op.create_table(
        "batches",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "demonstration",
                "ranking",
                name="labelkind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "purpose",
            sa.Enum(
                "training",
                "evaluation",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "pool",
            sa.Enum(
                "training",
                "heldout",
                name="pool",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("rate_completions", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("lease_minutes", sa.BigInteger(), server_default=sa.text("60"), nullable=False),
        sa.Column("round_id", sa.BigInteger(), nullable=True),
        sa.Column("stage", sa.String(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.CheckConstraint(
            "pool = 'training' OR purpose = 'evaluation'",
            name=op.f("ck_batches_heldout_only_evaluates"),
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_batches_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint(
            "id",
            "study_id",
            "kind",
            "purpose",
            "pool",
            name=op.f("uq_batches_id_study_id_kind_purpose_pool"),
        ),
        sa.UniqueConstraint("round_id", "stage", name=op.f("uq_batches_round_id_stage")),
    )
    op.create_index(op.f("ix_batches_study_id"), "batches", ["study_id"], unique=False)
    op.create_table(
        "guideline_versions",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("markdown", sa.String(), nullable=False),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["created_by"], ["users.id"], name=op.f("fk_guideline_versions_created_by")
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_guideline_versions_study_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guideline_versions")),
        sa.UniqueConstraint(
            "study_id", "version", name=op.f("uq_guideline_versions_study_id_version")
        ),
    )
    op.create_table(
        "imports",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("file_name", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_imports_created_by")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_imports_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_index(op.f("ix_imports_study_id"), "imports", ["study_id"], unique=False)
    op.create_table(
        "login_sessions",
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_login_sessions_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_login_sessions")),
    )
    op.create_index(op.f("ix_login_sessions_user_id"), "login_sessions", ["user_id"], unique=False)
    op.create_table(
        "memberships",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "role",
            sa.Enum(
                "candidate",
                "labeler",
                "heldout_labeler",
                "reviewer",
                "researcher",
                name="role",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "pool",
            sa.Enum(
                "training",
                "heldout",
                name="pool",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(role = 'labeler' AND pool = 'training') OR (role = 'heldout_labeler' AND pool = 'heldout') OR (role NOT IN ('labeler', 'heldout_labeler') AND pool IS NULL)",
            name=op.f("ck_memberships_pool_fits_role"),
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_memberships_study_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id")),
        sa.PrimaryKeyConstraint("study_id", "user_id", name=op.f("pk_memberships")),
        sa.UniqueConstraint(
            "study_id", "user_id", "pool", name=op.f("uq_memberships_study_id_user_id_pool")
        ),
    )
    op.create_index(op.f("ix_memberships_user_id"), "memberships", ["user_id"], unique=False)
    op.create_table(
        "policies",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "checkpoint",
                "external",
                name="policykind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("checkpoint_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.CheckConstraint(
            "(kind = 'checkpoint') = (checkpoint_id IS NOT NULL)",
            name=op.f("ck_policies_checkpoint_fits_kind"),
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_policies_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
        sa.UniqueConstraint("checkpoint_id", name=op.f("uq_policies_checkpoint_id")),
        sa.UniqueConstraint("id", "study_id", name=op.f("uq_policies_id_study_id")),
        sa.UniqueConstraint("study_id", "name", name=op.f("uq_policies_study_id_name")),
    )
    op.create_table(
        "rounds",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "running",
                "waiting",
                "failed",
                "cancelled",
                "finished",
                name="roundstate",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            server_default="running",
            nullable=False,
        ),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "reused",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("started_by", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(["started_by"], ["users.id"], name=op.f("fk_rounds_started_by")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_rounds_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rounds")),
        sa.UniqueConstraint("id", "study_id", name=op.f("uq_rounds_id_study_id")),
        sa.UniqueConstraint("study_id", "number", name=op.f("uq_rounds_study_id_number")),
    )
    op.create_index(
        "uq_rounds_active",
        "rounds",
        ["study_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('running', 'waiting', 'failed')"),
    )
    op.create_table(
        "snapshots",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("rehearsal", sa.Boolean(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "demonstrations",
                "rankings",
                "prompts",
                "pretraining",
                name="snapshotkind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("counts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("query", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id", "rehearsal"],
            ["studies.id", "studies.rehearsal"],
            name=op.f("fk_snapshots_study_id_rehearsal"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
        sa.UniqueConstraint(
            "id", "study_id", "rehearsal", name=op.f("uq_snapshots_id_study_id_rehearsal")
        ),
        sa.UniqueConstraint("id", "study_id", name=op.f("uq_snapshots_id_study_id")),
        sa.UniqueConstraint(
            "study_id", "kind", "sha256", name=op.f("uq_snapshots_study_id_kind_sha256")
        ),
    )
    op.create_table(
        "source_users",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column(
            "split",
            sa.Enum(
                "train",
                "valid",
                "test",
                name="split",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_source_users_study_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source_users")),
        sa.UniqueConstraint(
            "id", "study_id", "split", name=op.f("uq_source_users_id_study_id_split")
        ),
        sa.UniqueConstraint("study_id", "name", name=op.f("uq_source_users_study_id_name")),
    )
    op.create_table(
        "evaluations",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("round_id", sa.BigInteger(), nullable=True),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_evaluations_batch_id")),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_evaluations_round_id")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_evaluations_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        sa.UniqueConstraint("batch_id", name=op.f("uq_evaluations_batch_id")),
        sa.UniqueConstraint("id", "study_id", name=op.f("uq_evaluations_id_study_id")),
    )
    op.create_index(op.f("ix_evaluations_round_id"), "evaluations", ["round_id"], unique=False)
    op.create_index(op.f("ix_evaluations_study_id"), "evaluations", ["study_id"], unique=False)
    op.create_table(
        "prompts",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("source_user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "split",
            sa.Enum(
                "train",
                "valid",
                "test",
                name="split",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("text_sha256", sa.String(), nullable=False),
        sa.Column("external_id", sa.String(), nullable=True),
        sa.Column(
            "use_case",
            sa.Enum(
                "generation",
                "open_qa",
                "brainstorming",
                "chat",
                "rewrite",
                "summarization",
                "classification",
                "other",
                "closed_qa",
                "extract",
                name="usecase",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column("closed_domain", sa.Boolean(), nullable=True),
        sa.Column("constraint_text", sa.String(), nullable=True),
        sa.Column(
            "details",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("import_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.CheckConstraint("text <> ''", name=op.f("ck_prompts_text_not_empty")),
        sa.ForeignKeyConstraint(["import_id"], ["imports.id"], name=op.f("fk_prompts_import_id")),
        sa.ForeignKeyConstraint(
            ["source_user_id", "study_id", "split"],
            ["source_users.id", "source_users.study_id", "source_users.split"],
            name=op.f("fk_prompts_source_user_id_study_id_split"),
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_prompts_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompts")),
        sa.UniqueConstraint("id", "study_id", name=op.f("uq_prompts_id_study_id")),
        sa.UniqueConstraint(
            "study_id", "text_sha256", name=op.f("uq_prompts_study_id_text_sha256")
        ),
    )
    op.create_index(op.f("ix_prompts_import_id"), "prompts", ["import_id"], unique=False)
    op.create_index("ix_prompts_study_split", "prompts", ["study_id", "split", "id"], unique=False)
    op.create_index(
        "uq_prompts_study_external",
        "prompts",
        ["study_id", "external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_table(
        "runs",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("round_id", sa.BigInteger(), nullable=True),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "base",
                "sft",
                "reward",
                "ppo",
                "sample",
                name="runkindname",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "succeeded",
                "failed",
                "cancelled",
                name="runstate",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            server_default="queued",
            nullable=False,
        ),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("preset", sa.String(), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "requests",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'"),
            nullable=False,
        ),
        sa.Column("attempt", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column(
            "cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
        sa.Column("step", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("total_steps", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("phase", sa.String(), server_default="", nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.CheckConstraint(
            "(state = 'failed') = (error IS NOT NULL)", name=op.f("ck_runs_failed_says_why")
        ),
        sa.ForeignKeyConstraint(
            ["round_id", "study_id"],
            ["rounds.id", "rounds.study_id"],
            name=op.f("fk_runs_round_id_study_id"),
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_runs_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("id", "study_id", name=op.f("uq_runs_id_study_id")),
        sa.UniqueConstraint("round_id", "stage", name=op.f("uq_runs_round_id_stage")),
    )
    op.create_index(
        "ix_runs_due",
        "runs",
        ["state", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(op.f("ix_runs_study_id"), "runs", ["study_id"], unique=False)
    op.create_table(
        "checkpoints",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "kind",
            sa.Enum(
                "policy",
                "reward_model",
                name="checkpointkind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column(
            "metrics",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "versions",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["parent_id", "study_id"],
            ["checkpoints.id", "checkpoints.study_id"],
            name=op.f("fk_checkpoints_parent_id_study_id"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "study_id"],
            ["runs.id", "runs.study_id"],
            name=op.f("fk_checkpoints_run_id_study_id"),
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_checkpoints_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("id", "study_id", name=op.f("uq_checkpoints_id_study_id")),
        sa.UniqueConstraint("run_id", name=op.f("uq_checkpoints_run_id")),
    )
    op.create_index(op.f("ix_checkpoints_study_id"), "checkpoints", ["study_id"], unique=False)
    op.create_table(
        "completions",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("prompt_id", sa.BigInteger(), nullable=False),
        sa.Column("policy_id", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("sample_index", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("external_score", sa.Double(), nullable=True),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("import_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["import_id"], ["imports.id"], name=op.f("fk_completions_import_id")
        ),
        sa.ForeignKeyConstraint(
            ["policy_id", "study_id"],
            ["policies.id", "policies.study_id"],
            name=op.f("fk_completions_policy_id_study_id"),
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id", "study_id"],
            ["prompts.id", "prompts.study_id"],
            name=op.f("fk_completions_prompt_id_study_id"),
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_completions_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completions")),
        sa.UniqueConstraint("id", "prompt_id", name=op.f("uq_completions_id_prompt_id")),
        sa.UniqueConstraint(
            "run_id",
            "policy_id",
            "prompt_id",
            "sample_index",
            name=op.f("uq_completions_run_id_policy_id_prompt_id_sample_index"),
        ),
    )
    op.create_index(op.f("ix_completions_import_id"), "completions", ["import_id"], unique=False)
    op.create_index(op.f("ix_completions_policy_id"), "completions", ["policy_id"], unique=False)
    op.create_index(
        "ix_completions_prompt_policy", "completions", ["prompt_id", "policy_id"], unique=False
    )
    op.create_table(
        "evaluation_policies",
        sa.Column("evaluation_id", sa.BigInteger(), nullable=False),
        sa.Column("policy_id", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id", "study_id"],
            ["evaluations.id", "evaluations.study_id"],
            name=op.f("fk_evaluation_policies_evaluation_id_study_id"),
        ),
        sa.ForeignKeyConstraint(
            ["policy_id", "study_id"],
            ["policies.id", "policies.study_id"],
            name=op.f("fk_evaluation_policies_policy_id_study_id"),
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "policy_id", name=op.f("pk_evaluation_policies")),
    )
    op.create_table(
        "label_tasks",
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "demonstration",
                "ranking",
                name="labelkind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "purpose",
            sa.Enum(
                "training",
                "evaluation",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "pool",
            sa.Enum(
                "training",
                "heldout",
                name="pool",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("prompt_id", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("labels_wanted", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("labels_done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("slots_taken", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "open",
                "complete",
                "closed",
                name="labeltaskstate",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            server_default="open",
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.CheckConstraint("labels_wanted >= 1", name=op.f("ck_label_tasks_wants_a_label")),
        sa.CheckConstraint(
            "slots_taken BETWEEN 0 AND labels_wanted", name=op.f("ck_label_tasks_slots")
        ),
        sa.ForeignKeyConstraint(
            ["batch_id", "study_id", "kind", "purpose", "pool"],
            ["batches.id", "batches.study_id", "batches.kind", "batches.purpose", "batches.pool"],
            name=op.f("fk_label_tasks_batch_id_study_id_kind_purpose_pool"),
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id", "study_id"],
            ["prompts.id", "prompts.study_id"],
            name=op.f("fk_label_tasks_prompt_id_study_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_tasks")),
        sa.UniqueConstraint(
            "batch_id", "prompt_id", name=op.f("uq_label_tasks_batch_id_prompt_id")
        ),
        sa.UniqueConstraint(
            "id",
            "study_id",
            "pool",
            "purpose",
            name=op.f("uq_label_tasks_id_study_id_pool_purpose"),
        ),
    )
    op.create_index(
        "ix_label_tasks_free",
        "label_tasks",
        ["study_id", "pool", "priority", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'open' AND slots_taken < labels_wanted"),
    )
    op.create_index(op.f("ix_label_tasks_prompt_id"), "label_tasks", ["prompt_id"], unique=False)
    op.create_table(
        "run_metrics",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("values", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_metrics_run_id")),
        sa.PrimaryKeyConstraint("run_id", "phase", "step", name=op.f("pk_run_metrics")),
    )
    op.create_table(
        "assignments",
        sa.Column("public_id", sa.String(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("label_task_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "pool",
            sa.Enum(
                "training",
                "heldout",
                name="pool",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "purpose",
            sa.Enum(
                "training",
                "evaluation",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "leased",
                "submitted",
                "skipped",
                "returned",
                name="assignmentstate",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            server_default="leased",
            nullable=False,
        ),
        sa.Column(
            "leased_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("draft", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("draft_saved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("skip_reason", sa.String(), nullable=True),
        sa.Column("active_seconds", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.CheckConstraint(
            "(state = 'skipped') = (skip_reason IS NOT NULL)",
            name=op.f("ck_assignments_skip_has_reason"),
        ),
        sa.ForeignKeyConstraint(
            ["label_task_id", "study_id", "pool", "purpose"],
            ["label_tasks.id", "label_tasks.study_id", "label_tasks.pool", "label_tasks.purpose"],
            name=op.f("fk_assignments_label_task_id_study_id_pool_purpose"),
        ),
        sa.ForeignKeyConstraint(
            ["study_id", "user_id", "pool"],
            ["memberships.study_id", "memberships.user_id", "memberships.pool"],
            name=op.f("fk_assignments_study_id_user_id_pool"),
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_assignments_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
        sa.UniqueConstraint(
            "id",
            "study_id",
            "user_id",
            "pool",
            "purpose",
            name=op.f("uq_assignments_id_study_id_user_id_pool_purpose"),
        ),
        sa.UniqueConstraint(
            "label_task_id", "user_id", name=op.f("uq_assignments_label_task_id_user_id")
        ),
        sa.UniqueConstraint("public_id", name=op.f("uq_assignments_public_id")),
    )
    op.create_index(
        "ix_assignments_leased_until",
        "assignments",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.create_index(
        "ix_assignments_user_state", "assignments", ["user_id", "study_id", "state"], unique=False
    )
    op.create_table(
        "label_task_completions",
        sa.Column("label_task_id", sa.BigInteger(), nullable=False),
        sa.Column("completion_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["completion_id"],
            ["completions.id"],
            name=op.f("fk_label_task_completions_completion_id"),
        ),
        sa.ForeignKeyConstraint(
            ["label_task_id"],
            ["label_tasks.id"],
            name=op.f("fk_label_task_completions_label_task_id"),
        ),
        sa.PrimaryKeyConstraint(
            "label_task_id", "completion_id", name=op.f("pk_label_task_completions")
        ),
    )
    op.create_index(
        op.f("ix_label_task_completions_completion_id"),
        "label_task_completions",
        ["completion_id"],
        unique=False,
    )
    op.create_table(
        "run_inputs",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("part", sa.String(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_id", sa.BigInteger(), nullable=True),
        sa.Column("checkpoint_id", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "num_nonnulls(snapshot_id, checkpoint_id) = 1", name=op.f("ck_run_inputs_one_of_two")
        ),
        sa.ForeignKeyConstraint(
            ["checkpoint_id", "study_id"],
            ["checkpoints.id", "checkpoints.study_id"],
            name=op.f("fk_run_inputs_checkpoint_id_study_id"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "study_id"],
            ["runs.id", "runs.study_id"],
            name=op.f("fk_run_inputs_run_id_study_id"),
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id", "study_id"],
            ["snapshots.id", "snapshots.study_id"],
            name=op.f("fk_run_inputs_snapshot_id_study_id"),
        ),
        sa.PrimaryKeyConstraint("run_id", "part", name=op.f("pk_run_inputs")),
    )
    op.create_index(
        op.f("ix_run_inputs_checkpoint_id"), "run_inputs", ["checkpoint_id"], unique=False
    )
    op.create_index(op.f("ix_run_inputs_snapshot_id"), "run_inputs", ["snapshot_id"], unique=False)
    op.create_table(
        "assignment_items",
        sa.Column("assignment_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("completion_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignments.id"], name=op.f("fk_assignment_items_assignment_id")
        ),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_assignment_items_completion_id")
        ),
        sa.PrimaryKeyConstraint("assignment_id", "position", name=op.f("pk_assignment_items")),
        sa.UniqueConstraint(
            "assignment_id",
            "completion_id",
            name=op.f("uq_assignment_items_assignment_id_completion_id"),
        ),
    )
    op.create_table(
        "demonstrations",
        sa.Column("assignment_id", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "pool",
            sa.Enum(
                "training",
                "heldout",
                name="pool",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "purpose",
            sa.Enum(
                "training",
                "evaluation",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("prompt_id", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("guideline_version_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id", "study_id", "user_id", "pool", "purpose"],
            [
                "assignments.id",
                "assignments.study_id",
                "assignments.user_id",
                "assignments.pool",
                "assignments.purpose",
            ],
            name=op.f("fk_demonstrations_assignment_id_study_id_user_id_pool_purpose"),
        ),
        sa.ForeignKeyConstraint(
            ["guideline_version_id"],
            ["guideline_versions.id"],
            name=op.f("fk_demonstrations_guideline_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id", "study_id"],
            ["prompts.id", "prompts.study_id"],
            name=op.f("fk_demonstrations_prompt_id_study_id"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "simulated"],
            ["users.id", "users.simulated"],
            name=op.f("fk_demonstrations_user_id_simulated"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_demonstrations")),
        sa.UniqueConstraint(
            "id",
            "study_id",
            "pool",
            "purpose",
            "simulated",
            name=op.f("uq_demonstrations_id_study_id_pool_purpose_simulated"),
        ),
    )
    op.create_index("ix_demonstrations_prompt", "demonstrations", ["prompt_id"], unique=False)
    op.create_index(op.f("ix_demonstrations_user_id"), "demonstrations", ["user_id"], unique=False)
    op.create_index(
        "uq_demonstrations_current",
        "demonstrations",
        ["assignment_id"],
        unique=True,
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.create_table(
        "rankings",
        sa.Column("assignment_id", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "pool",
            sa.Enum(
                "training",
                "heldout",
                name="pool",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "purpose",
            sa.Enum(
                "training",
                "evaluation",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("prompt_id", sa.BigInteger(), nullable=False),
        sa.Column("guideline_version_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id", "study_id", "user_id", "pool", "purpose"],
            [
                "assignments.id",
                "assignments.study_id",
                "assignments.user_id",
                "assignments.pool",
                "assignments.purpose",
            ],
            name=op.f("fk_rankings_assignment_id_study_id_user_id_pool_purpose"),
        ),
        sa.ForeignKeyConstraint(
            ["guideline_version_id"],
            ["guideline_versions.id"],
            name=op.f("fk_rankings_guideline_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id", "study_id"],
            ["prompts.id", "prompts.study_id"],
            name=op.f("fk_rankings_prompt_id_study_id"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "simulated"],
            ["users.id", "users.simulated"],
            name=op.f("fk_rankings_user_id_simulated"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rankings")),
        sa.UniqueConstraint(
            "id",
            "study_id",
            "pool",
            "purpose",
            "simulated",
            name=op.f("uq_rankings_id_study_id_pool_purpose_simulated"),
        ),
    )
    op.create_index("ix_rankings_prompt", "rankings", ["prompt_id"], unique=False)
    op.create_index(op.f("ix_rankings_user_id"), "rankings", ["user_id"], unique=False)
    op.create_index(
        "uq_rankings_current",
        "rankings",
        ["assignment_id"],
        unique=True,
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.create_table(
        "prompt_ratings",
        sa.Column("ranking_id", sa.BigInteger(), nullable=False),
        sa.Column("ambiguous", sa.Boolean(), nullable=True),
        sa.Column("sensitive_content", sa.Boolean(), nullable=True),
        sa.Column("identity_dependent", sa.Boolean(), nullable=True),
        sa.Column("closed_domain", sa.Boolean(), nullable=True),
        sa.Column("continuation_style", sa.Boolean(), nullable=True),
        sa.Column("requests_opinion", sa.Boolean(), nullable=True),
        sa.Column("requests_advice", sa.Boolean(), nullable=True),
        sa.Column("requests_moral_judgment", sa.Boolean(), nullable=True),
        sa.Column("safety_constraints", sa.Boolean(), nullable=True),
        sa.Column("other_constraints", sa.Boolean(), nullable=True),
        sa.Column("intent_unclear", sa.Boolean(), nullable=True),
        sa.ForeignKeyConstraint(
            ["ranking_id"], ["rankings.id"], name=op.f("fk_prompt_ratings_ranking_id")
        ),
        sa.PrimaryKeyConstraint("ranking_id", name=op.f("pk_prompt_ratings")),
    )
    op.create_table(
        "ranking_items",
        sa.Column("ranking_id", sa.BigInteger(), nullable=False),
        sa.Column("completion_id", sa.BigInteger(), nullable=False),
        sa.Column("tier", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("tier >= 1", name=op.f("ck_ranking_items_tier")),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_ranking_items_completion_id")
        ),
        sa.ForeignKeyConstraint(
            ["ranking_id"], ["rankings.id"], name=op.f("fk_ranking_items_ranking_id")
        ),
        sa.PrimaryKeyConstraint("ranking_id", "completion_id", name=op.f("pk_ranking_items")),
    )
    op.create_index(
        op.f("ix_ranking_items_completion_id"), "ranking_items", ["completion_id"], unique=False
    )
    op.create_table(
        "ratings",
        sa.Column("ranking_id", sa.BigInteger(), nullable=False),
        sa.Column("completion_id", sa.BigInteger(), nullable=False),
        sa.Column("overall", sa.BigInteger(), nullable=True),
        sa.Column("fails_instruction", sa.Boolean(), nullable=True),
        sa.Column("inappropriate_for_assistant", sa.Boolean(), nullable=True),
        sa.Column("hallucination", sa.Boolean(), nullable=True),
        sa.Column("satisfies_constraint", sa.Boolean(), nullable=True),
        sa.Column("sexual_content", sa.Boolean(), nullable=True),
        sa.Column("violent_content", sa.Boolean(), nullable=True),
        sa.Column("encourages_harm", sa.Boolean(), nullable=True),
        sa.Column("denigrates_protected_class", sa.Boolean(), nullable=True),
        sa.Column("harmful_advice", sa.Boolean(), nullable=True),
        sa.Column("expresses_opinion", sa.Boolean(), nullable=True),
        sa.Column("moral_judgment", sa.Boolean(), nullable=True),
        sa.CheckConstraint("overall BETWEEN 1 AND 7", name=op.f("ck_ratings_likert")),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_ratings_completion_id")
        ),
        sa.ForeignKeyConstraint(
            ["ranking_id"], ["rankings.id"], name=op.f("fk_ratings_ranking_id")
        ),
        sa.PrimaryKeyConstraint("ranking_id", "completion_id", name=op.f("pk_ratings")),
    )
    op.create_index(op.f("ix_ratings_completion_id"), "ratings", ["completion_id"], unique=False)
    op.create_table(
        "snapshot_demonstrations",
        sa.Column("snapshot_id", sa.BigInteger(), nullable=False),
        sa.Column("demonstration_id", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("rehearsal", sa.Boolean(), nullable=False),
        sa.Column(
            "pool",
            sa.Enum(
                "training",
                "heldout",
                name="pool",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "purpose",
            sa.Enum(
                "training",
                "evaluation",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "pool = 'training'", name=op.f("ck_snapshot_demonstrations_training_pool")
        ),
        sa.CheckConstraint(
            "purpose = 'training'", name=op.f("ck_snapshot_demonstrations_training_purpose")
        ),
        sa.CheckConstraint(
            "rehearsal OR NOT simulated",
            name=op.f("ck_snapshot_demonstrations_simulated_only_in_rehearsal"),
        ),
        sa.ForeignKeyConstraint(
            ["demonstration_id", "study_id", "pool", "purpose", "simulated"],
            [
                "demonstrations.id",
                "demonstrations.study_id",
                "demonstrations.pool",
                "demonstrations.purpose",
                "demonstrations.simulated",
            ],
            name=op.f(
                "fk_snapshot_demonstrations_demonstration_id_study_id_pool_purpose_simulated"
            ),
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id", "study_id", "rehearsal"],
            ["snapshots.id", "snapshots.study_id", "snapshots.rehearsal"],
            name=op.f("fk_snapshot_demonstrations_snapshot_id_study_id_rehearsal"),
        ),
        sa.PrimaryKeyConstraint(
            "snapshot_id", "demonstration_id", name=op.f("pk_snapshot_demonstrations")
        ),
    )
    op.create_index(
        op.f("ix_snapshot_demonstrations_demonstration_id"),
        "snapshot_demonstrations",
        ["demonstration_id"],
        unique=False,
    )
    op.create_table(
        "snapshot_rankings",
        sa.Column("snapshot_id", sa.BigInteger(), nullable=False),
        sa.Column("ranking_id", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("rehearsal", sa.Boolean(), nullable=False),
        sa.Column(
            "pool",
            sa.Enum(
                "training",
                "heldout",
                name="pool",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "purpose",
            sa.Enum(
                "training",
                "evaluation",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.CheckConstraint("pool = 'training'", name=op.f("ck_snapshot_rankings_training_pool")),
        sa.CheckConstraint(
            "purpose = 'training'", name=op.f("ck_snapshot_rankings_training_purpose")
        ),
        sa.CheckConstraint(
            "rehearsal OR NOT simulated",
            name=op.f("ck_snapshot_rankings_simulated_only_in_rehearsal"),
        ),
        sa.ForeignKeyConstraint(
            ["ranking_id", "study_id", "pool", "purpose", "simulated"],
            [
                "rankings.id",
                "rankings.study_id",
                "rankings.pool",
                "rankings.purpose",
                "rankings.simulated",
            ],
            name=op.f("fk_snapshot_rankings_ranking_id_study_id_pool_purpose_simulated"),
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id", "study_id", "rehearsal"],
            ["snapshots.id", "snapshots.study_id", "snapshots.rehearsal"],
            name=op.f("fk_snapshot_rankings_snapshot_id_study_id_rehearsal"),
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "ranking_id", name=op.f("pk_snapshot_rankings")),
    )
    op.create_index(
        op.f("ix_snapshot_rankings_ranking_id"), "snapshot_rankings", ["ranking_id"], unique=False
    )
    # Tables that refer to each other in a circle: these three come last.
    op.create_foreign_key(None, "batches", "rounds", ["round_id"], ["id"])
    op.create_foreign_key(None, "completions", "runs", ["run_id"], ["id"])
    op.create_foreign_key(None, "policies", "checkpoints", ["checkpoint_id"], ["id"])


def downgrade() -> None:
    op.drop_constraint("fk_policies_checkpoint_id", "policies")
    op.drop_constraint("fk_completions_run_id", "completions")
    op.drop_constraint("fk_batches_round_id", "batches")
    op.drop_index(op.f("ix_snapshot_rankings_ranking_id"), table_name="snapshot_rankings")
    op.drop_table("snapshot_rankings")
    op.drop_index(
        op.f("ix_snapshot_demonstrations_demonstration_id"), table_name="snapshot_demonstrations"
    )
    op.drop_table("snapshot_demonstrations")
    op.drop_index(op.f("ix_ratings_completion_id"), table_name="ratings")
    op.drop_table("ratings")
    op.drop_index(op.f("ix_ranking_items_completion_id"), table_name="ranking_items")
    op.drop_table("ranking_items")
    op.drop_table("prompt_ratings")
    op.drop_index(
        "uq_rankings_current",
        table_name="rankings",
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.drop_index(op.f("ix_rankings_user_id"), table_name="rankings")
    op.drop_index("ix_rankings_prompt", table_name="rankings")
    op.drop_table("rankings")
    op.drop_index(
        "uq_demonstrations_current",
        table_name="demonstrations",
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.drop_index(op.f("ix_demonstrations_user_id"), table_name="demonstrations")
    op.drop_index("ix_demonstrations_prompt", table_name="demonstrations")
    op.drop_table("demonstrations")
    op.drop_table("assignment_items")
    op.drop_index(op.f("ix_run_inputs_snapshot_id"), table_name="run_inputs")
    op.drop_index(op.f("ix_run_inputs_checkpoint_id"), table_name="run_inputs")
    op.drop_table("run_inputs")
    op.drop_index(
        op.f("ix_label_task_completions_completion_id"), table_name="label_task_completions"
    )
    op.drop_table("label_task_completions")
    op.drop_index("ix_assignments_user_state", table_name="assignments")
    op.drop_index(
        "ix_assignments_leased_until",
        table_name="assignments",
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.drop_table("assignments")
    op.drop_table("run_metrics")
    op.drop_index(op.f("ix_label_tasks_prompt_id"), table_name="label_tasks")
    op.drop_index(
        "ix_label_tasks_free",
        table_name="label_tasks",
        postgresql_where=sa.text("state = 'open' AND slots_taken < labels_wanted"),
    )
    op.drop_table("label_tasks")
    op.drop_table("evaluation_policies")
    op.drop_index("ix_completions_prompt_policy", table_name="completions")
    op.drop_index(op.f("ix_completions_policy_id"), table_name="completions")
    op.drop_index(op.f("ix_completions_import_id"), table_name="completions")
    op.drop_table("completions")
    op.drop_index(op.f("ix_checkpoints_study_id"), table_name="checkpoints")
    op.drop_table("checkpoints")
    op.drop_index(op.f("ix_runs_study_id"), table_name="runs")
    op.drop_index(
        "ix_runs_due", table_name="runs", postgresql_where=sa.text("state IN ('queued', 'running')")
    )
    op.drop_table("runs")
    op.drop_index(
        "uq_prompts_study_external",
        table_name="prompts",
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.drop_index("ix_prompts_study_split", table_name="prompts")
    op.drop_index(op.f("ix_prompts_import_id"), table_name="prompts")
    op.drop_table("prompts")
    op.drop_index(op.f("ix_evaluations_study_id"), table_name="evaluations")
    op.drop_index(op.f("ix_evaluations_round_id"), table_name="evaluations")
    op.drop_table("evaluations")
    op.drop_table("source_users")
    op.drop_table("snapshots")
    op.drop_index(
        "uq_rounds_active",
        table_name="rounds",
        postgresql_where=sa.text("state IN ('running', 'waiting', 'failed')"),
    )
    op.drop_table("rounds")
    op.drop_table("policies")
    op.drop_index(op.f("ix_memberships_user_id"), table_name="memberships")
    op.drop_table("memberships")
    op.drop_index(op.f("ix_login_sessions_user_id"), table_name="login_sessions")
    op.drop_table("login_sessions")
    op.drop_index(op.f("ix_imports_study_id"), table_name="imports")
    op.drop_table("imports")
    op.drop_table("guideline_versions")
    op.drop_index(op.f("ix_batches_study_id"), table_name="batches")
    op.drop_table("batches")
    op.drop_index("uq_users_username_lower", table_name="users")
    op.drop_table("users")
    op.drop_table("studies")
