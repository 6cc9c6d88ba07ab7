"""Flags: a labeler's message about an assignment, and a researcher's answer.

The labeler goes on working in the meantime; the answer waits in the top bar until it is seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session, joinedload
from sqlalchemy.sql.base import ExecutableOption

from app.errors import Conflict, Invalid, NotFound
from app.models import Assignment, Flag, LabelTask, Membership, Study, User

MAX_CHARACTERS = 4_000


def raise_flag(session: Session, assignment: Assignment, message: str) -> Flag:
    """Store the labeler's message about their assignment, in whatever state it is.

    The same message sent twice while it is unanswered is one flag. Raises Invalid.
    """
    words = _checked(message, "Write what a researcher shall know.")
    again = session.scalar(
        select(Flag).where(
            Flag.assignment_id == assignment.id, Flag.message == words, Flag.answer.is_(None)
        )
    )
    if again is not None:
        return again
    flag = Flag(
        study_id=assignment.study_id,
        assignment_id=assignment.id,
        user_id=assignment.user_id,
        message=words,
    )
    session.add(flag)
    session.flush()
    return flag


def flags_of_labeler(session: Session, membership: Membership) -> Sequence[Flag]:
    """The labeler's flags in the study, newest first, with their assignments and prompts."""
    return session.scalars(
        select(Flag)
        .where(Flag.study_id == membership.study_id, Flag.user_id == membership.user_id)
        .options(*_about())
        .order_by(Flag.id.desc())
    ).all()


def flags_of_study(
    session: Session, study: Study, *, unanswered: bool = False, limit: int = 200
) -> Sequence[Flag]:
    """The study's flags with labeler, assignment and prompt: unanswered first, then newest first.

    `unanswered`: only those.
    """
    query = (
        select(Flag)
        .where(Flag.study_id == study.id)
        .options(joinedload(Flag.user), *_about())
        .order_by(Flag.answered_at.is_not(None), Flag.id.desc())
        .limit(limit)
    )
    if unanswered:
        query = query.where(Flag.answer.is_(None))
    return session.scalars(query).all()


def find_flag(session: Session, study: Study, flag_id: int) -> Flag:
    """A flag of the study. Raises NotFound."""
    flag = session.scalar(select(Flag).where(Flag.id == flag_id, Flag.study_id == study.id))
    if flag is None:
        raise NotFound("There is no such flag.")
    return flag


def answer_flag(session: Session, flag: Flag, researcher: User, answer: str) -> None:
    """Answer a flag, once. Raises Invalid without words, Conflict when it has another answer."""
    words = _checked(answer, "Write an answer.")
    session.refresh(flag, ["answer"], with_for_update=True)
    if flag.answer == words:
        return
    if flag.answer is not None:
        raise Conflict("This flag has been answered in the meantime.")
    flag.answered_by = researcher.id
    flag.answered_at = func.now()
    flag.answer = words
    session.flush()


def mark_seen(session: Session, membership: Membership) -> None:
    """The labeler has seen all answers that there are."""
    session.execute(
        update(Flag)
        .where(*_unseen(membership))
        .values(seen_at=func.now())
        .execution_options(synchronize_session=False)
    )


def unseen_answers(session: Session, membership: Membership) -> int:
    """Answers that the labeler has not seen yet."""
    return session.scalars(unseen_count(membership)).one()


def unseen_count(membership: Membership) -> Select[int]:
    """What unseen_answers asks for."""
    return select(func.count()).where(*_unseen(membership))


def open_flags(session: Session, study: Study) -> int:
    """Flags that wait for an answer."""
    return session.scalars(
        select(func.count()).where(Flag.study_id == study.id, Flag.answer.is_(None))
    ).one()


def _unseen(membership: Membership) -> tuple[ColumnElement[bool], ...]:
    return (
        Flag.study_id == membership.study_id,
        Flag.user_id == membership.user_id,
        Flag.answer.is_not(None),
        Flag.seen_at.is_(None),
    )


def _about() -> tuple[ExecutableOption, ...]:
    task = joinedload(Flag.assignment).joinedload(Assignment.label_task)
    return (task.joinedload(LabelTask.prompt), task.joinedload(LabelTask.batch))


def _checked(words: str, empty: str) -> str:
    words = words.replace("\0", "").strip()
    if not words:
        raise Invalid(empty)
    if len(words) > MAX_CHARACTERS:
        raise Invalid(f"A message has at most {MAX_CHARACTERS:,} characters.")
    return words
