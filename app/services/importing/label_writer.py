"""Storing imported labels by COPY: complete tasks, submitted assignments, current labels."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import Base
from app.models import (
    Assignment,
    AssignmentItem,
    AssignmentState,
    Batch,
    Demonstration,
    LabelTask,
    LabelTaskCompletion,
    LabelTaskState,
    Ranking,
    RankingItem,
    Study,
)
from app.services.bulk import copy_rows, next_ids
from app.services.studies import current_guidelines


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLabel:
    """A demonstration with its text, or a ranking: each completion with its tier."""

    prompt_id: int
    user_id: int
    text: str = ""
    tiers: Sequence[tuple[int, int]] = ()


def write_labels(session: Session, study: Study, batch: Batch, labels: Sequence[NewLabel]) -> None:
    """Store the labels of one batch, which asks about each prompt once."""
    where = (study.id, batch.pool.value, batch.purpose.value)
    now = session.scalar(select(func.now()))
    tasks = _copy(
        session,
        LabelTask,
        "study_id pool purpose batch_id kind prompt_id state labels_done slots_taken",
        [
            (
                *where,
                batch.id,
                batch.kind.value,
                label.prompt_id,
                LabelTaskState.complete.value,
                1,
                1,
            )
            for label in labels
        ],
    )
    assignments = _copy(
        session,
        Assignment,
        "study_id pool purpose user_id public_id label_task_id state lease_until submitted_at",
        [
            (
                *where,
                label.user_id,
                secrets.token_urlsafe(16),
                task_id,
                AssignmentState.submitted.value,
                now,
                now,
            )
            for task_id, label in zip(tasks, labels, strict=True)
        ],
    )
    guidelines = current_guidelines(session, study).id
    about = [
        (*where, label.user_id, assignment_id, False, label.prompt_id, guidelines)
        for assignment_id, label in zip(assignments, labels, strict=True)
    ]
    columns = "study_id pool purpose user_id assignment_id simulated prompt_id guideline_version_id"
    if not labels[0].tiers:
        texts = [(*one, label.text) for one, label in zip(about, labels, strict=True)]
        _copy(session, Demonstration, f"{columns} text", texts)
        return
    rankings = _copy(session, Ranking, columns, about)
    asked, shown, ranked = [], [], []
    for task_id, assignment_id, ranking_id, label in zip(
        tasks, assignments, rankings, labels, strict=True
    ):
        order = list(label.tiers)
        # Files put the better one first: what stands in the place of a screen must not tell.
        random.Random(assignment_id).shuffle(order)
        for position, (completion_id, tier) in enumerate(order):
            asked.append((task_id, completion_id))
            shown.append((assignment_id, position, completion_id))
            ranked.append((ranking_id, completion_id, tier))
    copy_rows(session, LabelTaskCompletion, ["label_task_id", "completion_id"], asked)
    copy_rows(session, AssignmentItem, ["assignment_id", "position", "completion_id"], shown)
    copy_rows(session, RankingItem, ["ranking_id", "completion_id", "tier"], ranked)


def _copy(
    session: Session, table: type[Base], columns: str, rows: Sequence[Iterable[Any]]
) -> list[int]:
    """The ids of the new rows, in their order."""
    ids = next_ids(session, table, len(rows))
    numbered = ((key, *row) for key, row in zip(ids, rows, strict=True))
    copy_rows(session, table, ["id", *columns.split()], numbered)
    return ids
