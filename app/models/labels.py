"""Batches of label tasks, assignments (leases), and the labels themselves.

Pool, purpose and simulated travel from membership and user down to every label as parts of foreign
keys, so that the database itself refuses a held-out labeler's label in a training snapshot, and a
held-out evaluation on a training labeler's screen.
"""

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
    AssignmentState,
    LabelKind,
    LabelTaskState,
    Pool,
    Purpose,
    WritingStyle,
    enum_column,
)
from app.models.people import GuidelineVersion, User
from app.models.prompts import Completion, Prompt


class Batch(HasId, Base):
    """Label tasks of one kind, made together, for one pool and one purpose."""

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("id", "study_id", "kind", "purpose", "pool"),
        CheckConstraint(
            "pool = 'training' OR purpose = 'evaluation'", name="heldout_only_evaluates"
        ),
        UniqueConstraint("round_id", "stage"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    name: Mapped[str]
    kind: Mapped[LabelKind] = enum_column(LabelKind)
    purpose: Mapped[Purpose] = enum_column(Purpose)
    pool: Mapped[Pool] = enum_column(Pool)
    rate_completions: Mapped[bool] = mapped_column(server_default=text("true"))  # step 1 of ranking
    # Whether step 2 begins with the order of the ratings, for the labeler to accept or not.
    suggest_order: Mapped[bool] = mapped_column(server_default=text("true"))
    lease_minutes: Mapped[int] = mapped_column(server_default=text("60"))
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id", use_alter=True))
    stage: Mapped[str | None]  # of the round: "demonstrations", "rankings", "evaluation"
    import_id: Mapped[int | None] = mapped_column(ForeignKey("imports.id"), index=True)  # of labels
    created_at: Mapped[CreatedAt]


class LabelTask(HasId, Base):
    """One prompt that wants `labels_wanted` independent labels, or one prompt to be written.

    `slots_taken` counts leased and submitted assignments; it changes only under this row's lock.
    """

    __tablename__ = "label_tasks"
    __table_args__ = (
        ForeignKeyConstraint(
            ["batch_id", "study_id", "kind", "purpose", "pool"],
            ["batches.id", "batches.study_id", "batches.kind", "batches.purpose", "batches.pool"],
        ),
        ForeignKeyConstraint(["prompt_id", "study_id"], ["prompts.id", "prompts.study_id"]),
        UniqueConstraint("id", "study_id", "pool", "purpose"),
        UniqueConstraint("batch_id", "prompt_id"),
        CheckConstraint("labels_wanted >= 1", name="wants_a_label"),
        CheckConstraint("(kind = 'prompt') = (prompt_id IS NULL)", name="prompt_fits_kind"),
        CheckConstraint(
            "(kind = 'prompt') = (writing_style IS NOT NULL)", name="writing_style_fits_kind"
        ),
        CheckConstraint("slots_taken BETWEEN 0 AND labels_wanted", name="slots"),
        Index(
            "ix_label_tasks_free",
            "study_id",
            "pool",
            "priority",
            "id",
            postgresql_where=text("state = 'open' AND slots_taken < labels_wanted"),
        ),
    )

    study_id: Mapped[int]
    batch_id: Mapped[int]
    kind: Mapped[LabelKind] = enum_column(LabelKind)
    purpose: Mapped[Purpose] = enum_column(Purpose)
    pool: Mapped[Pool] = enum_column(Pool)
    prompt_id: Mapped[int | None] = mapped_column(index=True)  # None: a prompt is to be written
    writing_style: Mapped[WritingStyle | None] = enum_column(WritingStyle, nullable=True)
    brief: Mapped[str | None]  # what the prompt to be written is about; the use case, if user-based
    priority: Mapped[int] = mapped_column(server_default=text("0"))  # smaller first
    labels_wanted: Mapped[int] = mapped_column(server_default=text("1"))
    labels_done: Mapped[int] = mapped_column(server_default=text("0"))
    slots_taken: Mapped[int] = mapped_column(server_default=text("0"))
    state: Mapped[LabelTaskState] = enum_column(LabelTaskState, server_default="open")
    created_at: Mapped[CreatedAt]

    batch: Mapped[Batch] = relationship(
        lazy="raise_on_sql",
        foreign_keys="LabelTask.batch_id",
        primaryjoin="Batch.id == LabelTask.batch_id",
    )
    prompt: Mapped[Prompt | None] = relationship(
        lazy="raise_on_sql",
        foreign_keys="LabelTask.prompt_id",
        primaryjoin="Prompt.id == LabelTask.prompt_id",
    )

    @property
    def given_prompt(self) -> Prompt:
        """The prompt that the label is about. Raises ValueError where one is to be written."""
        if self.prompt is None:
            raise ValueError(f"label task {self.id} asks for a prompt")
        return self.prompt


class LabelTaskCompletion(Base):
    """The completions that a ranking task is about."""

    __tablename__ = "label_task_completions"

    label_task_id: Mapped[int] = mapped_column(ForeignKey("label_tasks.id"), primary_key=True)
    completion_id: Mapped[int] = mapped_column(
        ForeignKey("completions.id"), primary_key=True, index=True
    )


class Assignment(HasId, Base):
    """One labeler's lease on a label task. `public_id` is all that the browser sees of it."""

    __tablename__ = "assignments"
    __table_args__ = (
        ForeignKeyConstraint(
            ["label_task_id", "study_id", "pool", "purpose"],
            ["label_tasks.id", "label_tasks.study_id", "label_tasks.pool", "label_tasks.purpose"],
        ),
        ForeignKeyConstraint(
            ["study_id", "user_id", "pool"],
            ["memberships.study_id", "memberships.user_id", "memberships.pool"],
        ),
        UniqueConstraint("id", "study_id", "user_id", "pool", "purpose"),
        UniqueConstraint("label_task_id", "user_id"),  # nobody gets the same task twice
        Index("ix_assignments_user_state", "user_id", "study_id", "state"),
        Index(  # one lease at a time in a study
            "uq_assignments_one_lease",
            "study_id",
            "user_id",
            unique=True,
            postgresql_where=text("state = 'leased'"),
        ),
        Index(  # and one fetched ahead
            "uq_assignments_one_reserved",
            "study_id",
            "user_id",
            unique=True,
            postgresql_where=text("state = 'reserved'"),
        ),
        Index(
            "ix_assignments_held_until",
            "lease_until",
            postgresql_where=text("state IN ('leased', 'reserved')"),
        ),
        CheckConstraint("(state = 'skipped') = (skip_reason IS NOT NULL)", name="skip_has_reason"),
    )

    public_id: Mapped[str] = mapped_column(unique=True)
    study_id: Mapped[int]
    label_task_id: Mapped[int]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    pool: Mapped[Pool] = enum_column(Pool)
    purpose: Mapped[Purpose] = enum_column(Purpose)
    state: Mapped[AssignmentState] = enum_column(AssignmentState, server_default="leased")
    leased_at: Mapped[CreatedAt]
    lease_until: Mapped[datetime]
    draft: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # the form's fields as typed
    draft_saved_at: Mapped[datetime | None]
    submitted_at: Mapped[datetime | None]
    skip_reason: Mapped[str | None]
    active_seconds: Mapped[float] = mapped_column(server_default=text("0"))

    label_task: Mapped[LabelTask] = relationship(
        lazy="raise_on_sql",
        foreign_keys="Assignment.label_task_id",
        primaryjoin="LabelTask.id == Assignment.label_task_id",
    )
    user: Mapped[User] = relationship(lazy="raise_on_sql", foreign_keys="Assignment.user_id")
    items: Mapped[list[AssignmentItem]] = relationship(
        lazy="raise_on_sql", order_by=lambda: AssignmentItem.position
    )


class AssignmentItem(Base):
    """The order in which completions were shown: position 0 is letter A. Shuffled by the server."""

    __tablename__ = "assignment_items"
    __table_args__ = (UniqueConstraint("assignment_id", "completion_id"),)

    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    completion_id: Mapped[int] = mapped_column(ForeignKey("completions.id"))

    completion: Mapped[Completion] = relationship(lazy="raise_on_sql")

    @property
    def letter(self) -> str:
        return chr(ord("A") + self.position)


def _label_constraints(table: str) -> tuple[Any, ...]:
    """What every label carries: assignment, pool, purpose, labeler, and whether simulated."""
    return (
        ForeignKeyConstraint(
            ["assignment_id", "study_id", "user_id", "pool", "purpose"],
            [
                "assignments.id",
                "assignments.study_id",
                "assignments.user_id",
                "assignments.pool",
                "assignments.purpose",
            ],
        ),
        ForeignKeyConstraint(["user_id", "simulated"], ["users.id", "users.simulated"]),
        ForeignKeyConstraint(["prompt_id", "study_id"], ["prompts.id", "prompts.study_id"]),
        UniqueConstraint("id", "study_id", "pool", "purpose", "simulated"),
        # A correction keeps the earlier revision; one revision is current.
        Index(
            f"uq_{table}_current",
            "assignment_id",
            unique=True,
            postgresql_where=text("superseded_at IS NULL"),
        ),
        Index(f"ix_{table}_prompt", "prompt_id"),
    )


class _Label(HasId):
    """The columns of every label: whose it is, of what, under which guidelines, and its revision.

    `superseded_at` is None on the current revision.
    """

    assignment_id: Mapped[int]
    study_id: Mapped[int]
    user_id: Mapped[int] = mapped_column(index=True)
    pool: Mapped[Pool] = enum_column(Pool)
    purpose: Mapped[Purpose] = enum_column(Purpose)
    simulated: Mapped[bool]
    prompt_id: Mapped[int]
    guideline_version_id: Mapped[int] = mapped_column(ForeignKey("guideline_versions.id"))
    created_at: Mapped[CreatedAt]
    superseded_at: Mapped[datetime | None]


class Demonstration(_Label, Base):
    """The completion that a labeler wrote for a prompt."""

    __tablename__ = "demonstrations"
    __table_args__ = _label_constraints("demonstrations")

    text: Mapped[str]

    guideline_version: Mapped[GuidelineVersion] = relationship(lazy="raise_on_sql")


class WrittenPrompt(_Label, Base):
    """That a labeler wrote a prompt: `prompt_id` is the prompt that was made of it."""

    __tablename__ = "written_prompts"
    __table_args__ = _label_constraints("written_prompts")

    writing_style: Mapped[WritingStyle] = enum_column(WritingStyle)


class Flag(HasId, Base):
    """A labeler's message to the researchers about an assignment, and their answer."""

    __tablename__ = "flags"
    __table_args__ = (
        CheckConstraint("message <> ''", name="message_not_empty"),
        CheckConstraint("(answer IS NULL) = (answered_at IS NULL)", name="answered_with_answer"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    message: Mapped[str]
    created_at: Mapped[CreatedAt]
    answer: Mapped[str | None]
    answered_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    answered_at: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]  # when the labeler saw the answer

    assignment: Mapped[Assignment] = relationship(lazy="raise_on_sql")
    user: Mapped[User] = relationship(lazy="raise_on_sql", foreign_keys="Flag.user_id")


class Ranking(_Label, Base):
    """One labeler's ordered tie groups over a prompt's completions, kept raw in `items`."""

    __tablename__ = "rankings"
    __table_args__ = _label_constraints("rankings")

    items: Mapped[list[RankingItem]] = relationship(
        lazy="raise_on_sql",
        order_by=lambda: (RankingItem.tier, RankingItem.completion_id),
        back_populates="ranking",
    )
    ratings: Mapped[list[Rating]] = relationship(lazy="raise_on_sql", back_populates="ranking")


class RankingItem(Base):
    """A completion's tier in a ranking: 1 is best; the same tier is a tie; tiers have no gaps."""

    __tablename__ = "ranking_items"
    __table_args__ = (CheckConstraint("tier >= 1", name="tier"),)

    ranking_id: Mapped[int] = mapped_column(ForeignKey("rankings.id"), primary_key=True)
    completion_id: Mapped[int] = mapped_column(
        ForeignKey("completions.id"), primary_key=True, index=True
    )
    tier: Mapped[int]

    ranking: Mapped[Ranking] = relationship(lazy="raise_on_sql", back_populates="items")
    completion: Mapped[Completion] = relationship(lazy="raise_on_sql")


class Rating(Base):
    """Overall quality and metadata of one completion (paper, Table 11). None: not answered."""

    __tablename__ = "ratings"
    __table_args__ = (CheckConstraint("overall BETWEEN 1 AND 7", name="likert"),)

    ranking_id: Mapped[int] = mapped_column(ForeignKey("rankings.id"), primary_key=True)
    completion_id: Mapped[int] = mapped_column(
        ForeignKey("completions.id"), primary_key=True, index=True
    )
    overall: Mapped[int | None]
    fails_instruction: Mapped[bool | None]
    inappropriate_for_assistant: Mapped[bool | None]
    hallucination: Mapped[bool | None]  # closed-domain prompts only
    satisfies_constraint: Mapped[bool | None]  # prompts that name a constraint only
    sexual_content: Mapped[bool | None]
    violent_content: Mapped[bool | None]
    encourages_harm: Mapped[bool | None]  # or fails to discourage violence, abuse, self-harm
    denigrates_protected_class: Mapped[bool | None]
    harmful_advice: Mapped[bool | None]
    expresses_opinion: Mapped[bool | None]
    moral_judgment: Mapped[bool | None]

    ranking: Mapped[Ranking] = relationship(lazy="raise_on_sql", back_populates="ratings")


class PromptRating(Base):
    """What a labeler ticked about the prompt itself (paper, appendix A). None: not answered."""

    __tablename__ = "prompt_ratings"

    ranking_id: Mapped[int] = mapped_column(ForeignKey("rankings.id"), primary_key=True)
    ambiguous: Mapped[bool | None]
    sensitive_content: Mapped[bool | None]
    identity_dependent: Mapped[bool | None]
    closed_domain: Mapped[bool | None]
    continuation_style: Mapped[bool | None]
    requests_opinion: Mapped[bool | None]
    requests_advice: Mapped[bool | None]
    requests_moral_judgment: Mapped[bool | None]
    safety_constraints: Mapped[bool | None]
    other_constraints: Mapped[bool | None]
    intent_unclear: Mapped[bool | None]
