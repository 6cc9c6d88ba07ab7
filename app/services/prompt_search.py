"""Finding prompts, and all that is known about one of them, for researchers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session, joinedload

from app.errors import NotFound
from app.models import (
    Completion,
    Demonstration,
    Policy,
    Prompt,
    Ranking,
    Split,
    Study,
    UseCase,
    User,
    WrittenPrompt,
)

PAGE = 50


@dataclass(frozen=True, kw_only=True)
class PromptFilter:
    """What is looked for: words of the text or the whole external id; None is any."""

    words: str = ""
    split: Split | None = None
    use_case: UseCase | None = None
    written: bool | None = None  # by a labeler of the study, in a label task
    few_shot: bool | None = None


@dataclass(frozen=True, kw_only=True)
class FoundPrompt:
    prompt: Prompt
    completions: int


@dataclass(frozen=True, kw_only=True)
class PromptPage:
    """One page of PAGE prompts, of `total` in `pages` pages. `page` counts from 1."""

    found: Sequence[FoundPrompt]
    total: int
    page: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PAGE))

    @property
    def first(self) -> int:
        return (self.page - 1) * PAGE + 1 if self.found else 0


@dataclass(frozen=True, kw_only=True)
class PromptView:
    """A prompt with its source user, its completions by policy, and the labels about it.

    `written_by` is set for a prompt that a labeler wrote.
    """

    prompt: Prompt
    written_by: tuple[WrittenPrompt, User] | None
    completions: Sequence[Completion]
    demonstrations: Sequence[tuple[Demonstration, User]]
    rankings: int


def find_prompts(
    session: Session, study: Study, wanted: PromptFilter, *, page: int = 1
) -> PromptPage:
    """The study's prompts that fit, oldest first; a page beyond the last is the last."""
    where = _conditions(study, wanted)
    total = session.scalar(select(func.count()).select_from(Prompt).where(*where)) or 0
    page = max(1, min(page, -(-total // PAGE)))
    completions = (
        select(func.count()).where(Completion.prompt_id == Prompt.id).correlate(Prompt)
    ).scalar_subquery()
    rows = session.execute(
        select(Prompt, completions)
        .where(*where)
        .options(joinedload(Prompt.source_user))
        .order_by(Prompt.id)
        .limit(PAGE)
        .offset((page - 1) * PAGE)
    )
    found = [FoundPrompt(prompt=prompt, completions=count) for prompt, count in rows]
    return PromptPage(found=found, total=total, page=page)


def _conditions(study: Study, wanted: PromptFilter) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [Prompt.study_id == study.id]
    words = wanted.words.replace("\0", "").strip()
    if words:
        text = Prompt.text.icontains(words, autoescape=True)
        where.append(or_(text, Prompt.external_id == words))
    if wanted.split is not None:
        where.append(Prompt.split == wanted.split)
    if wanted.use_case is not None:
        where.append(Prompt.use_case == wanted.use_case)
    if wanted.written is not None:
        written = exists().where(WrittenPrompt.prompt_id == Prompt.id)
        where.append(written if wanted.written else ~written)
    if wanted.few_shot is not None:
        parts = Prompt.few_shot.is_not(None)
        where.append(parts if wanted.few_shot else ~parts)
    return where


def prompt_view(session: Session, study: Study, prompt_id: int) -> PromptView:
    """All about one prompt, in five queries. Raises NotFound."""
    prompt = session.scalar(
        select(Prompt)
        .where(Prompt.id == prompt_id, Prompt.study_id == study.id)
        .options(joinedload(Prompt.source_user))
    )
    if prompt is None:
        raise NotFound("There is no such prompt in this study.")
    completions = session.scalars(
        select(Completion)
        .join(Completion.policy)
        .where(Completion.prompt_id == prompt.id)
        .options(joinedload(Completion.policy))
        .order_by(Completion.external_score.desc().nulls_last(), Policy.name, Completion.id)
    )
    demonstrations = session.execute(
        select(Demonstration, User)
        .join(User, User.id == Demonstration.user_id)
        .where(Demonstration.prompt_id == prompt.id, Demonstration.superseded_at.is_(None))
        .order_by(Demonstration.id)
    )
    rankings = select(func.count()).where(
        Ranking.prompt_id == prompt.id, Ranking.superseded_at.is_(None)
    )
    written = session.execute(
        select(WrittenPrompt, User)
        .join(User, User.id == WrittenPrompt.user_id)
        .where(WrittenPrompt.prompt_id == prompt.id)
        .order_by(WrittenPrompt.id)
        .limit(1)
    ).one_or_none()
    return PromptView(
        prompt=prompt,
        written_by=(written[0], written[1]) if written else None,
        completions=completions.all(),
        demonstrations=[(demonstration, user) for demonstration, user in demonstrations],
        rankings=session.scalar(rankings) or 0,
    )
