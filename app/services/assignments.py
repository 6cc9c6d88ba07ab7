"""Assignments: who has which label task on the screen, for how long, and with what draft.

An assignment is `leased` until it is `submitted` (services.labels), `skipped` by the labeler, or
`returned` because its time ran out. A slot of the task belongs to it while leased and for good
once submitted. Locks are taken in one order: membership, label task, assignment, batch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.orm import Session, joinedload, object_mapper, selectinload

from app.errors import Conflict, DomainError, Forbidden, Invalid, NotFound
from app.models import (
    Assignment,
    AssignmentItem,
    AssignmentState,
    Batch,
    LabelKind,
    LabelTask,
    LabelTaskCompletion,
    LabelTaskState,
    Membership,
    User,
)
from app.services.label_forms import SKIP_REASONS, field_names

MAX_DRAFT_CHARACTERS = 400_000


class DraftTooLarge(DomainError):
    status = 413


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What is left of the time: seconds, or None when the task is not this labeler's any more."""

    seconds_left: float | None


def lease_next(session: Session, membership: Membership) -> Assignment | None:
    """The labeler's live lease, or the next free task of their pool; None when there is no work.

    Tasks come in the order of (priority, id), and none comes twice to the same labeler, except a
    task of theirs whose time ran out, with its draft. Raises Forbidden without a pool.
    """
    if membership.pool is None:
        raise Forbidden("This page is for labelers of the study.")
    # Two tabs of one person wait here for each other, and end with the same lease.
    session.execute(
        select(Membership.user_id)
        .where(Membership.study_id == membership.study_id, Membership.user_id == membership.user_id)
        .with_for_update(key_share=True)
    )
    current = session.scalar(
        select(Assignment)
        .where(
            Assignment.user_id == membership.user_id,
            Assignment.study_id == membership.study_id,
            Assignment.state == AssignmentState.leased,
        )
        .options(joinedload(Assignment.label_task).joinedload(LabelTask.batch))
        .with_for_update(of=Assignment)
        .execution_options(populate_existing=True)
    )
    if current is not None:
        _renew(current, current.label_task.batch)
        session.flush()
        return current
    task = session.scalar(_free_tasks(membership).with_for_update(skip_locked=True, of=LabelTask))
    if task is None:
        # All that is left may be locked for a moment by others who leave slots free: wait for them.
        task = session.scalar(_free_tasks(membership).with_for_update(of=LabelTask))
    return None if task is None else _lease(session, membership, task)


def work_waits(session: Session, membership: Membership) -> bool:
    """Whether lease_next would give something. Takes no lock and changes nothing."""
    live = (
        select(Assignment.id)
        .where(
            Assignment.user_id == membership.user_id,
            Assignment.study_id == membership.study_id,
            Assignment.state == AssignmentState.leased,
        )
        .exists()
    )
    free = _free_tasks(membership).with_only_columns(LabelTask.id).exists()
    return bool(session.scalar(select(live | free)))


def _free_tasks(membership: Membership) -> Select[LabelTask]:
    """The first task of the pool with a free slot that this labeler may take."""
    had = select(Assignment.id).where(
        Assignment.label_task_id == LabelTask.id,
        Assignment.user_id == membership.user_id,
        Assignment.state != AssignmentState.returned,
    )
    return (
        select(LabelTask)
        .where(
            LabelTask.study_id == membership.study_id,
            LabelTask.pool == membership.pool,
            LabelTask.state == LabelTaskState.open,
            LabelTask.slots_taken < LabelTask.labels_wanted,
            ~had.exists(),
        )
        .order_by(LabelTask.priority, LabelTask.id)
        .limit(1)
        .execution_options(populate_existing=True)
    )


def _lease(session: Session, membership: Membership, task: LabelTask) -> Assignment:
    batch = session.get_one(Batch, task.batch_id)
    assignment = session.scalar(
        select(Assignment).where(
            Assignment.label_task_id == task.id, Assignment.user_id == membership.user_id
        )
    )
    if assignment is None:
        assignment = Assignment(
            public_id=secrets.token_urlsafe(16),
            study_id=task.study_id,
            label_task_id=task.id,
            user_id=membership.user_id,
            pool=task.pool,
            purpose=task.purpose,
        )
        if task.kind is LabelKind.ranking:
            assignment.items = _shuffled_items(session, task)
        session.add(assignment)
    assignment.state = AssignmentState.leased
    assignment.leased_at = func.now()
    _renew(assignment, batch)
    task.slots_taken += 1
    session.flush()
    return assignment


def _shuffled_items(session: Session, task: LabelTask) -> list[AssignmentItem]:
    """The task's completions in an order of this assignment's own, which is stored."""
    ids = list(
        session.scalars(
            select(LabelTaskCompletion.completion_id)
            .where(LabelTaskCompletion.label_task_id == task.id)
            .order_by(LabelTaskCompletion.completion_id)
        )
    )
    secrets.SystemRandom().shuffle(ids)
    return [AssignmentItem(position=place, completion_id=id_) for place, id_ in enumerate(ids)]


def _renew(assignment: Assignment, batch: Batch) -> None:
    assignment.lease_until = func.now() + timedelta(minutes=batch.lease_minutes)


def return_expired(session: Session) -> int:
    """Take back the leases whose time ran out; drafts stay. Returns how many.

    Rows that somebody is working on at this moment are left to the next sweep.
    """
    freed = session.execute(
        text(
            """
            WITH due AS (
                SELECT a.id FROM assignments a JOIN label_tasks t ON t.id = a.label_task_id
                WHERE a.state = 'leased' AND a.lease_until < now()
                ORDER BY t.id, a.id
                FOR UPDATE OF t, a SKIP LOCKED
            ), freed AS (
                UPDATE assignments SET state = 'returned' FROM due WHERE assignments.id = due.id
                RETURNING assignments.label_task_id
            ), counted AS (
                SELECT label_task_id, count(*) AS n FROM freed GROUP BY label_task_id
            ), given_back AS (
                UPDATE label_tasks SET slots_taken = slots_taken - counted.n
                FROM counted WHERE label_tasks.id = counted.label_task_id
            )
            SELECT count(*) FROM freed
            """
        )
    )
    session.expire_all()
    return int(freed.scalar_one())


def find_assignment(session: Session, user: User, public_id: str) -> Assignment:
    """The user's own assignment with all that its page shows. Raises NotFound."""
    assignment = session.scalar(
        select(Assignment)
        .where(Assignment.public_id == public_id, Assignment.user_id == user.id)
        .options(*_all_of_it())
    )
    if assignment is None:
        raise NotFound("There is no such assignment.")
    return assignment


def _all_of_it() -> Sequence[Any]:
    return (
        joinedload(Assignment.label_task).joinedload(LabelTask.batch),
        joinedload(Assignment.label_task).joinedload(LabelTask.prompt),
        selectinload(Assignment.items).joinedload(AssignmentItem.completion),
    )


def lock_assignment(session: Session, assignment: Assignment) -> LabelTask:
    """Lock the task, then the assignment, and read both anew. Returns the task."""
    task = assignment.label_task
    for row in (task, assignment):  # columns only: a lock cannot reach through an outer join
        columns = [column.key for column in object_mapper(row).column_attrs]
        session.refresh(row, columns, with_for_update=True)
    return task


def take_slot_again(task: LabelTask) -> bool:
    """Give a returned assignment its slot back, if the locked task has one free."""
    if task.state is not LabelTaskState.open or task.slots_taken >= task.labels_wanted:
        return False
    task.slots_taken += 1
    return True


def letters(assignment: Assignment) -> list[str]:
    return [item.letter for item in assignment.items]


def save_draft(session: Session, assignment: Assignment, fields: dict[str, str]) -> Lease:
    """Keep what was typed, whatever became of the lease, and renew the lease if it can be.

    Unknown and empty fields are left out. Raises Conflict once the assignment is submitted or
    skipped, and DraftTooLarge.
    """
    task = lock_assignment(session, assignment)
    if assignment.state in {AssignmentState.submitted, AssignmentState.skipped}:
        raise Conflict(f"This assignment is already {assignment.state.value}.")
    known = field_names(task, letters(assignment))
    draft = {name: value for name, value in fields.items() if value and name in known}
    if sum(map(len, draft.values())) > MAX_DRAFT_CHARACTERS:
        raise DraftTooLarge("This is too much text for a draft.")
    assignment.draft = draft
    assignment.draft_saved_at = func.now()
    if assignment.state is AssignmentState.leased:
        _renew(assignment, task.batch)
    session.flush()
    return lease_of(session, assignment)


def lease_of(session: Session, assignment: Assignment) -> Lease:
    """How long the task stays the labeler's, on the database's clock."""
    if assignment.state is not AssignmentState.leased:
        return Lease(seconds_left=None)
    left = session.scalar(
        select(func.extract("epoch", Assignment.lease_until - func.clock_timestamp())).where(
            Assignment.id == assignment.id
        )
    )
    return Lease(seconds_left=max(0.0, float(left or 0.0)))


def skip(session: Session, assignment: Assignment, reason: str) -> None:
    """Hand the task back for good, saying why. Raises Invalid, and Conflict once submitted."""
    if reason not in SKIP_REASONS:
        raise Invalid("Choose why you skip this.")
    task = lock_assignment(session, assignment)
    if assignment.state is AssignmentState.submitted:
        raise Conflict("You have already submitted this one.")
    if assignment.state is AssignmentState.leased:
        task.slots_taken -= 1
    assignment.state = AssignmentState.skipped
    assignment.skip_reason = reason
    session.flush()


def submitted_today(session: Session, membership: Membership) -> int:
    """Labels that the user gave in the study since midnight UTC."""
    return session.scalars(
        select(func.count()).where(
            Assignment.user_id == membership.user_id,
            Assignment.study_id == membership.study_id,
            Assignment.state == AssignmentState.submitted,
            Assignment.submitted_at >= func.date_trunc("day", func.now()),
        )
    ).one()
