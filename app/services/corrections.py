"""Correcting a submitted label, for as long as the study lets its labelers.

A correction is a further revision: the earlier row is kept and gets `superseded_at`, and whatever
reads labels from then on reads the current revision only. A snapshot that was frozen before keeps
the revision that it was made of, as does every checkpoint trained on it; the next snapshot holds
the correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from app.errors import Conflict
from app.models import (
    Assignment,
    AssignmentState,
    Demonstration,
    LabelKind,
    PromptRating,
    Ranking,
    Study,
    User,
)
from app.services.assignments import lock_assignment, lock_labeler
from app.services.label_forms import PROMPT_QUESTIONS, RATING_QUESTIONS
from app.services.labels import parse_label, store_label

CORRECTION = "correction"  # the form's field: the number of the revision that it corrects
_TEXT = {None: "", True: "yes", False: "no"}

Label = Demonstration | Ranking


def revisions(session: Session, assignment: Assignment) -> Sequence[Label]:
    """The labels given in the assignment, the current one last, each with all its parts.

    None for an assignment that is not submitted, or that asked for a prompt.
    """
    if assignment.label_task.kind is LabelKind.demonstration:
        return session.scalars(
            select(Demonstration)
            .where(Demonstration.assignment_id == assignment.id)
            .order_by(Demonstration.id)
        ).all()
    return session.scalars(
        select(Ranking)
        .where(Ranking.assignment_id == assignment.id)
        .options(selectinload(Ranking.items), selectinload(Ranking.ratings))
        .order_by(Ranking.id)
    ).all()


def correctable_until(session: Session, assignment: Assignment) -> datetime | None:
    """When the time to correct a submitted label ends, or None when it never began."""
    if (
        assignment.submitted_at is None
        or assignment.state is not AssignmentState.submitted
        or assignment.label_task.kind is LabelKind.prompt
    ):
        return None
    minutes = session.get_one(Study, assignment.study_id).correction_minutes
    return assignment.submitted_at + timedelta(minutes=minutes) if minutes > 0 else None


def may_correct(session: Session, assignment: Assignment) -> bool:
    until = correctable_until(session, assignment)
    return until is not None and session.scalars(select(func.now())).one() < until


def check_correction(session: Session, assignment: Assignment, number: str) -> None:
    """Raise Conflict unless revision `number` is the current one and may still be corrected."""
    if not may_correct(session, assignment):
        raise Conflict("The time to correct this one is over.")
    if number != str(len(revisions(session, assignment))):
        raise Conflict("You have corrected this one meanwhile. Open it again to change it further.")


def correct(
    session: Session, assignment: Assignment, user: User, fields: Mapping[str, str]
) -> bool:
    """Store a further revision of a submitted label; False when it says what the current one says.

    `assignment` comes from find_assignment. Raises FormProblems, and Conflict when there is nothing
    to correct, the time is over, or another correction came first.
    """
    lock_labeler(session, assignment.study_id, assignment.user_id)
    lock_assignment(session, assignment)
    if assignment.state is not AssignmentState.submitted:
        raise Conflict("There is no label to correct yet.")
    if assignment.label_task.kind is LabelKind.prompt:
        raise Conflict("A prompt that you wrote stays as it is: others may answer it.")
    answers = parse_label(assignment, fields)
    current = revisions(session, assignment)[-1]
    if answers == parse_label(assignment, fields_of(session, assignment, current)):
        assignment.draft = None
        assignment.draft_saved_at = None
        session.flush()
        return False
    check_correction(session, assignment, fields.get(CORRECTION, ""))
    current.superseded_at = func.now()
    session.flush()  # one revision is current at any time
    store_label(session, assignment, user, answers, fields)
    session.flush()
    return True


def fields_of(session: Session, assignment: Assignment, label: Label) -> dict[str, str]:
    """The form as it was filled in for this revision."""
    fields = {"active_seconds": f"{assignment.active_seconds:g}"}
    if isinstance(label, Demonstration):
        return fields | {"text": label.text}
    letter_of = {item.completion_id: item.letter for item in assignment.items}
    for item in label.items:
        fields[f"tier_{letter_of[item.completion_id]}"] = str(item.tier)
    for rating in label.ratings:
        letter = letter_of[rating.completion_id]
        fields[f"overall_{letter}"] = "" if rating.overall is None else str(rating.overall)
        for question in RATING_QUESTIONS:
            fields[f"{question}_{letter}"] = _TEXT[getattr(rating, question)]
    about = session.get(PromptRating, label.id)
    if about is not None:
        for question in PROMPT_QUESTIONS:
            fields[f"prompt_{question}"] = _TEXT[getattr(about, question)]
    return {name: value for name, value in fields.items() if value}
