"""Held prompts: out of all work until a researcher decides, and back again with undo."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound
from app.models import PiiState, Prompt, Study, User
from app.services.batches import create_demonstration_batch
from app.services.few_shot import FewShot, Pair
from app.services.pii_queue import decide, held_count, pieces_of, pii_queue, undo
from app.services.preparation.sifting import Preparation
from app.services.prompts import PromptRow, add_prompts
from tests import factories as make

TEXT = "My name is Ines Okafor. Ines Okafor's phone is +49 30 901820, mine is +49 30 901821."


@pytest.fixture
def study(session: Session) -> Study:
    return make.make_study(session)


@pytest.fixture
def rosa(session: Session, study: Study) -> User:
    return make.make_researcher(session, study)


def hold(session: Session, study: Study, row: PromptRow) -> Prompt:
    added = add_prompts(session, study, [row], preparation=Preparation(session, study))
    assert added.held == 1
    [prompt_id] = added.prompt_ids
    return session.get_one(Prompt, prompt_id)


def test_the_queue_marks_what_was_found(session: Session, study: Study) -> None:
    prompt = hold(session, study, PromptRow(text=TEXT))
    queue = pii_queue(session, study)
    assert (queue.total, queue.decided, held_count(session, study)) == (1, [], 1)
    [held] = queue.held
    assert held.prompt is prompt
    assert "".join(piece.text for piece in held.pieces) == TEXT
    assert [(piece.kind, piece.text) for piece in held.found] == [
        ("name", "Ines Okafor"),
        ("phone", "+49 30 901820"),
        ("phone", "+49 30 901821"),
    ]


def test_redacting_takes_out_and_undo_brings_back(
    session: Session, study: Study, rosa: User
) -> None:
    prompt = hold(session, study, PromptRow(text=TEXT, constraint_text="Greet Ines Okafor."))
    sha256 = prompt.text_sha256
    decide(session, study, rosa, prompt.id, "redact")
    assert prompt.text == "My name is [name]. [name]'s phone is [phone], mine is [phone 2]."
    assert prompt.constraint_text == "Greet [name]."
    assert (prompt.pii_state, prompt.pii_decided_by) == (PiiState.redacted, rosa.id)
    assert prompt.text_sha256 == sha256
    assert "".join(piece.text for piece in pieces_of(prompt)) == TEXT
    assert pii_queue(session, study).decided == [(prompt, rosa)]
    again = add_prompts(session, study, [PromptRow(text=TEXT)])
    assert (again.stored, again.prompt_ids) == (0, [prompt.id])  # the file may come again
    undo(session, study, prompt.id)
    assert (prompt.text, prompt.constraint_text) == (TEXT, "Greet Ines Okafor.")
    assert (prompt.pii_state, prompt.original, prompt.pii_decided_by) == (PiiState.held, None, None)


def test_a_choice_of_passages_and_further_ones(session: Session, study: Study, rosa: User) -> None:
    prompt = hold(session, study, PromptRow(text=TEXT))
    decide(session, study, rosa, prompt.id, "redact", chosen=[2], also=" 901820 \n\n")
    assert prompt.text == (
        "My name is Ines Okafor. Ines Okafor's phone is +49 30 [removed], mine is [phone]."
    )


def test_the_parts_of_a_few_shot_prompt_are_redacted(
    session: Session, study: Study, rosa: User
) -> None:
    parts = FewShot(
        instruction="Sort the sender.",
        pairs=(Pair(query="Write to jo@posteo.de", response="jo@posteo.de"),),
        query="Where does jo@posteo.de live?",
    )
    prompt = hold(session, study, PromptRow(text=parts.rendered(), few_shot=parts))
    decide(session, study, rosa, prompt.id, "redact")
    assert prompt.few_shot == {
        "instruction": "Sort the sender.",
        "pairs": [{"query": "Write to [email]", "response": "[email]"}],
        "query": "Where does [email] live?",
    }
    assert "posteo" not in prompt.text
    undo(session, study, prompt.id)
    assert prompt.few_shot == parts.to_json()


def test_held_and_dropped_prompts_are_not_worked_on(
    session: Session, study: Study, rosa: User
) -> None:
    prompt = hold(session, study, PromptRow(text=TEXT))

    def batch() -> None:
        create_demonstration_batch(session, study, name="x", prompts=[prompt.id])

    with pytest.raises(Invalid, match="held or dropped"):
        batch()
    decide(session, study, rosa, prompt.id, "drop")
    with pytest.raises(Invalid, match="held or dropped"):
        batch()
    undo(session, study, prompt.id)
    decide(session, study, rosa, prompt.id, "clear")
    batch()
    assert session.scalars(select(Prompt.text)).all() == [TEXT]


def test_what_cannot_be_decided(session: Session, study: Study, rosa: User) -> None:
    prompt = hold(session, study, PromptRow(text=TEXT))
    with pytest.raises(Invalid, match="redact, clear or drop"):
        decide(session, study, rosa, prompt.id, "keep")
    with pytest.raises(Invalid, match="at least one passage"):
        decide(session, study, rosa, prompt.id, "redact", chosen=[])
    with pytest.raises(Invalid, match="“Jo” is not in the prompt"):
        decide(session, study, rosa, prompt.id, "redact", also="Jo")
    with pytest.raises(Conflict, match="Nothing was decided"):
        undo(session, study, prompt.id)
    decide(session, study, rosa, prompt.id, "clear")
    with pytest.raises(Conflict, match="was cleared in the meantime"):
        decide(session, study, rosa, prompt.id, "drop")
    with pytest.raises(NotFound):
        decide(session, make.make_study(session, "Another"), rosa, prompt.id, "drop")
