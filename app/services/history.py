"""A labeler's own work: what they submitted and skipped, to read again and to correct.

As in label_pages, pages are rendered from these values and from nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from app.models import (
    Assignment,
    AssignmentState,
    Demonstration,
    GuidelineVersion,
    LabelKind,
    LabelTask,
    Membership,
    Prompt,
    Ranking,
    WrittenPrompt,
)
from app.services.corrections import Label, correctable_until, fields_of, may_correct, revisions
from app.services.few_shot import FewShot
from app.services.label_forms import PROMPT_QUESTIONS, SKIP_REASONS, rating_questions
from app.services.label_pages import Card, excerpt, few_shot_of

PAGE_SIZE = 25
_SHOWN = (AssignmentState.submitted, AssignmentState.skipped, AssignmentState.returned)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the list. `at`: when it was submitted, or else when it was opened."""

    public_id: str
    kind: str
    excerpt: str
    state: str
    reason: str  # why it was skipped
    at: datetime
    correctable: bool
    corrected: bool


@dataclass(frozen=True, kw_only=True)
class HistoryPage:
    entries: Sequence[Entry]
    number: int
    last: int
    total: int


@dataclass(frozen=True, kw_only=True)
class RankedCard:
    """A completion, its place, and what was answered about it."""

    card: Card
    tier: int
    overall: str
    answers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A label as it was given: a text, or completions by place."""

    number: int
    at: datetime
    guidelines: int
    text: str
    ranked: Sequence[RankedCard]
    about_prompt: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SubmittedPage:
    """What the page of a submitted assignment shows. The newest revision comes first."""

    public_id: str
    kind: str
    prompt: str
    few_shot: FewShot | None
    submitted_at: datetime
    correctable_until: datetime | None
    correctable: bool
    revisions: Sequence[Revision]


def history_page(session: Session, membership: Membership, number: int) -> HistoryPage:
    """A page of the labeler's work in the study, newest first; numbers begin at 1."""
    mine = (
        Assignment.user_id == membership.user_id,
        Assignment.study_id == membership.study_id,
        Assignment.state.in_(_SHOWN),
        # What ran out is listed while it holds a draft.
        (Assignment.state != AssignmentState.returned) | Assignment.draft_saved_at.is_not(None),
    )
    total = session.scalars(select(func.count()).where(*mine)).one()
    last = max(1, -(-total // PAGE_SIZE))
    number = min(max(number, 1), last)
    at = func.coalesce(Assignment.submitted_at, Assignment.leased_at)
    rows = session.scalars(
        select(Assignment)
        .where(*mine)
        .options(
            joinedload(Assignment.label_task).joinedload(LabelTask.prompt),
            joinedload(Assignment.label_task).joinedload(LabelTask.batch),
        )
        .order_by(at.desc(), Assignment.id.desc())
        .offset((number - 1) * PAGE_SIZE)
        .limit(PAGE_SIZE)
    ).all()
    written = _written(session, rows)
    corrected = _corrected(session, rows)
    return HistoryPage(
        entries=[
            Entry(
                public_id=row.public_id,
                kind=row.label_task.kind.value,
                excerpt=_excerpt(row, written),
                state=row.state.value,
                reason=SKIP_REASONS.get(row.skip_reason or "", ""),
                at=row.submitted_at or row.leased_at,
                correctable=may_correct(session, row),
                corrected=row.id in corrected,
            )
            for row in rows
        ],
        number=number,
        last=last,
        total=total,
    )


def _excerpt(row: Assignment, written: Mapping[int, str]) -> str:
    prompt = row.label_task.prompt
    return excerpt(prompt.text if prompt else written.get(row.id, row.label_task.brief or ""))


def _written(session: Session, rows: Sequence[Assignment]) -> dict[int, str]:
    """The prompts that were written, by assignment."""
    found = session.execute(
        select(WrittenPrompt.assignment_id, Prompt.text)
        .join(Prompt, Prompt.id == WrittenPrompt.prompt_id)
        .where(
            WrittenPrompt.assignment_id.in_([row.id for row in rows]),
            WrittenPrompt.superseded_at.is_(None),
        )
    )
    return dict(found.all())


def _corrected(session: Session, rows: Sequence[Assignment]) -> set[int]:
    ids = [row.id for row in rows]
    found: set[int] = set()
    for label in (Demonstration, Ranking):
        found |= set(
            session.scalars(
                select(label.assignment_id).where(
                    label.assignment_id.in_(ids), label.superseded_at.is_not(None)
                )
            )
        )
    return found


def submitted_page(session: Session, assignment: Assignment) -> SubmittedPage:
    """The page of a submitted assignment from find_assignment."""
    task = assignment.label_task
    prompt = task.prompt.text if task.prompt else _written(session, [assignment])[assignment.id]
    labels = [] if task.kind is LabelKind.prompt else revisions(session, assignment)
    versions = dict(
        session.execute(
            select(GuidelineVersion.id, GuidelineVersion.version).where(
                GuidelineVersion.study_id == assignment.study_id
            )
        ).all()
    )
    assert assignment.submitted_at is not None  # it is submitted
    return SubmittedPage(
        public_id=assignment.public_id,
        kind=task.kind.value,
        prompt=prompt,
        few_shot=few_shot_of(task.prompt),
        submitted_at=assignment.submitted_at,
        correctable_until=correctable_until(session, assignment),
        correctable=may_correct(session, assignment),
        revisions=[
            _revision(session, assignment, label, number, versions)
            for number, label in reversed(list(enumerate(labels, start=1)))
        ],
    )


def _revision(
    session: Session,
    assignment: Assignment,
    label: Label,
    number: int,
    versions: Mapping[int, int],
) -> Revision:
    fields = fields_of(session, assignment, label)
    prompt = assignment.label_task.given_prompt
    ranked = [
        RankedCard(
            card=Card(letter=item.letter, text=item.completion.text),
            tier=int(fields[f"tier_{item.letter}"]),
            overall=fields.get(f"overall_{item.letter}", ""),
            answers={
                text: fields[f"{question}_{item.letter}"]
                for question, text in rating_questions(prompt).items()
                if f"{question}_{item.letter}" in fields
            },
        )
        for item in assignment.items
    ]
    return Revision(
        number=number,
        at=label.created_at,
        guidelines=versions[label.guideline_version_id],
        text=fields.get("text", ""),
        ranked=sorted(ranked, key=lambda card: (card.tier, card.card.letter)),
        about_prompt={
            text: fields[f"prompt_{question}"]
            for question, text in PROMPT_QUESTIONS.items()
            if f"prompt_{question}" in fields
        },
    )
