"""The rows that every batch is made of: the batch and its label tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import Batch, LabelKind, LabelTask, Pool, Purpose, Study


def new_batch(
    session: Session,
    study: Study,
    *,
    kind: LabelKind,
    name: str,
    purpose: Purpose = Purpose.training,
    pool: Pool = Pool.training,
    rate_completions: bool = False,
    suggest_order: bool = False,
    lease_minutes: int,
    round_id: int | None = None,
    stage: str | None = None,
) -> Batch:
    """A batch without tasks. Raises Invalid when pool and purpose do not fit."""
    if pool is Pool.heldout and purpose is Purpose.training:
        raise Invalid("Held-out labelers only judge: their labels never train.")
    if not name.strip():
        raise Invalid("A batch needs a name.")
    if lease_minutes < 1:
        raise Invalid("A lease lasts at least one minute.")
    batch = Batch(
        study_id=study.id,
        name=name.strip(),
        kind=kind,
        purpose=purpose,
        pool=pool,
        rate_completions=rate_completions,
        suggest_order=suggest_order,
        lease_minutes=lease_minutes,
        round_id=round_id,
        stage=stage,
    )
    session.add(batch)
    session.flush()
    return batch


def add_tasks(
    session: Session,
    batch: Batch,
    about: Sequence[Mapping[str, Any]],
    *,
    labels_wanted: int,
    priority: int,
) -> list[int]:
    """A label task for each of `about`, what is its own of the columns. Their ids, in order."""
    if labels_wanted < 1:
        raise Invalid("A task wants at least one label.")
    if not about:
        raise Invalid("A batch has at least one prompt.")
    common = {
        "study_id": batch.study_id,
        "batch_id": batch.id,
        "kind": batch.kind,
        "purpose": batch.purpose,
        "pool": batch.pool,
        "priority": priority,
        "labels_wanted": labels_wanted,
    }
    ids = session.scalars(
        insert(LabelTask).returning(LabelTask.id, sort_by_parameter_order=True),
        [{**common, **own} for own in about],
    )
    return list(ids)
