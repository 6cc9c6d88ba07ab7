"""Undoing an import: all that it brought is gone, if nothing else was made of it yet."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, delete, exists, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.models import (
    Assignment,
    AssignmentItem,
    Batch,
    Completion,
    Demonstration,
    ExternalSystem,
    FoldedPrompt,
    Import,
    LabelTask,
    LabelTaskCompletion,
    Policy,
    PolicyKind,
    Prompt,
    Ranking,
    RankingItem,
    SamplingRequest,
    SnapshotDemonstration,
    SnapshotPrompt,
    SnapshotRanking,
    Study,
)

IDS = 1_000_000_000_000  # beyond it no row has an id, and the database would refuse the number


def undo_import(session: Session, study: Study, import_id: int) -> Import:
    """Delete what import N of the study stored, and write down when.

    Source users keep the split that they were given at first sight. Raises NotFound, and Conflict
    when something depends on what was stored, or when it was undone before.
    """
    session.refresh(study, ["id"], with_for_update={"key_share": True})  # as imports: one at a time
    record = session.get(Import, import_id) if 0 < import_id < IDS else None
    if record is None or record.study_id != study.id:
        raise NotFound(f"{study.name} has no import {import_id}.")
    if record.undone_at is not None:
        raise Conflict(f"The import of {record.file_name} was undone already.")
    if reasons := _dependents(session, record):
        raise Conflict(f"The import of {record.file_name} cannot be undone: {'; '.join(reasons)}.")
    try:
        with session.begin_nested():
            _delete(session, study, record)
    except IntegrityError as error:
        raise Conflict(
            f"The import of {record.file_name} cannot be undone: something was made of it."
        ) from error
    record.undone_at = func.now()
    session.flush()
    session.refresh(record)
    return record


def _dependents(session: Session, record: Import) -> list[str]:
    """What was made of the import's rows since, in words."""
    prompts = select(Prompt.id).where(Prompt.import_id == record.id)
    completions = select(Completion.id).where(Completion.import_id == record.id)
    tasks = _tasks(record)
    foreign = LabelTask.id.not_in(tasks)
    counted: list[tuple[Select[Any], str]] = [
        (
            select(LabelTask.id).where(LabelTask.prompt_id.in_(prompts), foreign),
            "label tasks ask about its prompts",
        ),
        (
            select(LabelTaskCompletion.label_task_id).where(
                LabelTaskCompletion.completion_id.in_(completions),
                LabelTaskCompletion.label_task_id.not_in(tasks),
            ),
            "ranking tasks hold its completions",
        ),
        (
            select(Completion.id).where(
                Completion.prompt_id.in_(prompts),
                Completion.import_id.is_distinct_from(record.id),
            ),
            "completions from elsewhere answer its prompts",
        ),
        (
            select(SamplingRequest.id).where(SamplingRequest.prompt_id.in_(prompts)),
            "requests to external systems are about its prompts",
        ),
        (
            select(FoldedPrompt.id).where(
                FoldedPrompt.prompt_id.in_(prompts),
                FoldedPrompt.import_id.is_distinct_from(record.id),
            ),
            "prompts of later imports are duplicates of its own",
        ),
        (
            select(SnapshotPrompt.prompt_id).where(SnapshotPrompt.prompt_id.in_(prompts)),
            "places in snapshots hold its prompts",
        ),
        *(
            (
                select(held)
                .join(label, label.id == held)
                .where(
                    label.assignment_id.in_(
                        select(Assignment.id).where(Assignment.label_task_id.in_(tasks))
                    )
                ),
                "places in snapshots hold its labels",
            )
            for held, label in (
                (SnapshotRanking.ranking_id, Ranking),
                (SnapshotDemonstration.demonstration_id, Demonstration),
            )
        ),
        (
            select(Completion.id)
            .join(Demonstration, Demonstration.id == Completion.demonstration_id)
            .join(Assignment, Assignment.id == Demonstration.assignment_id)
            .where(Assignment.label_task_id.in_(tasks)),
            "of its demonstrations are ranked as completions",
        ),
    ]
    found = []
    for rows, words in counted:
        count = session.scalar(select(func.count()).select_from(rows.subquery()))
        if count:
            found.append(f"{count:,} {words}")
    return found


def _tasks(record: Import) -> Select[Any]:
    """The tasks that stand for the import's own labels."""
    return (
        select(LabelTask.id)
        .join(Batch, Batch.id == LabelTask.batch_id)
        .where(Batch.import_id == record.id)
    )


def _delete(session: Session, study: Study, record: Import) -> None:
    tasks = _tasks(record)
    assignments = select(Assignment.id).where(Assignment.label_task_id.in_(tasks))
    rankings = select(Ranking.id).where(Ranking.assignment_id.in_(assignments))
    policies = list(
        session.scalars(
            select(Completion.policy_id).where(Completion.import_id == record.id).distinct()
        )
    )
    doomed: list[tuple[Any, ColumnElement[bool]]] = [
        (RankingItem, RankingItem.ranking_id.in_(rankings)),
        (Ranking, Ranking.assignment_id.in_(assignments)),
        (Demonstration, Demonstration.assignment_id.in_(assignments)),
        (AssignmentItem, AssignmentItem.assignment_id.in_(assignments)),
        (Assignment, Assignment.label_task_id.in_(tasks)),
        (LabelTaskCompletion, LabelTaskCompletion.label_task_id.in_(tasks)),
        (LabelTask, LabelTask.id.in_(tasks)),
        (Batch, Batch.import_id == record.id),
        (Completion, Completion.import_id == record.id),
        (FoldedPrompt, FoldedPrompt.import_id == record.id),
        (Prompt, Prompt.import_id == record.id),
        (
            Policy,  # made for the file, unless others have completed with it since, or it is asked
            Policy.id.in_(policies)
            & (Policy.study_id == study.id)
            & (Policy.kind == PolicyKind.external)
            & ~exists().where(Completion.policy_id == Policy.id)
            & ~exists().where(ExternalSystem.policy_id == Policy.id),
        ),
    ]
    for table, condition in doomed:
        session.execute(delete(table).where(condition).execution_options(synchronize_session=False))
