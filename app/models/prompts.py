"""Prompts, where they came from, and the completions that policies gave."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    UniqueConstraint,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, CreatedAt, HasId
from app.models.kinds import FoldReason, PiiState, PolicyKind, Split, UseCase, enum_column


class SourceUser(HasId, Base):
    """Whose prompt it was. The split is decided once, here, so that no user is on two sides."""

    __tablename__ = "source_users"
    __table_args__ = (
        UniqueConstraint("study_id", "name"),
        UniqueConstraint("id", "study_id", "split"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    name: Mapped[str]
    split: Mapped[Split] = enum_column(Split)
    created_at: Mapped[CreatedAt]


class Import(HasId, Base):
    """One imported file: all of it or nothing."""

    __tablename__ = "imports"

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    kind: Mapped[str]
    file_name: Mapped[str]
    sha256: Mapped[str]
    report: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]
    undone_at: Mapped[datetime | None]  # what it brought is gone; the row stays as a record


class DuplicateGroup(HasId, Base):
    """Prompts that are nearly the same. Its split is that of all of them: a foreign key says so."""

    __tablename__ = "duplicate_groups"
    __table_args__ = (UniqueConstraint("id", "study_id", "split"),)

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    split: Mapped[Split] = enum_column(Split)
    created_at: Mapped[CreatedAt]


class Prompt(HasId, Base):
    """An instruction. Its split is its source user's, and its group's: the foreign keys say so."""

    __tablename__ = "prompts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["source_user_id", "study_id", "split"],
            ["source_users.id", "source_users.study_id", "source_users.split"],
        ),
        ForeignKeyConstraint(
            ["duplicate_group", "study_id", "split"],
            ["duplicate_groups.id", "duplicate_groups.study_id", "duplicate_groups.split"],
        ),
        UniqueConstraint("study_id", "text_sha256"),
        UniqueConstraint("id", "study_id"),
        Index(
            "uq_prompts_study_external",
            "study_id",
            "external_id",
            unique=True,
            postgresql_where=sql("external_id IS NOT NULL"),
        ),
        Index("ix_prompts_study_split", "study_id", "split", "id"),
        Index("ix_prompts_source_user", "source_user_id"),
        Index("ix_prompts_held", "study_id", "id", postgresql_where=sql("pii_state = 'held'")),
        Index(
            "ix_prompts_pii_decided",
            "study_id",
            "pii_decided_at",
            postgresql_where=sql("pii_decided_at IS NOT NULL"),
        ),
        Index(
            "ix_prompts_duplicate_group",
            "study_id",
            "duplicate_group",
            postgresql_where=sql("duplicate_group IS NOT NULL"),
        ),
        CheckConstraint("text <> ''", name="text_not_empty"),
        CheckConstraint(
            "(pii_state = 'redacted') = (original IS NOT NULL)", name="original_of_redacted"
        ),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    source_user_id: Mapped[int]
    split: Mapped[Split] = enum_column(Split)
    text: Mapped[str]
    text_sha256: Mapped[str]  # of the normal form of what came in, redacted or not
    external_id: Mapped[str | None]  # the file's own name for it
    use_case: Mapped[UseCase | None] = enum_column(UseCase, nullable=True)
    closed_domain: Mapped[bool | None]  # None: not known, the labeler says
    constraint_text: Mapped[str | None]  # an explicit constraint, if the prompt names one
    # The parts of a few-shot prompt: {"instruction", "pairs": [{"query", "response"}], "query"}.
    few_shot: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=sql("'{}'"))
    language: Mapped[str | None]  # ISO 639-1; None: too little text to tell
    tokens: Mapped[int | None]
    duplicate_group: Mapped[int | None]
    pii_state: Mapped[PiiState] = enum_column(PiiState, server_default="clear")
    # What was found in the text as it came: [{"kind", "start", "end"}], in characters.
    pii_spans: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    pii_decided_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    pii_decided_at: Mapped[datetime | None]
    # Of a redacted prompt, never shown to labelers: {"text", "constraint_text", "few_shot"}.
    original: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    suggested_use_case: Mapped[UseCase | None] = enum_column(
        UseCase, nullable=True, constraint="suggested_use_case"
    )
    suggested_confidence: Mapped[float | None]  # the classifier's probability
    import_id: Mapped[int | None] = mapped_column(ForeignKey("imports.id"), index=True)
    created_at: Mapped[CreatedAt]
    withdrawn_at: Mapped[datetime | None]  # it and its labels are used no more

    source_user: Mapped[SourceUser] = relationship(
        lazy="raise_on_sql",
        foreign_keys="Prompt.source_user_id",
        primaryjoin="SourceUser.id == Prompt.source_user_id",
    )


class PromptSketch(Base):
    """What near-duplicates of a prompt are found by: services.preparation.duplicates."""

    __tablename__ = "prompt_sketches"
    __table_args__ = (
        ForeignKeyConstraint(
            ["prompt_id", "study_id"], ["prompts.id", "prompts.study_id"], ondelete="CASCADE"
        ),
        Index(
            "ix_prompt_sketches_prefix",
            "study_id",
            "prefix",
            postgresql_where=sql("prefix IS NOT NULL"),
        ),
    )

    prompt_id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int]
    prefix: Mapped[int | None]  # hash of the long beginning; None: the prompt is shorter
    bands: Mapped[list[int]] = mapped_column(ARRAY(Integer))


class FoldedPrompt(HasId, Base):
    """A prompt that came and was not stored as one of its own, and the one that stands for it."""

    __tablename__ = "folded_prompts"
    __table_args__ = (
        Index("ix_folded_prompts_text", "study_id", "text_sha256"),
        Index(
            "ix_folded_prompts_prompt",
            "prompt_id",
            postgresql_where=sql("prompt_id IS NOT NULL"),
        ),
        Index(
            "uq_folded_prompts_study_external",
            "study_id",
            "external_id",
            unique=True,
            postgresql_where=sql("external_id IS NOT NULL"),
        ),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    import_id: Mapped[int | None] = mapped_column(
        ForeignKey("imports.id", ondelete="CASCADE"), index=True
    )
    line: Mapped[int | None]  # of the imported file
    external_id: Mapped[str | None]
    text_sha256: Mapped[str]
    reason: Mapped[FoldReason] = enum_column(FoldReason)
    prompt_id: Mapped[int | None] = mapped_column(ForeignKey("prompts.id", ondelete="CASCADE"))
    similarity: Mapped[float | None]  # Jaccard, of a near-duplicate
    created_at: Mapped[CreatedAt]


class Policy(HasId, Base):
    """What answers prompts: a checkpoint of ours, or an external system whose answers we hold."""

    __tablename__ = "policies"
    __table_args__ = (
        UniqueConstraint("study_id", "name"),
        UniqueConstraint("id", "study_id"),
        CheckConstraint(
            "(kind = 'checkpoint') = (checkpoint_id IS NOT NULL)", name="checkpoint_fits_kind"
        ),
        CheckConstraint(
            "best_of = 1 AND reward_checkpoint_id IS NULL"
            " OR best_of > 1 AND num_nonnulls(checkpoint_id, reward_checkpoint_id) = 2",
            name="best_of_by_a_reward_model",
        ),
        Index(
            "uq_policies_checkpoint",
            "checkpoint_id",
            unique=True,
            postgresql_where=sql("best_of = 1"),
        ),
        Index(
            "uq_policies_best_of",
            "checkpoint_id",
            "best_of",
            "reward_checkpoint_id",
            unique=True,
            postgresql_where=sql("best_of > 1"),
        ),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    name: Mapped[str]  # "ppo-ptx round 2"
    label: Mapped[str]  # the short name in tables: "base", "sft", "ppo-ptx"
    kind: Mapped[PolicyKind] = enum_column(PolicyKind)
    checkpoint_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id", use_alter=True))
    # An answer is the one of so many samples that the reward model scores highest.
    best_of: Mapped[int] = mapped_column(server_default=sql("1"))
    reward_checkpoint_id: Mapped[int | None] = mapped_column(
        ForeignKey("checkpoints.id", use_alter=True)
    )
    created_at: Mapped[CreatedAt]


class Completion(HasId, Base):
    """One policy's answer to one prompt."""

    __tablename__ = "completions"
    __table_args__ = (
        ForeignKeyConstraint(["prompt_id", "study_id"], ["prompts.id", "prompts.study_id"]),
        ForeignKeyConstraint(["policy_id", "study_id"], ["policies.id", "policies.study_id"]),
        UniqueConstraint("id", "prompt_id"),
        UniqueConstraint("run_id", "policy_id", "prompt_id", "sample_index"),
        UniqueConstraint("demonstration_id"),
        Index("ix_completions_prompt_policy", "prompt_id", "policy_id"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    prompt_id: Mapped[int]
    policy_id: Mapped[int] = mapped_column(index=True)
    text: Mapped[str]
    sample_index: Mapped[int] = mapped_column(server_default=sql("0"))
    finish_reason: Mapped[str | None]
    tokens: Mapped[int | None]
    score: Mapped[float | None]  # of the run's reward model; nats of preference
    external_score: Mapped[float | None]  # a number that came with an imported file
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id", use_alter=True))
    import_id: Mapped[int | None] = mapped_column(ForeignKey("imports.id"), index=True)
    # The demonstration that is ranked as this completion: its labeler does not rank it.
    demonstration_id: Mapped[int | None] = mapped_column(ForeignKey("demonstrations.id"))
    created_at: Mapped[CreatedAt]

    prompt: Mapped[Prompt] = relationship(
        lazy="raise_on_sql",
        foreign_keys="Completion.prompt_id",
        primaryjoin="Prompt.id == Completion.prompt_id",
    )
    policy: Mapped[Policy] = relationship(
        lazy="raise_on_sql",
        foreign_keys="Completion.policy_id",
        primaryjoin="Policy.id == Completion.policy_id",
    )
