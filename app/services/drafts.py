"""Drafts: what was typed is kept on the server, and shows that somebody is at work."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, DomainError
from app.models import Assignment, AssignmentState, LabelTask
from app.services.assignments import (
    Lease,
    lease_of,
    letters,
    lock_assignment,
    lock_labeler,
    renew,
    take_slot_again,
)
from app.services.corrections import CORRECTION, check_correction
from app.services.label_forms import field_names, parse_active_seconds

MAX_DRAFT_CHARACTERS = 400_000
_NOT_TYPED = {"active_seconds", "step"}


class DraftTooLarge(DomainError):
    status = 413


class DraftBehind(Conflict):
    """The server has a draft that this one did not grow from: another tab or browser wrote it."""

    def __init__(self, draft: Mapping[str, str], saved_at: datetime | None) -> None:
        super().__init__("This was changed in another tab or browser.")
        self.draft = draft
        self.saved_at = saved_at


def version_of(saved_at: datetime | None) -> str:
    """The version of a draft, as pages and programs carry it: empty where there is none."""
    return saved_at.isoformat() if saved_at else ""


def save_draft(
    session: Session, assignment: Assignment, fields: Mapping[str, str], *, base: str | None = None
) -> Lease:
    """Keep what was typed, whatever became of the lease, and renew the lease if it can be.

    Unknown and empty fields are left out. `base` is the version that the fields grew from; without
    it they replace whatever there is. A submitted assignment takes the draft of a correction only.
    Raises DraftBehind, DraftTooLarge, and Conflict once the assignment is submitted or skipped.
    """
    lock_labeler(session, assignment.study_id, assignment.user_id)
    task = lock_assignment(session, assignment)
    if assignment.state is AssignmentState.submitted and CORRECTION in fields:
        check_correction(session, assignment, fields[CORRECTION])
    elif assignment.state in {AssignmentState.submitted, AssignmentState.skipped}:
        raise Conflict(f"This assignment is already {assignment.state.value}.")
    known = field_names(task, letters(assignment)) | {CORRECTION}
    draft = {name: value for name, value in fields.items() if value and name in known}
    if sum(map(len, draft.values())) > MAX_DRAFT_CHARACTERS:
        raise DraftTooLarge("This is too much text for a draft.")
    there = assignment.draft or {}
    if (
        base is not None
        and base != version_of(assignment.draft_saved_at)
        and _typed(draft) != _typed(there)
    ):
        raise DraftBehind(there, assignment.draft_saved_at)
    assignment.draft = draft
    assignment.draft_saved_at = func.now()
    _keep(session, assignment, task)
    session.flush()
    session.refresh(assignment, ["draft_saved_at"])
    return lease_of(session, assignment)


def keep_alive(session: Session, assignment: Assignment, fields: Mapping[str, str]) -> Lease:
    """Renew the lease of somebody who reads and types nothing, and keep their active seconds."""
    lock_labeler(session, assignment.study_id, assignment.user_id)
    task = lock_assignment(session, assignment)
    if assignment.state in {AssignmentState.submitted, AssignmentState.skipped}:
        raise Conflict(f"This assignment is already {assignment.state.value}.")
    assignment.active_seconds = max(assignment.active_seconds, parse_active_seconds(fields))
    _keep(session, assignment, task)
    session.flush()
    return lease_of(session, assignment)


def _keep(session: Session, assignment: Assignment, task: LabelTask) -> None:
    """Renew the lease; one that was taken back is given again while nobody else has the slot."""
    if (
        assignment.state is AssignmentState.returned
        and not _leases_another(session, assignment)
        and take_slot_again(task)
    ):
        assignment.state = AssignmentState.leased
    if assignment.state is AssignmentState.leased:
        renew(session, assignment, task.batch)


def _leases_another(session: Session, assignment: Assignment) -> bool:
    other = select(Assignment.id).where(
        Assignment.user_id == assignment.user_id,
        Assignment.study_id == assignment.study_id,
        Assignment.state == AssignmentState.leased,
    )
    return session.scalar(other) is not None


def _typed(draft: Mapping[str, str]) -> dict[str, str]:
    """What a person would miss: not the clock, nor which step was on the screen."""
    return {name: value for name, value in draft.items() if name not in _NOT_TYPED}
