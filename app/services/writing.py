"""Prompts that labelers write, in the paper's three kinds (appendix A.2.1).

A batch asks for them; what is submitted becomes a prompt of the study like any other. Its source
user is the labeler, under a pseudonym, so that all prompts of a labeler are in one split.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import (
    Assignment,
    Batch,
    FoldReason,
    LabelKind,
    Prompt,
    Study,
    User,
    WritingStyle,
    WrittenPrompt,
)
from app.services.batch_rows import add_tasks, new_batch
from app.services.label_forms import FormProblems
from app.services.preparation.settings import settings_of
from app.services.preparation.sifting import Preparation
from app.services.prompts import PromptRow, add_prompts
from app.services.writing_forms import PromptAnswers

MAX_BRIEF = 2_000
COMING_IN = "A file of prompts is coming in. What you wrote is kept: submit it in a minute."
WAIT = "3s"  # for the study, before a labeler is asked to try again


def create_writing_batch(
    session: Session,
    study: Study,
    *,
    name: str,
    style: WritingStyle,
    count: int,
    briefs: Sequence[str] = (),
    labels_per_task: int = 1,
    priority: int = 0,
    lease_minutes: int = 60,
) -> Batch:
    """`count` tasks to write a prompt, each by `labels_per_task` labelers of the training pool.

    `briefs` say what the prompts are about, and are dealt round; user-based prompts are written
    after a use case, so they need some. Raises Invalid.
    """
    briefs = [brief.strip() for brief in briefs if brief.strip()]
    if count < 1:
        raise Invalid("A batch has at least one prompt.")
    if style is WritingStyle.user_based and not briefs:
        raise Invalid("User-based prompts are written after a use case: give at least one.")
    if too_long := next((brief for brief in briefs if len(brief) > MAX_BRIEF), None):
        raise Invalid(f"“{too_long[:40]}…” has more than {MAX_BRIEF:,} characters.")
    batch = new_batch(session, study, kind=LabelKind.prompt, name=name, lease_minutes=lease_minutes)
    about = [
        {"writing_style": style, "brief": briefs[place % len(briefs)] if briefs else None}
        for place in range(count)
    ]
    add_tasks(session, batch, about, labels_wanted=labels_per_task, priority=priority)
    return batch


def source_of(study: Study, user_id: int) -> str:
    """The source user that a labeler is in this study: always the same, and not their name."""
    digest = hmac.digest(study.split_key.encode(), f"labeler {user_id}".encode(), "sha256")
    return f"labeler {digest.hex()[:10]}"


def refuse_duplicate(session: Session, study: Study, answers: PromptAnswers) -> None:
    """Raises FormProblems if the study has this text already, or a file is being imported.

    The study stays locked until the transaction ends: nobody stores the text in the meantime.
    """
    field = "instruction" if answers.few_shot else "prompt_text"
    if not _lock(session, study):
        raise FormProblems({field: COMING_IN})
    sha256 = PromptRow(text=answers.text).sha256
    known = select(Prompt.id).where(Prompt.study_id == study.id, Prompt.text_sha256 == sha256)
    if session.scalar(known) is not None:
        raise FormProblems(
            {field: "The study has this very prompt already. Change it, or write another one."}
        )


def _lock(session: Session, study: Study) -> bool:
    """Whether the study could be locked in WAIT. An import holds it to its end, which may take
    minutes: until then nobody knows what the new prompt is nearly the same as."""
    try:
        with session.begin_nested():
            session.execute(text(f"SET LOCAL lock_timeout = '{WAIT}'"))
            session.refresh(study, ["split_key"], with_for_update={"key_share": True})
            session.execute(text("SET LOCAL lock_timeout = DEFAULT"))
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        return False
    return True


def store_prompt(
    session: Session,
    assignment: Assignment,
    user: User,
    answers: PromptAnswers,
    about: Mapping[str, Any],
) -> None:
    """The prompt, in its labeler's split, and that they wrote it; call refuse_duplicate before.

    `about` is what every label carries.
    """
    study = session.get_one(Study, assignment.study_id)
    row = PromptRow(
        text=answers.text,
        user=source_of(study, user.id),
        use_case=answers.use_case,
        few_shot=answers.few_shot,
    )
    prompt_id = _add(session, study, row)
    style = assignment.label_task.writing_style
    session.add(WrittenPrompt(**{**about, "prompt_id": prompt_id, "writing_style": style}))
    session.flush()


def _add(session: Session, study: Study, row: PromptRow) -> int:
    """The id of the prompt. Raises Invalid for one that the study cannot take.

    Outside rehearsals, whose labelers write from one small family, it is prepared like those of a
    file, but nothing stands for it: what is near it in the same split becomes one group with it.
    """
    preparation = None
    if not study.rehearsal:
        settings = settings_of(study).model_copy(update={"near_duplicates": "keep", "cap": 0})
        preparation = Preparation(session, study, settings, few=True)
    added = add_prompts(session, study, [row], preparation=preparation)
    if added.folded[FoldReason.other_side]:
        raise Invalid("Almost the same prompt is here already. Please write a different one.")
    if added.folded[FoldReason.over_length]:
        raise Invalid("The prompt is too long for the models of this study. Please shorten it.")
    [prompt_id] = added.prompt_ids
    assert prompt_id is not None
    return prompt_id
