"""Flags: what a labeler tells the researchers, and the answer that they see."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound
from app.models import Flag
from app.services import flags
from tests import factories as make


def test_a_flag_its_answer_and_that_it_was_seen(session: Session) -> None:
    study, elsewhere = make.make_study(session), make.make_study(session, "Elsewhere")
    labeler, other = make.make_labeler(session, study), make.make_labeler(session, study)
    researcher = make.make_researcher(session, study)
    make.make_demonstration_batch(session, study, 2)
    assignment = make.take_next(session, labeler)

    flag = flags.raise_flag(session, assignment, "  Is this\0 a joke?\n")
    assert flag.message == "Is this a joke?"
    assert flags.raise_flag(session, assignment, "Is this a joke?").id == flag.id  # pressed twice
    second = flags.raise_flag(session, assignment, "And another thing.")
    assert flags.open_flags(session, study) == 2
    assert flags.unseen_answers(session, labeler) == 0

    flags.answer_flag(session, flag, researcher, "It is meant.")
    flags.answer_flag(session, flag, researcher, "It is meant.")
    with pytest.raises(Conflict):
        flags.answer_flag(session, flag, researcher, "It is not.")
    assert flag.answered_by == researcher.id
    assert (flags.unseen_answers(session, labeler), flags.unseen_answers(session, other)) == (1, 0)
    assert flags.open_flags(session, study) == 1
    listed = flags.flags_of_study(session, study)
    assert [row.id for row in listed] == [second.id, flag.id]  # what waits comes first
    assert [row.id for row in flags.flags_of_study(session, study, unanswered=True)] == [second.id]
    assert listed[0].user.id == labeler.user_id
    assert listed[0].assignment.label_task.prompt is not None

    assert [row.id for row in flags.flags_of_labeler(session, labeler)] == [second.id, flag.id]
    assert flags.flags_of_labeler(session, other) == []
    flags.mark_seen(session, other)
    assert flags.unseen_answers(session, labeler) == 1
    flags.mark_seen(session, labeler)
    assert flags.unseen_answers(session, labeler) == 0
    assert flags.find_flag(session, study, flag.id) is flag
    with pytest.raises(NotFound):
        flags.find_flag(session, elsewhere, flag.id)


@pytest.mark.parametrize("message", ["", " \n", "\0", "x" * 4_001])
def test_a_message_has_words_and_not_too_many(session: Session, message: str) -> None:
    study = make.make_study(session)
    make.make_demonstration_batch(session, study, 1)
    assignment = make.take_next(session, make.make_labeler(session, study))
    with pytest.raises(Invalid):
        flags.raise_flag(session, assignment, message)
    assert session.scalar(select(func.count()).select_from(Flag)) == 0
