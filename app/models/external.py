"""External systems that an endpoint answers for, and the sampling of their completions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, CreatedAt, HasId
from app.models.kinds import RequestState, SamplingState, enum_column
from app.models.prompts import Policy


class ExternalSystem(Base):
    """How an external policy's completions are asked for: an endpoint and what is sent to it.

    Never the API key itself, only the name of the environment variable that holds it.
    """

    __tablename__ = "external_systems"
    __table_args__ = (
        ForeignKeyConstraint(["policy_id", "study_id"], ["policies.id", "policies.study_id"]),
        UniqueConstraint("policy_id", "study_id"),
    )

    policy_id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    # services.external.settings.SystemSettings
    settings: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]

    policy: Mapped[Policy] = relationship(
        lazy="raise_on_sql",
        foreign_keys="ExternalSystem.policy_id",
        primaryjoin="Policy.id == ExternalSystem.policy_id",
    )


class Sampling(HasId, Base):
    """Completions that an external system is asked for; a system has one under way at most.

    The row is the queue entry, the lease and the record of it. A worker claims it by raising
    `attempt`, its fencing token; see Run.
    """

    __tablename__ = "samplings"
    __table_args__ = (
        ForeignKeyConstraint(
            ["policy_id", "study_id"],
            ["external_systems.policy_id", "external_systems.study_id"],
        ),
        Index(
            "uq_samplings_active",
            "policy_id",
            unique=True,
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
        CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="failed_says_why"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    policy_id: Mapped[int] = mapped_column(index=True)
    choice: Mapped[dict[str, Any]] = mapped_column(JSONB)  # services.external.samplings.Choice
    state: Mapped[SamplingState] = enum_column(SamplingState, server_default="queued")
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    # The last attempt that stored a completion, or that somebody asked to retry after.
    fruitful_attempt: Mapped[int] = mapped_column(server_default=text("0"))
    lease_until: Mapped[datetime | None]
    note: Mapped[str | None]  # what it waits for, in words
    error: Mapped[str | None]
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]


class SamplingRequest(HasId, Base):
    """One completion that is wanted: waiting for its turn, there, or not to be had."""

    __tablename__ = "sampling_requests"
    __table_args__ = (
        ForeignKeyConstraint(["prompt_id", "study_id"], ["prompts.id", "prompts.study_id"]),
        UniqueConstraint("sampling_id", "prompt_id", "sample_index"),
        UniqueConstraint("completion_id"),
        Index("ix_sampling_requests_state", "sampling_id", "state", "id"),
        Index("ix_sampling_requests_prompt", "prompt_id"),
        CheckConstraint("(state = 'done') = (completion_id IS NOT NULL)", name="done_is_there"),
        CheckConstraint("(state = 'failed') = (problem IS NOT NULL)", name="failed_says_why"),
    )

    sampling_id: Mapped[int] = mapped_column(ForeignKey("samplings.id"))
    study_id: Mapped[int]
    prompt_id: Mapped[int]
    sample_index: Mapped[int]  # of the system's completions of the prompt, from 0
    state: Mapped[RequestState] = enum_column(RequestState, server_default="waiting")
    tries: Mapped[int] = mapped_column(server_default=text("0"))  # that came to nothing
    completion_id: Mapped[int | None] = mapped_column(ForeignKey("completions.id"))
    problem: Mapped[str | None]  # why there is none, in words
