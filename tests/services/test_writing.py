"""Prompts that labelers write: the batch, the form, and the prompts that are made of it."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid
from app.models import (
    Assignment,
    AssignmentState,
    LabelTask,
    LabelTaskState,
    Membership,
    Pool,
    Prompt,
    SourceUser,
    Split,
    Study,
    UseCase,
    User,
    WritingStyle,
    WrittenPrompt,
)
from app.services import corrections, labels, writing
from app.services.batches import create_demonstration_batch
from app.services.drafts import save_draft
from app.services.label_forms import FormProblems, field_names
from app.services.prompts import split_of
from app.services.writing import create_writing_batch, source_of
from app.services.writing_forms import USE_CASES, parse_prompt
from tests import factories as make

FEW_SHOT = {
    "instruction": "Give the mood of the message.",
    "query_1": "I passed!",
    "response_1": "glad",
    "query_3": "It rains again.",
    "response_3": "glum",
    "final_query": "Where is everybody?",
}


@pytest.fixture
def study(session: Session) -> Study:
    return make.make_study(session)


@pytest.fixture
def labeler(session: Session, study: Study) -> Membership:
    return make.make_labeler(session, study, "ada")


def write(session: Session, labeler: Membership, fields: dict[str, str]) -> Assignment:
    assignment = make.take_next(session, labeler)
    labels.submit(session, assignment, session.get_one(User, labeler.user_id), fields)
    return assignment


def test_a_batch_deals_its_briefs_round(session: Session, study: Study) -> None:
    batch = create_writing_batch(
        session,
        study,
        name="After use cases",
        style=WritingStyle.user_based,
        count=5,
        briefs=["Letters to a landlord", " ", " Recipes "],
        lease_minutes=90,
        priority=2,
    )
    tasks = make.tasks_of(session, batch)
    assert [task.brief for task in tasks] == [
        "Letters to a landlord",
        "Recipes",
        "Letters to a landlord",
        "Recipes",
        "Letters to a landlord",
    ]
    assert {(t.prompt_id, t.writing_style, t.pool, t.priority) for t in tasks} == {
        (None, WritingStyle.user_based, Pool.training, 2)
    }
    assert (batch.lease_minutes, batch.rate_completions) == (90, False)


@pytest.mark.parametrize(
    ("style", "count", "briefs", "reason"),
    [
        (WritingStyle.user_based, 1, [" ", ""], "give at least one"),
        (WritingStyle.plain, 0, [], "at least one prompt"),
        (WritingStyle.plain, 1, ["x" * 2_001], "more than 2,000 characters"),
    ],
)
def test_a_batch_that_cannot_be(
    session: Session, study: Study, style: WritingStyle, count: int, briefs: list[str], reason: str
) -> None:
    with pytest.raises(Invalid, match=reason):
        create_writing_batch(session, study, name="x", style=style, count=count, briefs=briefs)


def test_a_plain_prompt_becomes_a_prompt_of_the_study(
    session: Session, study: Study, labeler: Membership
) -> None:
    batch = create_writing_batch(session, study, name="x", style=WritingStyle.plain, count=2)
    first = write(session, labeler, {"prompt_text": "\nName a bird.  \n", "use_case": "open_qa"})
    second = write(session, labeler, {"prompt_text": "Name a fish.", "active_seconds": "12"})
    prompts = session.scalars(select(Prompt).order_by(Prompt.id)).all()
    assert [(p.text, p.use_case) for p in prompts] == [
        ("Name a bird.", UseCase.open_qa),
        ("Name a fish.", None),
    ]
    # Whose it is: the labeler, under one pseudonym, in the split that the study's key gives it.
    source = session.scalars(select(SourceUser)).one()
    assert source.name == source_of(study, labeler.user_id)
    assert "ada" not in source.name
    assert source.name != source_of(make.make_study(session, "Another"), labeler.user_id)
    assert {p.split for p in prompts} == {split_of(study, source.name)} == {source.split}
    written = session.scalars(select(WrittenPrompt).order_by(WrittenPrompt.id)).all()
    assert [(w.assignment_id, w.prompt_id, w.writing_style) for w in written] == [
        (first.id, prompts[0].id, WritingStyle.plain),
        (second.id, prompts[1].id, WritingStyle.plain),
    ]
    assert (second.state, second.active_seconds) == (AssignmentState.submitted, 12.0)
    assert [t.state for t in make.tasks_of(session, batch)] == [LabelTaskState.complete] * 2
    # A prompt like any other: it can be demonstrated.
    batch = create_demonstration_batch(session, study, name="d", count=2, splits=[source.split])
    assert {t.prompt_id for t in make.tasks_of(session, batch)} == {p.id for p in prompts}


def test_a_few_shot_prompt_keeps_its_parts(
    session: Session, study: Study, labeler: Membership
) -> None:
    create_writing_batch(session, study, name="x", style=WritingStyle.few_shot, count=1)
    write(session, labeler, FEW_SHOT | {"query_5": " ", "response_5": "\n"})
    prompt = session.scalars(select(Prompt)).one()
    assert prompt.text == (
        "Give the mood of the message.\n\n"
        "Query: I passed!\nResponse: glad\n\n"
        "Query: It rains again.\nResponse: glum\n\n"
        "Query: Where is everybody?\nResponse:"
    )
    assert prompt.few_shot == {
        "instruction": "Give the mood of the message.",
        "pairs": [
            {"query": "I passed!", "response": "glad"},
            {"query": "It rains again.", "response": "glum"},
        ],
        "query": "Where is everybody?",
    }


@pytest.mark.parametrize(
    ("style", "fields", "problems"),
    [
        (WritingStyle.plain, {"prompt_text": " \n"}, {"prompt_text": "Write the prompt"}),
        (WritingStyle.plain, {"prompt_text": "x" * 32_001}, {"prompt_text": "at most 32,000"}),
        (
            WritingStyle.user_based,
            {"prompt_text": "Hello", "use_case": "poems"},
            {"use_case": "Choose one of the use cases"},
        ),
        (
            WritingStyle.few_shot,
            {},
            {
                "instruction": "Write the instruction",
                "query_1": "at least 2 pairs",
                "final_query": "Write the query",
            },
        ),
        (
            WritingStyle.few_shot,
            {**FEW_SHOT, "response_3": "", "query_4": "", "response_4": "lost"},
            {"response_3": "Pair 3 has a query and no", "query_4": "Pair 4 has a response and no"},
        ),
        (
            WritingStyle.few_shot,
            {name: text for name, text in FEW_SHOT.items() if not name.endswith("_3")},
            {"query_2": "at least 2 pairs"},
        ),
        (
            WritingStyle.few_shot,
            {**FEW_SHOT, "response_3": "x" * 32_000},
            {"instruction": "at most 32,000"},
        ),
    ],
)
def test_what_has_to_be_mended_is_said_by_field(
    style: WritingStyle, fields: dict[str, str], problems: dict[str, str]
) -> None:
    with pytest.raises(FormProblems) as refusal:
        parse_prompt(fields, style)
    assert refusal.value.problems.keys() == problems.keys()
    for name, words in problems.items():
        assert words in refusal.value.problems[name]


def test_the_use_cases_to_choose_from_are_the_papers_ten() -> None:
    assert USE_CASES.keys() == {case.value for case in UseCase}


def test_a_duplicate_is_refused_and_nothing_is_lost(
    session: Session, study: Study, labeler: Membership
) -> None:
    make.make_prompt(session, study, "Name a bird.")
    create_writing_batch(session, study, name="x", style=WritingStyle.plain, count=1)
    assignment = make.take_next(session, labeler)
    user = session.get_one(User, labeler.user_id)
    with pytest.raises(FormProblems, match="this very prompt already"):
        labels.submit(session, assignment, user, {"prompt_text": "Name a bird. "})
    save_draft(session, assignment, {"prompt_text": "Name a bird. ", "tier_A": "1"})
    assert assignment.state is AssignmentState.leased
    assert assignment.draft == {"prompt_text": "Name a bird. "}
    assert session.scalar(select(func.count()).select_from(WrittenPrompt)) == 0
    labels.submit(session, assignment, user, {"prompt_text": "Name a big bird."})
    assert session.scalar(select(func.count()).select_from(WrittenPrompt)) == 1


def test_a_duplicate_leaves_a_returned_slot_free(
    session: Session, study: Study, labeler: Membership
) -> None:
    """A lease that ran out takes its slot again only for a label that can be stored."""
    make.make_prompt(session, study, "Name a bird.")
    batch = create_writing_batch(session, study, name="x", style=WritingStyle.plain, count=1)
    assignment = make.take_next(session, labeler)
    [task] = make.tasks_of(session, batch)
    assignment.state, task.slots_taken = AssignmentState.returned, 0
    session.flush()
    user = session.get_one(User, labeler.user_id)
    with pytest.raises(FormProblems):
        labels.submit(session, assignment, user, {"prompt_text": "Name a bird."})
    session.flush()
    assert session.scalar(select(LabelTask.slots_taken)) == 0
    labels.submit(session, assignment, user, {"prompt_text": "Name a whale."})
    assert session.scalar(select(LabelTask.slots_taken)) == 1


def test_a_second_submit_changes_nothing_and_a_correction_is_refused(
    session: Session, study: Study, labeler: Membership
) -> None:
    create_writing_batch(session, study, name="x", style=WritingStyle.plain, count=1)
    assignment = write(session, labeler, {"prompt_text": "Name a bird."})
    user = session.get_one(User, labeler.user_id)
    assert labels.submit(session, assignment, user, {"prompt_text": "Name a fish."}) is False
    with pytest.raises(Conflict, match="stays as it is"):
        corrections.correct(session, assignment, user, {"prompt_text": "Name a fish."})
    assert session.scalars(select(Prompt.text)).all() == ["Name a bird."]


def test_simulated_labelers_prompts_are_marked(session: Session) -> None:
    study = make.make_study(session, "Rehearsal", rehearsal=True)
    labeler = make.make_labeler(session, study, simulated=True)
    create_writing_batch(session, study, name="x", style=WritingStyle.plain, count=1)
    write(session, labeler, {"prompt_text": "Name a bird."})
    assert session.scalars(select(WrittenPrompt.simulated)).all() == [True]


def test_prompts_of_many_labelers_are_split_by_labeler(session: Session, study: Study) -> None:
    """Two prompts a labeler: each labeler's in one split, as the source user's row says."""
    create_writing_batch(session, study, name="x", style=WritingStyle.plain, count=60)
    for number in range(30):
        labeler = make.make_labeler(session, study)
        for place in range(2):
            write(session, labeler, {"prompt_text": f"Count to {number} from {place}."})
    rows = session.execute(
        select(SourceUser.name, func.count(Prompt.id), func.count(Prompt.split.distinct()))
        .join(Prompt, Prompt.source_user_id == SourceUser.id)
        .group_by(SourceUser.name)
    ).all()
    assert len(rows) == 30
    assert {(prompts, splits) for _, prompts, splits in rows} == {(2, 1)}
    splits = set(session.scalars(select(Prompt.split)))
    assert Split.train in splits


def test_the_forms_fields_are_what_a_draft_keeps(session: Session, study: Study) -> None:
    style = WritingStyle.few_shot
    batch = create_writing_batch(session, study, name="x", style=style, count=1)
    [task] = make.tasks_of(session, batch)
    assert {"instruction", "query_6", "response_6", "final_query"} < field_names(task, [])
    assert not {"prompt_text", "query_7", "text"} & field_names(task, [])


def test_while_a_file_comes_in_a_labeler_is_asked_to_wait(
    fresh_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "WAIT", "50ms")
    with Session(fresh_engine) as session:
        study = make.make_study(session)
        session.commit()
        answers = parse_prompt({"prompt_text": "Say 1.", "use_case": "chat"}, WritingStyle.plain)
        with Session(fresh_engine) as importing:
            importing.refresh(
                importing.get_one(Study, study.id), ["id"], with_for_update={"key_share": True}
            )
            with pytest.raises(FormProblems, match="submit it in a minute"):
                writing.refuse_duplicate(session, study, answers)
            assert session.scalar(select(func.count(Prompt.id))) == 0  # the transaction goes on
        writing.refuse_duplicate(session, study, answers)
        assert session.scalar(text("SHOW lock_timeout")) == "0"
