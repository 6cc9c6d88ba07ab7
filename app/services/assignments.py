"""Assignments: who has which label task on the screen, and for how long.

An assignment is `leased` until it is `submitted` (services.labels), `skipped` by the labeler, or
`returned` because its time ran out. While it is leased the next one may be `reserved`, so that it
is on the screen at once: it runs as long as the lease it waits behind and then takes its place. A
slot of the task belongs to an assignment while leased or reserved, and for good once submitted.
Locks are taken in one order: membership, label task, assignment, batch; and of label tasks one at
a time, except those that SKIP LOCKED finds free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select, text, update
from sqlalchemy.orm import Session, joinedload, selectinload
from sqlalchemy.orm.attributes import set_committed_value

from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Assignment,
    AssignmentItem,
    AssignmentState,
    Batch,
    LabelTask,
    LabelTaskState,
    Membership,
    User,
)
from app.services.label_forms import SKIP_REASONS

HOLDS_SLOT = (AssignmentState.leased, AssignmentState.reserved)


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
    tables = LabelTask.__table__, Assignment.__table__  # rows are locked in this order
    found = session.execute(
        select(*tables)
        .where(LabelTask.id == Assignment.label_task_id, Assignment.id == assignment.id)
        .with_for_update(of=tables)
    ).one()
    # Columns only, and not populate_existing: what was loaded with them stays.
    for row, table in zip((task, assignment), tables, strict=True):
        for column in table.columns:
            set_committed_value(row, column.key, found._mapping[column])
    return task


def take_slot_again(task: LabelTask) -> bool:
    """Give a returned assignment its slot in the locked task back, if one is free."""
    if task.state is not LabelTaskState.open or task.slots_taken >= task.labels_wanted:
        return False
    task.slots_taken += 1
    return True


def letters(assignment: Assignment) -> list[str]:
    return [item.letter for item in assignment.items]


def lease_of(session: Session, assignment: Assignment, *, now: datetime | None = None) -> Lease:
    """How long the task stays the labeler's, on the database's clock; `now` is what it says."""
    if assignment.state is not AssignmentState.leased:
        return Lease(seconds_left=None)
    if now is not None:
        return Lease(seconds_left=max(0.0, (assignment.lease_until - now).total_seconds()))
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
    return session.scalars(today_count(membership)).one()


def today_count(membership: Membership) -> Select[int]:
    """What submitted_today asks for."""
    return select(func.count()).where(
        Assignment.user_id == membership.user_id,
        Assignment.study_id == membership.study_id,
        Assignment.state == AssignmentState.submitted,
        Assignment.submitted_at >= func.date_trunc("day", func.now()),
    )
