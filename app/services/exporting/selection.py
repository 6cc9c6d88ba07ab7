"""Which labels and prompts an export takes, which it leaves out, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, null, or_, select
from sqlalchemy.orm import Session

from app.models import (
    Demonstration,
    ExportKind,
    GuidelineVersion,
    Membership,
    Pool,
    Prompt,
    Purpose,
    Ranking,
    Rating,
    SnapshotDemonstration,
    SnapshotPrompt,
    SnapshotRanking,
    Study,
    WrittenPrompt,
)
from app.services.exporting.query import ExportQuery
from app.services.usable import HELD

CHUNK = 500  # labels that are held at a time
CHUNK_PROMPTS = 5_000

Label = type[Demonstration] | type[Ranking]


def written_by_labeler() -> ColumnElement[bool]:
    """Whether a labeler of the study wrote the prompt; all others are customers'."""
    return exists().where(WrittenPrompt.prompt_id == Prompt.id)


def label_rows(
    session: Session, study: Study, query: ExportQuery, label: Label, *columns: Any
) -> Iterator[list[Any]]:
    """The labels that the query takes, with their prompts, by the chunk and by prompt.

    A prompt's labels are all in one chunk. Rows stream from the server: the session's transaction
    must last until the last of them is read.
    """
    statement = (
        _labels(
            study,
            query,
            label,
            label.id,
            label.user_id,
            label.pool,
            label.simulated,
            label.created_at,
            GuidelineVersion.version,
            Prompt.id.label("prompt_id"),
            Prompt.text.label("prompt"),
            Prompt.split,
            Prompt.use_case,
            written_by_labeler().label("written"),
            *columns,
        )
        .join(GuidelineVersion, GuidelineVersion.id == label.guideline_version_id)
        .where(_reason(query, label).is_(None))
        .order_by(Prompt.id, label.id)
    )
    yield from _whole_groups(stream(session, statement))


def stream(session: Session, statement: Select[Any]) -> Iterator[Any]:
    """The rows of a cursor on the server, 2,000 of them in memory at a time."""
    return iter(session.execute(statement, execution_options={"yield_per": 2_000}))


def _whole_groups(rows: Iterator[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for _, group in groupby(rows, key=lambda row: row.prompt_id):
        chunk.extend(group)
        if len(chunk) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def labels_left_out(
    session: Session, study: Study, query: ExportQuery, label: Label
) -> dict[str, int]:
    """Labels that are not taken by reason, each under the first that holds; of ratings, which are
    the rows there, as many as these rankings have."""
    counted = _labels(study, query, label, _reason(query, label).label("reason"), func.count())
    if query.kind is ExportKind.ratings:
        counted = counted.join(Rating, Rating.ranking_id == label.id)
    return _counts(session, counted)


def _labels(study: Study, query: ExportQuery, label: Label, *columns: Any) -> Select[Any]:
    statement = (
        select(*columns)
        .select_from(label)
        .join(Prompt, Prompt.id == label.prompt_id)
        .join(
            Membership,
            and_(Membership.study_id == label.study_id, Membership.user_id == label.user_id),
        )
        .where(label.study_id == study.id, Prompt.split.in_(query.splits))
    )
    if query.snapshot_id is None:
        return statement.where(label.superseded_at.is_(None))
    # A snapshot keeps the revision that was current when it was made.
    inside = {
        Demonstration: select(SnapshotDemonstration.demonstration_id).where(
            SnapshotDemonstration.snapshot_id == query.snapshot_id
        ),
        Ranking: select(SnapshotRanking.ranking_id).where(
            SnapshotRanking.snapshot_id == query.snapshot_id
        ),
    }[label]
    return statement.where(label.id.in_(inside))


def _reason(query: ExportQuery, label: Label | None) -> ColumnElement[Any]:
    """Why a row is left out, a key of REASONS; null for one that is taken."""
    reasons: list[tuple[Any, str]] = []
    withdrawn: ColumnElement[bool] = Prompt.withdrawn_at.is_not(None)
    if label is not None:
        if not query.simulated:
            reasons.append((label.simulated, "simulated"))
        withdrawn = or_(withdrawn, Membership.withdrawn_at.is_not(None))
    if not query.withdrawn:
        reasons.append((withdrawn, "withdrawn"))
    if label is not None and not query.heldout:
        judges = or_(label.pool != Pool.training, label.purpose != Purpose.training)
        reasons.append((judges, "heldout"))
    if not query.held:
        held = Prompt.pii_state.in_(HELD)
        reasons.append((held, "held"))
    return case(*reasons) if reasons else null()


def _counts(session: Session, statement: Select[Any]) -> dict[str, int]:
    rows = session.execute(statement.group_by("reason"))
    return {reason: count for reason, count in rows if reason is not None}


def prompt_rows(
    session: Session, study: Study, query: ExportQuery, *columns: Any
) -> Iterator[Sequence[Any]]:
    """The prompts that the query takes, by the chunk."""
    statement = (
        _prompts(study, query, *columns).where(_reason(query, None).is_(None)).order_by(Prompt.id)
    )
    result = session.execute(statement, execution_options={"yield_per": CHUNK_PROMPTS})
    return result.partitions()


def prompts_left_out(session: Session, study: Study, query: ExportQuery) -> dict[str, int]:
    return _counts(
        session, _prompts(study, query, _reason(query, None).label("reason"), func.count())
    )


def _prompts(study: Study, query: ExportQuery, *columns: Any) -> Select[Any]:
    statement = (
        select(*columns)
        .select_from(Prompt)
        .where(Prompt.study_id == study.id, Prompt.split.in_(query.splits))
    )
    if query.snapshot_id is None:
        return statement
    inside = select(SnapshotPrompt.prompt_id).where(SnapshotPrompt.snapshot_id == query.snapshot_id)
    return statement.where(Prompt.id.in_(inside))
