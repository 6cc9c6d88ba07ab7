"""The queue of label tasks: which one a labeler gets next, and which is fetched ahead of it.

One locking query hands out a task, on the database's clock: nobody gets a task twice, two people
never share a slot, and nobody is given their own demonstration to rank. The order of locks is that
of services.assignments.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, contains_eager, joinedload

from app.errors import Conflict, Forbidden
from app.models import (
    Assignment,
    AssignmentItem,
    AssignmentState,
    Completion,
    Demonstration,
    LabelKind,
    LabelTask,
    LabelTaskCompletion,
    LabelTaskState,
    Membership,
)
from app.services.acknowledgements import unread_version
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
    current, ahead = _held(session, membership, *HOLDS_SLOT)
    if current is not None:
        renew(session, current, current.label_task.batch)
        session.flush()
        return current
    outlook = _outlook(session, membership)
    if outlook.unread:
        raise GuidelinesUnread
    ahead = ahead and _if_open(session, ahead)
    if ahead is not None:
        _promote(session, ahead)
        return ahead
    return _lease(session, membership, _next_task(session, membership, outlook))


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
    if lease_until is None:
        return None
    outlook = _outlook(session, membership)
    if outlook.unread:
        return None
    (ahead,) = _held(session, membership, AssignmentState.reserved)
    ahead = ahead and _if_open(session, ahead)
    if ahead is not None:
        return ahead
    found = _next_task(session, membership, outlook)
    if found is None:
        return None
    return _take(session, membership, found, AssignmentState.reserved, lease_until)


def go_on(session: Session, membership: Membership, *, take: bool = False) -> Assignment | None:
    """What is on the screen after a submit or skip in the same transaction.

    That is another lease of the labeler, or what was reserved, which becomes it. With `take`, it
    may be the next free task that nobody holds a lock on: this transaction has locked a label task
    already, and waits for no other. None otherwise, and for a labeler who was withdrawn.
    """
    current, ahead = _held(session, membership, *HOLDS_SLOT)
    if current is not None:
        return current
    if ahead is None and not take:
        return None
    outlook = _outlook(session, membership)
    if outlook.unread:
        return None
    if ahead is not None:
        if ahead.label_task.state is not LabelTaskState.open:
            return None
        _promote(session, ahead)
        return ahead
    if membership.pool is None or membership.withdrawn_at is not None:
        return None
    return _lease(session, membership, _next_task(session, membership, outlook, wait=False))


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


def _held(
    session: Session, membership: Membership, *states: AssignmentState
) -> tuple[Assignment | None, ...]:
    """The labeler's one assignment in each state, locked, with its task and batch."""
    held = session.scalars(
        select(Assignment)
        .where(*_of(membership, *states))
        .options(joinedload(Assignment.label_task).joinedload(LabelTask.batch))
        .with_for_update(of=Assignment)
        .execution_options(populate_existing=True)
    ).all()
    of_state = {assignment.state: assignment for assignment in held}
    return tuple(of_state.get(state) for state in states)


class _Outlook(NamedTuple):
    """What decides where a labeler's next task comes from."""

    unread: bool  # guidelines have to be read first
    begun: bool  # a task of theirs whose time ran out has a draft


def _outlook(session: Session, membership: Membership) -> _Outlook:
    begun = select(Assignment.id).where(*_begun(membership))
    unread = unread_version(membership)
    return _Outlook(*session.execute(select(unread.exists(), begun.exists())).one())


def _begun(membership: Membership) -> tuple[ColumnElement[bool], ...]:
    return (*_of(membership, AssignmentState.returned), Assignment.draft_saved_at.is_not(None))


def _if_open(session: Session, ahead: Assignment) -> Assignment | None:
    """What is reserved; it is given back if a researcher withdrew the task."""
    if ahead.label_task.state is LabelTaskState.open:
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


class _Found(NamedTuple):
    """A locked task with its batch, and the id of the assignment that the labeler gave back."""

    task: LabelTask
    returned: int | None


def _next_task(
    session: Session, membership: Membership, outlook: _Outlook, *, wait: bool = True
) -> _Found | None:
    """The task to take next, locked."""

    def first(query: Select[LabelTask, int], *, skip_locked: bool) -> _Found | None:
        found = session.execute(query.with_for_update(skip_locked=skip_locked, of=LabelTask))
        row = found.one_or_none()
        return None if row is None else _Found(*row)

    found = None
    if outlook.begun:
        found = first(_begun_tasks(membership), skip_locked=True)
    if found is not None or not wait:
        return found or first(_free_tasks(membership), skip_locked=True)
    with session.begin_nested() as savepoint:
        found = first(_free_tasks(membership), skip_locked=True)
        if found is None:  # let go of tasks that were full by the time they were locked
            savepoint.rollback()
    if found is None:
        # All that is left may be locked for a moment by others who leave slots free: wait for
        # them, holding nothing that they may wait for.
        found = first(_free_tasks(membership), skip_locked=False)
    return found


def _begun_tasks(membership: Membership) -> Select[LabelTask, int]:
    """The task that the labeler began last and lost, if it has a free slot."""
    return (
        _open_tasks(membership)
        .where(*_begun(membership))
        .order_by(Assignment.draft_saved_at.desc())
        .limit(1)
    )


def _free_tasks(membership: Membership) -> Select[LabelTask, int]:
    """The first task of the pool with a free slot that this labeler may take."""
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
        _open_tasks(membership)
        .where(
            LabelTask.study_id == membership.study_id,
            LabelTask.pool == membership.pool,
            Assignment.id.is_(None) | (Assignment.state == AssignmentState.returned),
            ~own_demonstration.exists(),
        )
        .order_by(LabelTask.priority, LabelTask.id)
        .limit(1)
    )


def _open_tasks(membership: Membership) -> Select[LabelTask, int]:
    """Tasks with a free slot, their batches, and what assignments the labeler has had of them."""
    return (
        select(LabelTask, Assignment.id)
        .join(LabelTask.batch)
        .outerjoin(
            Assignment,
            (Assignment.label_task_id == LabelTask.id) & (Assignment.user_id == membership.user_id),
        )
        .where(
            LabelTask.state == LabelTaskState.open,
            LabelTask.slots_taken < LabelTask.labels_wanted,
        )
        .options(contains_eager(LabelTask.batch))
        .execution_options(populate_existing=True)
    )


def _lease(session: Session, membership: Membership, found: _Found | None) -> Assignment | None:
    """The found task as the labeler's lease."""
    if found is None:
        return None
    until = func.now() + timedelta(minutes=found.task.batch.lease_minutes)
    return _take(session, membership, found, AssignmentState.leased, until)


def _take(
    session: Session,
    membership: Membership,
    found: _Found,
    state: AssignmentState,
    until: datetime | ColumnElement[datetime],
) -> Assignment:
    """A slot of the locked task for the labeler: their returned assignment of it, or a new one."""
    task = found.task
    if found.returned is not None:
        assignment = session.get_one(Assignment, found.returned)
    else:
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
