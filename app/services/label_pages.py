"""All that a labeler's browser is told about an assignment: an allow-list, so that it stays blind.

Pages are rendered from these values and from nothing else of the assignment: letters and texts, no
id of a completion, no policy, no score, no author.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import (
    Assignment,
    AssignmentState,
    GuidelineVersion,
    LabelKind,
    Membership,
    Prompt,
    Purpose,
    WritingStyle,
)
from app.services.assignments import lease_of, today_count
from app.services.corrections import CORRECTION, correctable_until, fields_of, revisions
from app.services.few_shot import FewShot, read_few_shot
from app.services.flags import unseen_count
from app.services.label_forms import (
    PAIR_PLACES,
    PROMPT_QUESTIONS,
    parse_active_seconds,
    rating_questions,
    undecided,
)
from app.services.writing_forms import USE_CASES

EXCERPT = 90


@dataclass(frozen=True, kw_only=True)
class Card:
    """A completion as the labeler sees it."""

    letter: str
    text: str

    @property
    def excerpt(self) -> str:
        """The beginning, on one line."""
        return excerpt(self.text)


def excerpt(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: 4 * EXCERPT].split())
    return line if len(line) <= EXCERPT else line[:EXCERPT].rstrip(" .,;:…") + "…"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What stands around and beside a labeler's work, asked for at once."""

    today: int  # labels since midnight UTC
    unseen: int  # answers to flags
    guidelines: GuidelineVersion  # the newest
    now: datetime  # on the database's clock


def frame_of(session: Session, membership: Membership) -> Frame:
    today, unseen, now, guidelines = session.execute(
        select(
            today_count(membership).scalar_subquery(),
            unseen_count(membership).scalar_subquery(),
            func.clock_timestamp(),
            GuidelineVersion,
        )
        .where(GuidelineVersion.study_id == membership.study_id)
        .order_by(GuidelineVersion.version.desc())
        .limit(1)
    ).one()
    return Frame(today=today, unseen=unseen, guidelines=guidelines, now=now)


@dataclass(frozen=True, kw_only=True)
class AssignmentPage:
    """What the page of an assignment shows. `fields` is the form as it was typed so far."""

    public_id: str
    kind: str
    evaluation: bool
    prompt: str  # empty where one is to be written
    few_shot: FewShot | None
    writing_style: str | None  # of the prompt to be written
    brief: str | None  # what it shall be about
    use_cases: Mapping[str, str]  # to choose from for it
    pair_places: Sequence[int]  # of its pairs, if it is few-shot
    cards: Sequence[Card]
    rated: bool
    suggest_order: bool  # ranking begins with the order of the ratings
    questions: Mapping[str, str]
    prompt_questions: Mapping[str, str]
    undecided: Mapping[str, Sequence[str]]  # questions, by those about the prompt that raise them
    fields: Mapping[str, str]
    saved_at: datetime | None
    seconds_left: float | None
    guidelines_version: int
    correction: int | None  # the revision that is being corrected
    correctable_until: datetime | None


def assignment_page(
    session: Session,
    assignment: Assignment,
    frame: Frame,
    fields: Mapping[str, str] | None = None,
) -> AssignmentPage:
    """The page of an assignment from find_assignment, with its draft or the `fields` just sent.

    That of a submitted assignment corrects it: it shows the current label until there is a draft.
    """
    task = assignment.label_task
    rated = task.kind is LabelKind.ranking and task.batch.rate_completions
    draft = assignment.draft if assignment.draft_saved_at else None
    correction = None
    if assignment.state is AssignmentState.submitted:
        labels = revisions(session, assignment)
        correction = len(labels)
        if (draft or {}).get(CORRECTION) != str(correction):
            draft = fields_of(session, assignment, labels[-1])
    if fields is None:
        active = max(assignment.active_seconds, parse_active_seconds(draft or {}))
        fields = {**(draft or {}), "active_seconds": f"{active:g}"}
    return AssignmentPage(
        public_id=assignment.public_id,
        kind=task.kind.value,
        evaluation=assignment.purpose is Purpose.evaluation,
        prompt=task.prompt.text if task.prompt else "",
        few_shot=few_shot_of(task.prompt),
        writing_style=task.writing_style.value if task.writing_style else None,
        brief=task.brief,
        use_cases=USE_CASES if task.writing_style else {},
        pair_places=PAIR_PLACES if task.writing_style is WritingStyle.few_shot else [],
        cards=[Card(letter=item.letter, text=item.completion.text) for item in assignment.items],
        rated=rated,
        suggest_order=rated and task.batch.suggest_order,
        questions=rating_questions(task.given_prompt) if rated else {},
        prompt_questions=PROMPT_QUESTIONS if rated else {},
        undecided=undecided(task.given_prompt) if rated else {},
        fields=fields,
        saved_at=assignment.draft_saved_at,
        seconds_left=lease_of(session, assignment, now=frame.now).seconds_left,
        guidelines_version=frame.guidelines.version,
        correction=correction,
        correctable_until=correctable_until(session, assignment),
    )


def few_shot_of(prompt: Prompt | None) -> FewShot | None:
    """The parts of a prompt that has them."""
    if prompt is None or prompt.few_shot is None:
        return None
    return read_few_shot(prompt.few_shot)
