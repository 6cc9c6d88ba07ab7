"""Assignments: who has which label task on the screen, for how long, and which comes next.

An assignment is `leased` until it is `submitted` (services.labels), `skipped` by the labeler, or
`returned` because its time ran out. While it is leased the next one may be `reserved`, so that it
is on the screen at once: it runs as long as the lease it waits behind and then takes its place. A
slot of the task belongs to an assignment while leased or reserved, and for good once submitted.
Locks are taken in one order: membership, label task, assignment, batch; and of label tasks one at
a time, except those that SKIP LOCKED finds free.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, text, update
from sqlalchemy.orm import Session, joinedload, object_mapper, selectinload

from app.errors import Conflict, Forbidden, Invalid, NotFound
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
    User,
)
from app.services.acknowledgements import unread_guidelines
from app.services.label_forms import SKIP_REASONS

HOLDS_SLOT = (AssignmentState.leased, AssignmentState.reserved)


class GuidelinesUnread(Conflict):
    """A newer version of the guidelines has to be read before the next task."""

    def __init__(self) -> None:
        super().__init__("The guidelines have changed. Read them before you go on.")


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What is left of the time: seconds, or None when the task is not this labeler's any more."""

    seconds_left: float | None


def lock_labeler(session: Session, study_id: int, user_id: int) -> None:
    """Let one request of a labeler at a time change what they hold: two tabs wait for each other.

    The first lock that a transaction takes.
    """
    session.execute(
        select(Membership.user_id)
        .where(Membership.study_id == study_id, Membership.user_id == user_id)
        .with_for_update(key_share=True)
    )


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


def renew(session: Session, assignment: Assignment, batch: Batch) -> None:
    """Let the lease, and what is reserved behind it, run the batch's full time from now."""
    until = func.now() + timedelta(minutes=batch.lease_minutes)
    assignment.lease_until = until
    session.execute(
        update(Assignment)
        .where(
            Assignment.user_id == assignment.user_id,
            Assignment.study_id == assignment.study_id,
            Assignment.state == AssignmentState.reserved,
        )
        .values(lease_until=until)
        .execution_options(synchronize_session=False)
    )


def return_expired(session: Session) -> int:
    """Take back the leases and reservations whose time ran out; drafts stay. Returns how many.

    Rows that somebody is working on at this moment are left to the next sweep.
    """
    freed = session.execute(
        text(
            """
            WITH due AS (
                SELECT a.id FROM assignments a JOIN label_tasks t ON t.id = a.label_task_id
                WHERE a.state IN ('leased', 'reserved') AND a.lease_until < now()
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
    """Give a returned assignment its slot in the locked task back, if one is free."""
    if task.state is not LabelTaskState.open or task.slots_taken >= task.labels_wanted:
        return False
    task.slots_taken += 1
    return True


def letters(assignment: Assignment) -> list[str]:
    return [item.letter for item in assignment.items]


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
    lock_labeler(session, assignment.study_id, assignment.user_id)
    task = lock_assignment(session, assignment)
    if assignment.state is AssignmentState.submitted:
        raise Conflict("You have already submitted this one.")
    if assignment.state in HOLDS_SLOT:
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
