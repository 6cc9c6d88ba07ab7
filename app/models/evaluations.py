"""Blind evaluations: which policies were judged side by side, in which batch."""

from __future__ import annotations

from sqlalchemy import ForeignKey, ForeignKeyConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, CreatedAt, HasId


class Evaluation(HasId, Base):
    """One blind evaluation. Its judgements are the rankings of its batch."""

    __tablename__ = "evaluations"
    __table_args__ = (UniqueConstraint("id", "study_id"),)

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"), index=True)
    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"), unique=True)
    created_at: Mapped[CreatedAt]


class EvaluationPolicy(Base):
    """A policy under evaluation."""

    __tablename__ = "evaluation_policies"
    __table_args__ = (
        ForeignKeyConstraint(
            ["evaluation_id", "study_id"], ["evaluations.id", "evaluations.study_id"]
        ),
        ForeignKeyConstraint(["policy_id", "study_id"], ["policies.id", "policies.study_id"]),
    )

    evaluation_id: Mapped[int] = mapped_column(primary_key=True)
    policy_id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int]
