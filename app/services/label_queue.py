"""The queue of label tasks: which one a labeler gets next, and which is fetched ahead of it.

One locking query hands out a task, on the database's clock: nobody gets a task twice, two people
never share a slot, and nobody is given their own demonstration to rank. The order of locks is that
of services.assignments.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, joinedload

from app.errors import Conflict, Forbidden
from app.models import (
    Assignment,
    AssignmentItem,
    AssignmentState,
    Batch,
    Completion,
    Demonstration,
    LabelKind,
    LabelTask,
    LabelTaskCompletion,
    LabelTaskState,
    Membership,
)
from app.services.acknowledgements import unread_guidelines
from app.services.assignments import HOLDS_SLOT, lock_assignment, lock_labeler, renew


class GuidelinesUnread(Conflict):
    """A newer version of the guidelines has to be read before the next task."""

    def __init__(self) -> None:
        super().__init__("The guidelines have changed. Read them before you go on.")


def lease_next(session: Session, membership: Membership) -> Assignment | None:
    """The labeler's live lease, or their next task; None when there is no work.

    Next is what was reserved; then a task of theirs whose time ran out, with its draft; then the
    first free task of the pool by (priority, id), and none twice. Raises Forbidden without a pool,
    and GuidelinesUnread.
    """
    if membership.pool is None:
        raise Forbidden("This page is for labelers of the study.")
    lock_labeler(session, membership.study_id, membership.user_id)
    current = _held(session, membership, AssignmentState.leased)
    if current is not None:
        renew(session, current, current.label_task.batch)
        session.flush()
        return current
    if unread_guidelines(session, membership) is not None:
        raise GuidelinesUnread
    ahead = _open_reserved(session, membership)
    if ahead is not None:
        _promote(session, ahead)
        return ahead
    task = _next_task(session, membership)
    if task is None:
        return None
    minutes = session.get_one(Batch, task.batch_id).lease_minutes
    until = func.now() + timedelta(minutes=minutes)
    return _take(session, membership, task, AssignmentState.leased, until)


def reserve_ahead(session: Session, membership: Membership) -> Assignment | None:
    """The task that will follow the labeler's live lease, theirs from now on; the same each time.

    None when there is no live lease or no further work, and while guidelines are unread.
    """
    lock_labeler(session, membership.study_id, membership.user_id)
    lease_until = session.scalar(
        select(Assignment.lease_until).where(
            *_of(membership, AssignmentState.leased), Assignment.lease_until > func.now()
        )
    )
    if lease_until is None or unread_guidelines(session, membership) is not None:
        return None
    ahead = _open_reserved(session, membership)
    if ahead is not None:
        return ahead
    task = _next_task(session, membership)
    if task is None:
        return None
    return _take(session, membership, task, AssignmentState.reserved, lease_until)


def go_on(session: Session, membership: Membership) -> Assignment | None:
    """What is on the screen after a submit or skip in the same transaction.

    That is another lease of the labeler, or what was reserved, which becomes it. None otherwise:
    a free task is taken by a request of its own, because this one holds a label task already.
    """
    current = _held(session, membership, AssignmentState.leased)
    if current is not None:
        return current
    ahead = _held(session, membership, AssignmentState.reserved)
    if ahead is None or ahead.label_task.state is not LabelTaskState.open:
        return None
    if unread_guidelines(session, membership) is not None:
        return None
    _promote(session, ahead)
    return ahead


def work_waits(session: Session, membership: Membership) -> bool:
    """Whether lease_next would give something. Takes no lock and changes nothing."""
    live = select(Assignment.id).where(*_of(membership, *HOLDS_SLOT)).exists()
    free = _free_tasks(membership).with_only_columns(LabelTask.id).exists()
    return bool(session.scalar(select(live | free)))


def _of(membership: Membership, *states: AssignmentState) -> tuple[ColumnElement[bool], ...]:
    return (
        Assignment.user_id == membership.user_id,
        Assignment.study_id == membership.study_id,
        Assignment.state.in_(states),
    )


def _held(session: Session, membership: Membership, state: AssignmentState) -> Assignment | None:
    """The labeler's one assignment in this state, locked, with its task and batch."""
    return session.scalar(
        select(Assignment)
        .where(*_of(membership, state))
        .options(joinedload(Assignment.label_task).joinedload(LabelTask.batch))
        .with_for_update(of=Assignment)
        .execution_options(populate_existing=True)
    )


def _open_reserved(session: Session, membership: Membership) -> Assignment | None:
    """What is reserved for the labeler; it is given back if a researcher withdrew the task."""
    ahead = _held(session, membership, AssignmentState.reserved)
    if ahead is None or ahead.label_task.state is LabelTaskState.open:
        return ahead
    task = lock_assignment(session, ahead)
    ahead.state = AssignmentState.returned
    task.slots_taken -= 1
    session.flush()
    return None


def _promote(session: Session, ahead: Assignment) -> None:
    """Make the reserved assignment the lease. It holds its slot already."""
    ahead.state = AssignmentState.leased
    ahead.leased_at = func.now()
    renew(session, ahead, ahead.label_task.batch)
    session.flush()


def _next_task(session: Session, membership: Membership) -> LabelTask | None:
    """The task to take next, locked."""
    free = _free_tasks(membership)
    begun = (
        select(LabelTask)
        .join(Assignment, Assignment.label_task_id == LabelTask.id)
        .where(
            *_of(membership, AssignmentState.returned),
            Assignment.draft_saved_at.is_not(None),
            LabelTask.state == LabelTaskState.open,
            LabelTask.slots_taken < LabelTask.labels_wanted,
        )
        .order_by(Assignment.draft_saved_at.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )
    task = session.scalar(begun.with_for_update(skip_locked=True, of=LabelTask))
    if task is None:
        task = session.scalar(free.with_for_update(skip_locked=True, of=LabelTask))
    if task is None:
        # All that is left may be locked for a moment by others who leave slots free: wait for them.
        task = session.scalar(free.with_for_update(of=LabelTask))
    return task


def _free_tasks(membership: Membership) -> Select[LabelTask]:
    """The first task of the pool with a free slot that this labeler may take."""
    had = select(Assignment.id).where(
        Assignment.label_task_id == LabelTask.id,
        Assignment.user_id == membership.user_id,
        Assignment.state != AssignmentState.returned,
    )
    own_demonstration = (
        select(Demonstration.id)
        .join(Completion, Completion.demonstration_id == Demonstration.id)
        .join(LabelTaskCompletion, LabelTaskCompletion.completion_id == Completion.id)
        .where(
            LabelTaskCompletion.label_task_id == LabelTask.id,
            Demonstration.user_id == membership.user_id,
        )
    )
    return (
        select(LabelTask)
        .where(
            LabelTask.study_id == membership.study_id,
            LabelTask.pool == membership.pool,
            LabelTask.state == LabelTaskState.open,
            LabelTask.slots_taken < LabelTask.labels_wanted,
            ~had.exists(),
            ~own_demonstration.exists(),
        )
        .order_by(LabelTask.priority, LabelTask.id)
        .limit(1)
        .execution_options(populate_existing=True)
    )


def _take(
    session: Session,
    membership: Membership,
    task: LabelTask,
    state: AssignmentState,
    until: datetime | ColumnElement[datetime],
) -> Assignment:
    """A slot of the locked task for the labeler: their returned assignment of it, or a new one."""
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
    assignment.state = state
    assignment.leased_at = func.now()
    assignment.lease_until = until
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
