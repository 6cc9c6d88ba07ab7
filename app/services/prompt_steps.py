"""What preparation made of a prompt, and of all prompts: folds, groups, use cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import NotFound
from app.models import FoldedPrompt, Import, Prompt, Study, UseCase
from app.services.pii_queue import HeldPrompt, pieces_of
from app.services.preparation.settings import settings_of
from app.services.preparation.use_cases import Suggestion, train_on_study
from app.services.prompts import normalize

SHOWN = 20  # folded prompts and neighbours that a page lists

# Percent of the paper's API prompts (Ouyang et al. 2022, table 1).
PAPER_SHARES: Final[Mapping[UseCase, float]] = {
    UseCase.generation: 45.6,
    UseCase.open_qa: 12.4,
    UseCase.brainstorming: 11.2,
    UseCase.chat: 8.4,
    UseCase.rewrite: 6.6,
    UseCase.summarization: 4.2,
    UseCase.classification: 3.5,
    UseCase.other: 3.5,
    UseCase.closed_qa: 2.6,
    UseCase.extract: 1.9,
}


@dataclass(frozen=True, kw_only=True)
class PromptSteps:
    """`folded` came later and is stood for by the prompt; `group` is kept in one split with it."""

    normal: bool  # the text came in its normal form
    of_user: int  # prompts that its source user has
    cap: int  # that one may have; 0: as many as come
    folded: Sequence[tuple[FoldedPrompt, Import | None]]
    folded_total: int
    group: Sequence[Prompt]
    found: HeldPrompt
    suggestion: Suggestion | None


@dataclass(frozen=True, kw_only=True)
class UseCaseShare:
    use_case: UseCase
    prompts: int
    percent: float  # of the prompts that have a use case
    paper_percent: float


def prompt_steps(session: Session, study: Study, prompt: Prompt) -> PromptSteps:
    """In five queries at most; a suggestion that the import did not make is made now."""
    about = FoldedPrompt.prompt_id == prompt.id
    folded = session.execute(
        select(FoldedPrompt, Import)
        .outerjoin(Import, Import.id == FoldedPrompt.import_id)
        .where(about)
        .order_by(FoldedPrompt.id)
        .limit(SHOWN)
    ).all()
    total = len(folded)
    if total == SHOWN:
        total = session.scalar(select(func.count()).select_from(FoldedPrompt).where(about)) or 0
    group: Sequence[Prompt] = []
    if prompt.duplicate_group is not None:
        group = session.scalars(
            select(Prompt)
            .where(
                Prompt.study_id == study.id,
                Prompt.duplicate_group == prompt.duplicate_group,
                Prompt.id != prompt.id,
            )
            .order_by(Prompt.id)
            .limit(SHOWN)
        ).all()
    came = prompt.original["text"] if prompt.original else prompt.text
    of_user = select(func.count()).where(Prompt.source_user_id == prompt.source_user_id)
    return PromptSteps(
        normal=normalize(came) == came,
        of_user=session.scalar(of_user) or 0,
        cap=settings_of(study).cap,
        folded=[(row, made) for row, made in folded],
        folded_total=total,
        group=group,
        found=HeldPrompt(prompt=prompt, pieces=pieces_of(prompt)),
        suggestion=_suggestion(session, study, prompt),
    )


def _suggestion(session: Session, study: Study, prompt: Prompt) -> Suggestion | None:
    if prompt.use_case is not None:
        return None
    if prompt.suggested_use_case is not None and prompt.suggested_confidence is not None:
        return Suggestion(prompt.suggested_use_case, prompt.suggested_confidence)
    classifier = train_on_study(session, study)
    return classifier.suggest(prompt.text) if classifier else None


def set_use_case(
    session: Session, study: Study, prompt_id: int, use_case: UseCase | None
) -> Prompt:
    """Tag a prompt by hand; None takes the tag away. Raises NotFound."""
    prompt = session.scalar(
        select(Prompt).where(Prompt.id == prompt_id, Prompt.study_id == study.id)
    )
    if prompt is None:
        raise NotFound("There is no such prompt in this study.")
    prompt.use_case = use_case
    session.flush()
    return prompt


def use_case_shares(session: Session, study: Study) -> list[UseCaseShare]:
    """The study's tagged prompts by use case, beside the paper's; empty while none is tagged."""
    rows = session.execute(
        select(Prompt.use_case, func.count())
        .where(Prompt.study_id == study.id, Prompt.use_case.is_not(None))
        .group_by(Prompt.use_case)
    )
    counts = {use_case: count for use_case, count in rows if use_case is not None}
    total = sum(counts.values())
    if total == 0:
        return []
    return [
        UseCaseShare(
            use_case=use_case,
            prompts=counts.get(use_case, 0),
            percent=100 * counts.get(use_case, 0) / total,
            paper_percent=paper,
        )
        for use_case, paper in PAPER_SHARES.items()
    ]
