"""Labels: taking a submitted form, once, as a demonstration, a ranking or a written prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import exists, func, insert, select
from sqlalchemy.orm import Session

from app.db import enqueue
from app.errors import Conflict
from app.models import (
    Assignment,
    AssignmentState,
    Batch,
    Demonstration,
    GuidelineVersion,
    LabelKind,
    LabelTask,
    LabelTaskState,
    PromptRating,
    Ranking,
    RankingItem,
    Rating,
    Study,
    User,
    WebhookEvent,
)
from app.services.acknowledgements import find_version
from app.services.assignments import letters, lock_assignment, lock_labeler, take_slot_again
from app.services.label_forms import (
    RATING_QUESTIONS,
    RankingAnswers,
    parse_active_seconds,
    parse_demonstration,
    parse_ranking,
)
from app.services.studies import current_guidelines
from app.services.webhooks import announce
from app.services.writing_forms import PromptAnswers, parse_prompt

# A demonstration's text, a ranking, or a prompt.
Answers = str | RankingAnswers | PromptAnswers


class LeaseLost(Conflict):
    """The time ran out, and the task wants no more labels: it has them, or was withdrawn."""

    def __init__(self, task: LabelTask) -> None:
        closed = task.state is LabelTaskState.closed
        since = "a researcher has withdrawn it" if closed else "somebody else has done it"
        super().__init__(f"Your time for this one ran out, and {since} in the meantime.")


def submit(session: Session, assignment: Assignment, user: User, fields: Mapping[str, str]) -> bool:
    """Store the label that was filled in. A second submit changes nothing, and returns False.

    `assignment` comes from find_assignment. Raises FormProblems, LeaseLost, and Conflict for an
    assignment that was skipped; nothing is stored then.
    """
    lock_labeler(session, assignment.study_id, assignment.user_id)
    task = lock_assignment(session, assignment)
    if assignment.state is AssignmentState.submitted:
        return False
    answers = parse_label(assignment, fields)
    if assignment.state is AssignmentState.skipped:
        raise Conflict("You skipped this one.")
    if isinstance(answers, PromptAnswers):
        from app.services.writing import refuse_duplicate  # brings all of preparation with it

        refuse_duplicate(session, session.get_one(Study, assignment.study_id), answers)
    # A lease that is over but not taken back yet still holds its slot.
    if assignment.state is AssignmentState.returned and not take_slot_again(task):
        raise LeaseLost(task)
    store_label(session, assignment, user, answers, fields)
    assignment.state = AssignmentState.submitted
    assignment.submitted_at = func.now()
    task.labels_done += 1
    if task.state is LabelTaskState.open and task.labels_done >= task.labels_wanted:
        task.state = LabelTaskState.complete
    session.flush()
    if task.state is LabelTaskState.complete:
        _tell_of_batch(session, task)
    return True


def parse_label(assignment: Assignment, fields: Mapping[str, str]) -> Answers:
    """What the form of the assignment says. Raises FormProblems."""
    task = assignment.label_task
    if task.kind is LabelKind.demonstration:
        return parse_demonstration(fields)
    if task.writing_style is not None:
        return parse_prompt(fields, task.writing_style)
    return parse_ranking(
        fields, task.given_prompt, letters(assignment), rated=task.batch.rate_completions
    )


def store_label(
    session: Session,
    assignment: Assignment,
    user: User,
    answers: Answers,
    fields: Mapping[str, str],
) -> None:
    """Add the label of the locked assignment, which has no current one; its draft is done with.

    The caller flushes.
    """
    about: dict[str, Any] = {
        "assignment_id": assignment.id,
        "study_id": assignment.study_id,
        "user_id": user.id,
        "pool": assignment.pool,
        "purpose": assignment.purpose,
        "simulated": user.simulated,
        "prompt_id": assignment.label_task.prompt_id,
        "guideline_version_id": _guidelines_shown(session, assignment, fields).id,
    }
    if isinstance(answers, str):
        session.add(Demonstration(text=answers, **about))
    elif isinstance(answers, PromptAnswers):
        from app.services.writing import store_prompt

        store_prompt(session, assignment, user, answers, about)
    else:
        _store_ranking(session, assignment, answers, about)
    assignment.active_seconds = max(assignment.active_seconds, parse_active_seconds(fields))
    assignment.draft = None
    assignment.draft_saved_at = None


def _guidelines_shown(
    session: Session, assignment: Assignment, fields: Mapping[str, str]
) -> GuidelineVersion:
    """The version that was beside the form: the one it names, or else the newest."""
    named = fields.get("guidelines_version", "")
    if named.isascii() and named.isdecimal() and len(named) < 10:
        version = find_version(session, assignment.study_id, int(named))
        if version is not None:
            return version
    return current_guidelines(session, session.get_one(Study, assignment.study_id))


def _store_ranking(
    session: Session, assignment: Assignment, answers: RankingAnswers, about: dict[str, Any]
) -> None:
    """A ranking with its items, and a rating or prompt rating only where something was answered."""
    ranking = Ranking(**about)
    session.add(ranking)
    session.flush()
    completion_of = {item.letter: item.completion_id for item in assignment.items}
    items = [
        {"ranking_id": ranking.id, "completion_id": completion_of[letter], "tier": tier}
        for letter, tier in answers.tiers.items()
    ]
    session.execute(insert(RankingItem), items)
    ratings = [
        {"ranking_id": ranking.id, "completion_id": completion_of[letter]}
        | {"overall": rating.overall}
        | {question: rating.metadata.get(question) for question in RATING_QUESTIONS}
        for letter, rating in answers.ratings.items()
        if rating.answered
    ]
    if ratings:
        session.execute(insert(Rating), ratings)
    if answers.prompt:
        session.add(PromptRating(ranking_id=ranking.id, **answers.prompt))


def _tell_of_batch(session: Session, task: LabelTask) -> None:
    """Wake the round, and tell webhooks, when this label was the last that its batch waited for.

    The batch's lock makes two last labelers go one after the other, so that the second sees both.
    """
    batch = task.batch
    round_id = session.scalars(
        select(Batch.round_id).where(Batch.id == batch.id).with_for_update(key_share=True)
    ).one()
    unfinished = exists().where(
        LabelTask.batch_id == batch.id, LabelTask.state == LabelTaskState.open
    )
    if session.scalar(select(unfinished)):
        return
    announce(
        session,
        batch.study_id,
        WebhookEvent.batch_labeled,
        {"batch": batch.id, "name": batch.name, "kind": batch.kind.value},
    )
    if round_id is not None:
        enqueue(session, "advance_round", round_id)
