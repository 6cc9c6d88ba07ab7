"""One batch as researchers see it, and withdrawing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, func, select, update
from sqlalchemy.orm import Session, joinedload

from app.db import enqueue
from app.errors import Conflict, NotFound
from app.models import Assignment, AssignmentState, Batch, LabelTask, LabelTaskState, Study
from app.services.batch_progress import BatchProgress, batch_progress
from app.services.label_forms import SKIP_REASONS
from app.services.results import evaluation_of, win_rates

LISTED = 100


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """A batch with how far it is. `skips` are counts by reason; `skipped` the newest LISTED."""

    batch: Batch
    progress: BatchProgress
    open_tasks: int
    labels_per_task: int
    priority: int
    writing_style: str | None  # of the prompts to be written
    labelers: int  # who have submitted a label of it
    median_active_seconds: float | None  # of the labels submitted; what browsers counted
    skips: Sequence[tuple[str, int]]
    skipped: Sequence[Assignment]
    win_rates: Sequence[Mapping[str, Any]]  # of an evaluation: services.results.win_rates

    @property
    def skips_in_all(self) -> int:
        return sum(count for _, count in self.skips)


def find_batch(session: Session, study: Study, batch_id: int) -> Batch:
    """The batch of the study. Raises NotFound."""
    batch = session.scalar(select(Batch).where(Batch.id == batch_id, Batch.study_id == study.id))
    if batch is None:
        raise NotFound("There is no such batch in this study.")
    return batch


def batch_view(session: Session, study: Study, batch_id: int) -> BatchView:
    """All about one batch. Raises NotFound."""
    batch = find_batch(session, study, batch_id)
    open_tasks, labels_per_task, priority, style = session.execute(
        select(
            func.count().filter(LabelTask.state == LabelTaskState.open),
            func.coalesce(func.max(LabelTask.labels_wanted), 0),
            func.coalesce(func.min(LabelTask.priority), 0),
            func.min(LabelTask.writing_style),
        ).where(LabelTask.batch_id == batch.id)
    ).one()
    median, labelers = session.execute(
        select(
            func.percentile_cont(0.5).within_group(Assignment.active_seconds),
            func.count(Assignment.user_id.distinct()),
        ).where(*_assignments(batch, AssignmentState.submitted))
    ).one()
    skips = session.execute(
        select(Assignment.skip_reason, func.count())
        .where(*_assignments(batch, AssignmentState.skipped))
        .group_by(Assignment.skip_reason)
        .order_by(func.count().desc(), Assignment.skip_reason)
    )
    skipped = session.scalars(
        select(Assignment)
        .where(*_assignments(batch, AssignmentState.skipped))
        .options(
            joinedload(Assignment.user),
            joinedload(Assignment.label_task).joinedload(LabelTask.prompt),
        )
        .order_by(Assignment.id.desc())
        .limit(LISTED)
    )
    evaluation = evaluation_of(session, batch)
    return BatchView(
        batch=batch,
        progress=batch_progress(session, batch),
        open_tasks=open_tasks,
        labels_per_task=labels_per_task,
        priority=priority,
        writing_style=style,
        labelers=labelers,
        median_active_seconds=median,
        skips=[(SKIP_REASONS.get(reason or "", reason or ""), count) for reason, count in skips],
        skipped=skipped.all(),
        win_rates=win_rates(session, evaluation) if evaluation is not None else (),
    )


def _assignments(batch: Batch, state: AssignmentState) -> tuple[ColumnElement[bool], ...]:
    tasks = select(LabelTask.id).where(LabelTask.batch_id == batch.id)
    return (Assignment.label_task_id.in_(tasks), Assignment.state == state)


def withdraw(session: Session, batch: Batch) -> int:
    """Close the batch's open tasks: nobody gets one any more. Returns how many.

    A labeler who has one on the screen may still submit it, and the label counts. A round that
    waits for the batch goes on with the labels that there are. Raises Conflict if none is open.
    """
    closed = _set_states(session, batch, LabelTaskState.open, LabelTaskState.closed)
    if not closed:
        raise Conflict("Nothing of this batch is open any more.")
    if batch.round_id is not None:
        enqueue(session, "advance_round", batch.round_id)
    return closed


def reopen(session: Session, batch: Batch) -> int:
    """Undo `withdraw`. Returns how many tasks are open or complete again. Raises Conflict."""
    if batch.round_id is not None:
        raise Conflict("The round of this batch has gone on without it; start another one.")
    enough = LabelTask.labels_done >= LabelTask.labels_wanted
    state = case((enough, LabelTaskState.complete.value), else_=LabelTaskState.open.value)
    reopened = _set_states(session, batch, LabelTaskState.closed, state)
    if not reopened:
        raise Conflict("Nothing of this batch was withdrawn.")
    return reopened


def _set_states(
    session: Session,
    batch: Batch,
    before: LabelTaskState,
    after: LabelTaskState | ColumnElement[str],
) -> int:
    """Locked in the order of their ids, so that two researchers at once do not wait in a ring."""
    ids = session.scalars(
        select(LabelTask.id)
        .where(LabelTask.batch_id == batch.id, LabelTask.state == before)
        .order_by(LabelTask.id)
        .with_for_update()
    ).all()
    session.execute(
        update(LabelTask)
        .where(LabelTask.batch_id == batch.id, LabelTask.state == before)
        .values(state=after)
        .execution_options(synchronize_session=False)
    )
    session.expire_all()
    return len(ids)
