"""Everything that is kept of one labeler, for them, and everything about one prompt.

A labeler's own data name no policy and no score: it stays blind what they compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, selectinload

from app.errors import NotFound
from app.models import (
    Assignment,
    Completion,
    Demonstration,
    Flag,
    GuidelineVersion,
    LabelTask,
    Membership,
    Prompt,
    PromptRating,
    Ranking,
    Study,
    WrittenPrompt,
)
from app.services.bulk import among
from app.services.exporting.columns import Chunk, Fields, Type, encode
from app.services.exporting.labels import RATED, RATED_PROMPT
from app.services.snapshots import pseudonym

CHUNK = 200  # assignments
FILE = "records"

LABELER: Fields = {
    "kind": Type.text,  # assignment, demonstration, ranking, written_prompt or flag
    "at": Type.text,
    "superseded_at": Type.text,  # when a correction took the label's place
    "batch": Type.text,
    "purpose": Type.text,
    "state": Type.text,
    "skip_reason": Type.text,
    "active_seconds": Type.number,
    "guideline_version": Type.integer,
    "prompt": Type.text,
    "text": Type.text,  # what they wrote
    "answer": Type.text,  # to their flag
    "completions": Type.texts,  # in the order shown: A, B, C
    "groups": Type.groups,  # of places in `completions`, best first
    "ratings": Type.text,  # JSON: one object a completion, in the order shown
    "prompt_rating": Type.text,  # JSON
}
PROMPT: Fields = {
    "kind": Type.text,  # prompt, completion, demonstration, ranking, written_prompt, label_task
    "id": Type.integer,
    "at": Type.text,
    "superseded_at": Type.text,
    "text": Type.text,
    "policy": Type.text,
    "score": Type.number,
    "labeler": Type.text,
    "pool": Type.text,
    "simulated": Type.flag,
    "guideline_version": Type.integer,
    "groups": Type.groups,  # of ids of completions, best first
    "batch": Type.text,
    "state": Type.text,
    "details": Type.text,  # JSON
}


def read_labeler(session: Session, study: Study, user_id: int) -> Iterator[tuple[str, Chunk]]:
    """All that is kept of a labeler in the study. Raises NotFound if they were never in it."""
    if session.get(Membership, (study.id, user_id)) is None:
        raise NotFound("There is no such labeler in this study.")
    last = 0
    while True:
        assignments = list(
            session.scalars(
                select(Assignment)
                .where(
                    Assignment.study_id == study.id,
                    Assignment.user_id == user_id,
                    Assignment.id > last,
                )
                .order_by(Assignment.id)
                .limit(CHUNK)
                .options(
                    joinedload(Assignment.label_task).joinedload(LabelTask.batch),
                    joinedload(Assignment.label_task).joinedload(LabelTask.prompt),
                    selectinload(Assignment.items),
                )
            )
        )
        if not assignments:
            return
        last = assignments[-1].id
        yield FILE, _chunk(list(_of_labeler(session, assignments)), LABELER)


def _of_labeler(session: Session, assignments: Sequence[Assignment]) -> Iterator[dict[str, Any]]:
    by_id = {assignment.id: assignment for assignment in assignments}
    shown = {
        completion.id: completion.text
        for completion in session.scalars(
            select(Completion).where(
                among(
                    Completion.id,
                    {item.completion_id for a in assignments for item in a.items},
                )
            )
        )
    }
    about = {
        assignment.id: {
            "batch": assignment.label_task.batch.name,
            "purpose": assignment.purpose.value,
            "prompt": assignment.label_task.prompt.text if assignment.label_task.prompt else None,
        }
        for assignment in assignments
    }
    for assignment in assignments:
        yield {
            "kind": "assignment",
            "at": _time(assignment.submitted_at or assignment.leased_at),
            "state": assignment.state.value,
            "skip_reason": assignment.skip_reason,
            "active_seconds": assignment.active_seconds,
            **about[assignment.id],
        }
    versions = _versions(session, assignments[0].study_id)
    for demonstration in _labels(session, Demonstration, by_id):
        yield {
            "kind": "demonstration",
            "text": demonstration.text,
            **about[demonstration.assignment_id],
            **_dates(demonstration, versions),
        }
    for written in _labels(session, WrittenPrompt, by_id):
        yield {
            "kind": "written_prompt",
            **about[written.assignment_id],
            "text": session.get_one(Prompt, written.prompt_id).text,
            **_dates(written, versions),
        }
    prompt_ratings = _prompt_ratings(session, by_id)
    for ranking in _labels(session, Ranking, by_id):
        places = [item.completion_id for item in by_id[ranking.assignment_id].items]
        ratings = {rating.completion_id: rating for rating in ranking.ratings}
        yield {
            "kind": "ranking",
            "completions": [shown[completion_id] for completion_id in places],
            "groups": [[places.index(each) for each in group] for group in _tiers(ranking)],
            "ratings": encode(
                [
                    {name: getattr(ratings[each], name) for name in RATED}
                    if each in ratings
                    else None
                    for each in places
                ]
            ),
            "prompt_rating": prompt_ratings.get(ranking.id),
            **about[ranking.assignment_id],
            **_dates(ranking, versions),
        }
    flags = select(Flag).where(among(Flag.assignment_id, by_id.keys())).order_by(Flag.id)
    for flag in session.scalars(flags):
        yield {
            "kind": "flag",
            "at": _time(flag.created_at),
            "text": flag.message,
            "answer": flag.answer,
            **about[flag.assignment_id],
        }


def _labels(session: Session, label: Any, by_id: dict[int, Assignment]) -> Iterator[Any]:
    """The labels of these assignments, all revisions of each."""
    query = select(label).where(among(label.assignment_id, by_id.keys())).order_by(label.id)
    if label is Ranking:
        query = query.options(selectinload(Ranking.items), selectinload(Ranking.ratings))
    return iter(session.scalars(query))


def _prompt_ratings(session: Session, by_id: dict[int, Assignment]) -> dict[int, str]:
    rows = session.scalars(
        select(PromptRating)
        .join(Ranking, Ranking.id == PromptRating.ranking_id)
        .where(among(Ranking.assignment_id, by_id.keys()))
    )
    return {
        row.ranking_id: encode({name: getattr(row, name) for name in RATED_PROMPT}) for row in rows
    }


def read_prompt(session: Session, study: Study, prompt_id: int) -> Iterator[tuple[str, Chunk]]:
    """All that is kept about a prompt of the study. Raises NotFound if it has none such."""
    prompt = session.scalar(
        select(Prompt).where(Prompt.id == prompt_id, Prompt.study_id == study.id)
    )
    if prompt is None:
        raise NotFound("There is no such prompt in this study.")
    yield FILE, _chunk(list(_about_prompt(session, study, prompt)), PROMPT)


def _about_prompt(session: Session, study: Study, prompt: Prompt) -> Iterator[dict[str, Any]]:
    versions = _versions(session, study.id)
    yield {
        "kind": "prompt",
        "id": prompt.id,
        "at": _time(prompt.created_at),
        "text": prompt.text,
        "state": "withdrawn" if prompt.withdrawn_at else prompt.pii_state.value,
        "details": encode(
            {
                "split": prompt.split.value,
                "external_id": prompt.external_id,
                "use_case": prompt.use_case.value if prompt.use_case else None,
                "closed_domain": prompt.closed_domain,
                "constraint": prompt.constraint_text,
                "few_shot": prompt.few_shot,
                **prompt.details,
            }
        ),
    }
    for label, kind in ((WrittenPrompt, "written_prompt"), (Demonstration, "demonstration")):
        for given in session.scalars(
            select(label).where(label.prompt_id == prompt.id).order_by(label.id)
        ):
            yield {
                "kind": kind,
                "text": given.text if isinstance(given, Demonstration) else None,
                **_who(study, given),
                **_dates(given, versions),
            }
    completions = session.scalars(
        select(Completion)
        .where(Completion.prompt_id == prompt.id)
        .order_by(Completion.id)
        .options(joinedload(Completion.policy))
    )
    for completion in completions:
        yield {
            "kind": "completion",
            "id": completion.id,
            "at": _time(completion.created_at),
            "text": completion.text,
            "policy": completion.policy.name,
            "score": completion.score,
        }
    rankings = session.scalars(
        select(Ranking)
        .where(Ranking.prompt_id == prompt.id)
        .order_by(Ranking.id)
        .options(selectinload(Ranking.items), selectinload(Ranking.ratings))
    )
    for ranking in rankings:
        ratings = {
            rating.completion_id: {name: getattr(rating, name) for name in RATED}
            for rating in ranking.ratings
        }
        yield {
            "kind": "ranking",
            "groups": _tiers(ranking),
            "details": encode({"ratings": ratings}),
            **_who(study, ranking),
            **_dates(ranking, versions),
        }
    tasks = session.scalars(
        select(LabelTask)
        .where(LabelTask.prompt_id == prompt.id)
        .order_by(LabelTask.id)
        .options(joinedload(LabelTask.batch))
    )
    for task in tasks:
        yield {
            "kind": "label_task",
            "id": task.id,
            "at": _time(task.created_at),
            "batch": task.batch.name,
            "pool": task.pool.value,
            "state": task.state.value,
            "details": encode({"wanted": task.labels_wanted, "done": task.labels_done}),
        }


def _who(study: Study, label: Any) -> dict[str, Any]:
    return {
        "id": label.id,
        "labeler": pseudonym(study, label.user_id),
        "pool": label.pool.value,
        "simulated": label.simulated,
    }


def _dates(label: Any, versions: dict[int, int]) -> dict[str, Any]:
    return {
        "at": _time(label.created_at),
        "superseded_at": _time(label.superseded_at),
        "guideline_version": versions[label.guideline_version_id],
    }


def _tiers(ranking: Ranking) -> list[list[int]]:
    """Ids of completions, best group first."""
    found: dict[int, list[int]] = {}
    for item in ranking.items:
        found.setdefault(item.tier, []).append(item.completion_id)
    return [found[tier] for tier in sorted(found)]


def _versions(session: Session, study_id: int) -> dict[int, int]:
    rows = session.execute(
        select(GuidelineVersion.id, GuidelineVersion.version).where(
            GuidelineVersion.study_id == study_id
        )
    )
    return {row.id: row.version for row in rows}


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _chunk(records: Sequence[dict[str, Any]], fields: Fields) -> Chunk:
    return {name: [record.get(name) for record in records] for name in fields}
