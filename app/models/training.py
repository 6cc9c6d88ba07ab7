"""Rounds, runs, snapshots and checkpoints: what was trained, from what, and how far it is."""

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
from app.models.kinds import (
    CheckpointKind,
    Pool,
    Purpose,
    RoundState,
    RunKindName,
    RunState,
    SnapshotKind,
    enum_column,
)


class Round(HasId, Base):
    """collect → SFT → reward model → PPO → sample → evaluate. One is active in a study at most."""

    __tablename__ = "rounds"
    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        UniqueConstraint("id", "study_id"),
        Index(
            "uq_rounds_active",
            "study_id",
            unique=True,
            postgresql_where=text("state IN ('running', 'waiting', 'failed')"),
        ),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    number: Mapped[int]
    state: Mapped[RoundState] = enum_column(RoundState, server_default="running")
    stage: Mapped[str]
    seed: Mapped[int]
    config: Mapped[dict[str, Any]] = mapped_column(JSONB)  # services.rounds.RoundConfig
    # What stages take over instead of making it again: {stage: {"checkpoint" | "batch": id}}.
    reused: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    report: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    started_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]

    runs: Mapped[list[Run]] = relationship(
        lazy="raise_on_sql", order_by=lambda: Run.id, foreign_keys=lambda: Run.round_id
    )


class Run(HasId, Base):
    """One training process. The row is the queue entry, the lease and the record of it.

    A worker claims it by raising `attempt`, its fencing token; everything a worker writes carries
    `WHERE attempt = :token`, so a claimant that was overtaken writes nothing.
    """

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("round_id", "stage"),
        UniqueConstraint("id", "study_id"),
        ForeignKeyConstraint(["round_id", "study_id"], ["rounds.id", "rounds.study_id"]),
        Index(
            "ix_runs_due", "state", "id", postgresql_where=text("state IN ('queued', 'running')")
        ),
        CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="failed_says_why"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    round_id: Mapped[int | None]
    stage: Mapped[str]  # within the round: "sft", "sample-sft", …
    kind: Mapped[RunKindName] = enum_column(RunKindName)
    state: Mapped[RunState] = enum_column(RunState, server_default="queued")
    seed: Mapped[int]
    preset: Mapped[str]
    config: Mapped[dict[str, Any]] = mapped_column(JSONB)  # overrides on the trainer's preset
    requests: Mapped[list[dict[str, Any]]] = mapped_column(
        JSONB, server_default=text("'[]'")
    )  # kind "sample": {policy, part, n}
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    lease_until: Mapped[datetime | None]
    worker: Mapped[str | None]
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    step: Mapped[int] = mapped_column(server_default=text("0"))
    total_steps: Mapped[int] = mapped_column(server_default=text("0"))
    phase: Mapped[str] = mapped_column(server_default="")
    error: Mapped[str | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # trainer.contract.RunResult
    created_at: Mapped[CreatedAt]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    inputs: Mapped[list[RunInput]] = relationship(lazy="raise_on_sql", order_by="RunInput.part")


class RunInput(Base):
    """What a run reads: a snapshot or a checkpoint, by its part in RunSpec."""

    __tablename__ = "run_inputs"
    __table_args__ = (
        CheckConstraint("num_nonnulls(snapshot_id, checkpoint_id) = 1", name="one_of_two"),
        ForeignKeyConstraint(["run_id", "study_id"], ["runs.id", "runs.study_id"]),
        ForeignKeyConstraint(["snapshot_id", "study_id"], ["snapshots.id", "snapshots.study_id"]),
        ForeignKeyConstraint(
            ["checkpoint_id", "study_id"], ["checkpoints.id", "checkpoints.study_id"]
        ),
    )

    run_id: Mapped[int] = mapped_column(primary_key=True)
    part: Mapped[str] = mapped_column(primary_key=True)
    study_id: Mapped[int]
    snapshot_id: Mapped[int | None] = mapped_column(index=True)
    checkpoint_id: Mapped[int | None] = mapped_column(index=True)

    snapshot: Mapped[Snapshot | None] = relationship(
        lazy="raise_on_sql",
        foreign_keys="RunInput.snapshot_id",
        primaryjoin="Snapshot.id == RunInput.snapshot_id",
    )
    checkpoint: Mapped[Checkpoint | None] = relationship(
        lazy="raise_on_sql",
        foreign_keys="RunInput.checkpoint_id",
        primaryjoin="Checkpoint.id == RunInput.checkpoint_id",
    )


class RunMetric(Base):
    """One line of a run's metrics.jsonl."""

    __tablename__ = "run_metrics"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    values: Mapped[dict[str, float]] = mapped_column(JSONB)
    time: Mapped[datetime]


class Snapshot(HasId, Base):
    """A frozen, content-addressed dataset: the same records give the same row here."""

    __tablename__ = "snapshots"
    __table_args__ = (
        UniqueConstraint("study_id", "kind", "sha256"),
        UniqueConstraint("id", "study_id"),
        UniqueConstraint("id", "study_id", "rehearsal"),
        ForeignKeyConstraint(["study_id", "rehearsal"], ["studies.id", "studies.rehearsal"]),
    )

    study_id: Mapped[int]
    rehearsal: Mapped[bool]
    kind: Mapped[SnapshotKind] = enum_column(SnapshotKind)
    sha256: Mapped[str]
    uri: Mapped[str]
    records: Mapped[int]
    counts: Mapped[dict[str, Any]] = mapped_column(JSONB)
    query: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[CreatedAt]


def _snapshot_item_constraints(label: str, table: str) -> tuple[Any, ...]:
    """Only training labels of the training pool, and simulated ones in rehearsals only."""
    return (
        ForeignKeyConstraint(
            ["snapshot_id", "study_id", "rehearsal"],
            ["snapshots.id", "snapshots.study_id", "snapshots.rehearsal"],
        ),
        ForeignKeyConstraint(
            [label, "study_id", "pool", "purpose", "simulated"],
            [f"{table}.{c}" for c in ("id", "study_id", "pool", "purpose", "simulated")],
        ),
        CheckConstraint("pool = 'training'", name="training_pool"),
        CheckConstraint("purpose = 'training'", name="training_purpose"),
        CheckConstraint("rehearsal OR NOT simulated", name="simulated_only_in_rehearsal"),
    )


class SnapshotDemonstration(Base):
    __tablename__ = "snapshot_demonstrations"
    __table_args__ = _snapshot_item_constraints("demonstration_id", "demonstrations")

    snapshot_id: Mapped[int] = mapped_column(primary_key=True)
    demonstration_id: Mapped[int] = mapped_column(primary_key=True, index=True)
    study_id: Mapped[int]
    rehearsal: Mapped[bool]
    pool: Mapped[Pool] = enum_column(Pool)
    purpose: Mapped[Purpose] = enum_column(Purpose)
    simulated: Mapped[bool]


class SnapshotRanking(Base):
    __tablename__ = "snapshot_rankings"
    __table_args__ = _snapshot_item_constraints("ranking_id", "rankings")

    snapshot_id: Mapped[int] = mapped_column(primary_key=True)
    ranking_id: Mapped[int] = mapped_column(primary_key=True, index=True)
    study_id: Mapped[int]
    rehearsal: Mapped[bool]
    pool: Mapped[Pool] = enum_column(Pool)
    purpose: Mapped[Purpose] = enum_column(Purpose)
    simulated: Mapped[bool]


class SnapshotPrompt(Base):
    """A prompt of a snapshot without labels, so that its withdrawal is seen there."""

    __tablename__ = "snapshot_prompts"
    __table_args__ = (
        ForeignKeyConstraint(["snapshot_id", "study_id"], ["snapshots.id", "snapshots.study_id"]),
        ForeignKeyConstraint(["prompt_id", "study_id"], ["prompts.id", "prompts.study_id"]),
    )

    snapshot_id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(primary_key=True, index=True)
    study_id: Mapped[int]


class Checkpoint(HasId, Base):
    """A model made by a run, or a base model that was named. `uri` is an artifact or a name."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("id", "study_id"),
        ForeignKeyConstraint(["run_id", "study_id"], ["runs.id", "runs.study_id"]),
        ForeignKeyConstraint(["parent_id", "study_id"], ["checkpoints.id", "checkpoints.study_id"]),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    run_id: Mapped[int | None] = mapped_column(unique=True)
    parent_id: Mapped[int | None]
    kind: Mapped[CheckpointKind] = enum_column(CheckpointKind)
    label: Mapped[str]  # "base", "sft", "rl-init", "rm", "ppo-ptx"
    uri: Mapped[str]
    metrics: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    versions: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    created_at: Mapped[CreatedAt]
