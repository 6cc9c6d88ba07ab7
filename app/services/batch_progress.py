"""How far batches of label tasks are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, func, select
from sqlalchemy.orm import Session

from app.models import Batch, LabelTask, LabelTaskState, Study


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """Counts over a batch's tasks that are not withdrawn; `tasks_closed` counts the others."""

    tasks: int
    tasks_complete: int
    tasks_closed: int
    labels_wanted: int
    labels_done: int
    on_screen: int  # assignments that are leased right now

    @property
    def finished(self) -> bool:
        return self.labels_done >= self.labels_wanted

    @property
    def fraction(self) -> float:
        """Labels done over labels wanted, 1 for a batch that wants none."""
        return self.labels_done / self.labels_wanted if self.labels_wanted else 1.0


def batch_progress(session: Session, batch: Batch) -> BatchProgress:
    """How far a batch is, in one query over its tasks."""
    statement = _progress_query().where(LabelTask.batch_id == batch.id)
    row = session.execute(statement.group_by(LabelTask.batch_id)).mappings().one_or_none()
    return _progress(row)


def batches_with_progress(session: Session, study: Study) -> list[tuple[Batch, BatchProgress]]:
    """The study's batches, newest first, each with its progress: two queries in all."""
    rows = session.execute(
        _progress_query().where(LabelTask.study_id == study.id).group_by(LabelTask.batch_id)
    ).mappings()
    by_batch = {row["batch_id"]: _progress(row) for row in rows}
    batches = session.scalars(
        select(Batch).where(Batch.study_id == study.id).order_by(Batch.id.desc())
    )
    return [(batch, by_batch.get(batch.id) or _progress(None)) for batch in batches]


def _progress_query() -> Select[*tuple[Any, ...]]:
    live = LabelTask.state != LabelTaskState.closed

    def total(column: ColumnElement[int]) -> ColumnElement[int]:
        return func.coalesce(func.sum(column).filter(live), 0)

    return select(
        LabelTask.batch_id,
        func.count().filter(live).label("tasks"),
        func.count().filter(LabelTask.state == LabelTaskState.complete).label("tasks_complete"),
        func.count().filter(~live).label("tasks_closed"),
        total(LabelTask.labels_wanted.expression).label("labels_wanted"),
        total(LabelTask.labels_done.expression).label("labels_done"),
        total(LabelTask.slots_taken - LabelTask.labels_done).label("on_screen"),
    )


def _progress(row: RowMapping | None) -> BatchProgress:
    names = BatchProgress.__dataclass_fields__
    return BatchProgress(**{name: int(row[name]) if row else 0 for name in names})
