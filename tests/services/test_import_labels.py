"""Labels from outside, in the shapes that data sets are published in: stored once, and undone."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Assignment,
    AssignmentItem,
    Batch,
    Completion,
    Demonstration,
    FoldedPrompt,
    Import,
    LabelTask,
    LabelTaskState,
    Membership,
    Policy,
    Pool,
    Prompt,
    Purpose,
    Ranking,
    RankingItem,
    Role,
    Split,
    Study,
    User,
)
from app.services.import_undo import undo_import
from app.services.importing.dialogues import Turn, is_transcript, render, transcript
from app.services.importing.label_accounts import account_name
from app.services.importing.label_rows import tiers_of_groups, tiers_of_ranks
from app.services.importing.problems import RowProblem
from app.services.imports import IMPORTERS, ImportRefused, ImportReport
from app.services.prompts import split_of
from app.services.snapshots import freeze_demonstrations, freeze_rankings
from tests import factories as make

DATA = Path(os.environ.get("PLUMBLINE_DATA", Path(__file__).parents[3] / "shared" / "data"))
TABLES = (
    Prompt,
    FoldedPrompt,
    Policy,
    Completion,
    Batch,
    LabelTask,
    Assignment,
    AssignmentItem,
    Ranking,
    RankingItem,
    Demonstration,
)


@pytest.fixture
def study(session: Session) -> Study:
    return make.make_study(session)


def load(
    session: Session, study: Study, kind: str, rows: Sequence[Any], name: str = "set.jsonl"
) -> ImportReport:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return IMPORTERS[kind](session, study, io.BytesIO(data), file_name=name)


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def counts(session: Session) -> dict[str, int]:
    return {
        table.__tablename__: session.scalar(select(func.count()).select_from(table)) or 0
        for table in TABLES
    }


def rankings(session: Session) -> list[tuple[str, dict[str, int]]]:
    """Each ranking's prompt, and the tier of each text."""
    found: list[tuple[str, dict[str, int]]] = []
    for ranking_id, text in session.execute(
        select(Ranking.id, Prompt.text)
        .join(Prompt, Prompt.id == Ranking.prompt_id)
        .order_by(Ranking.id)
    ):
        items = session.execute(
            select(Completion.text, RankingItem.tier)
            .join(RankingItem.completion)
            .where(RankingItem.ranking_id == ranking_id)
        )
        found.append((text, dict(iter(items))))
    return found


def test_a_dialogue_is_rendered_in_one_way() -> None:
    assert render([Turn("user", "Say 1.")]) == "Say 1."
    turns = transcript("\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Say 1.\n\nAssistant: One.")
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant"]
    text = "Human: Hi\n\nAssistant: Hello.\n\nHuman: Say 1.\n\nAssistant:"
    assert render(turns[:-1]) == text
    assert render(transcript(text)[:-1]) == text  # what we render comes in again as it was
    assert not is_transcript("Human: is a word that a prompt may begin with")


@pytest.mark.parametrize(
    ("groups", "tiers"),
    [([[1], [0, 2]], (2, 1, 2)), ([[0, 1, 2]], (1, 1, 1)), ([[2], [1], [0]], (3, 2, 1))],
)
def test_groups_are_tiers(groups: list[Any], tiers: tuple[int, ...]) -> None:
    assert tiers_of_groups(groups, 3) == tiers


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([[0], [1]], "leaves out 1 of 3"),
        ([[0], [0, 1, 2]], "the place 0 twice"),
        ([[0], [1, 3]], "the place '3' of 0 to 2"),
        ([0, 1, 2], "must be lists of places, not a number"),
        ([[0], [], [1, 2]], "must be lists of places"),
        ([[True], [1, 2]], "the place 'True'"),
    ],
)
def test_broken_groups(groups: list[Any], reason: str) -> None:
    with pytest.raises(RowProblem, match=reason):
        tiers_of_groups(groups, 3)


def test_ranks_are_tiers_without_gaps() -> None:
    assert tiers_of_ranks([0, 7, 3], 3) == (1, 3, 2)
    assert tiers_of_ranks([2, 1, 2], 3) == (2, 1, 2)
    with pytest.raises(RowProblem, match="2 numbers for 3 completions"):
        tiers_of_ranks([1, 2], 3)
    with pytest.raises(RowProblem, match="'x', which is no number"):
        tiers_of_ranks([1, "x", 3], 3)


PAIRS: dict[str, dict[str, Any]] = {
    "dialogues": {
        "chosen": "\n\nHuman: Say 1.\n\nAssistant: One.",
        "rejected": "\n\nHuman: Say 1.\n\nAssistant: No.",
    },
    "text": {"prompt": "Say 1.", "chosen": "One.", "rejected": "No."},
    "messages beside a prompt": {
        "prompt": [{"role": "user", "content": "Say 1."}],
        "chosen": [{"role": "assistant", "content": "One."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    },
    "whole messages": {
        "chosen": [{"role": "user", "content": "Say 1."}, {"role": "assistant", "content": "One."}],
        "rejected": [{"from": "human", "value": "Say 1."}, {"from": "gpt", "value": "No."}],
    },
    "dialogues beside a prompt": {
        "prompt": "Say 1.",
        "chosen": "\n\nHuman: Say 1.\n\nAssistant: One.",
        "rejected": "\n\nHuman: Say 1.\n\nAssistant: No.",
    },
}


@pytest.mark.parametrize("shape", PAIRS)
@pytest.mark.parametrize("packed", ["jsonl", "gzip", "parquet", "parquet.gz"])
def test_comparisons_in_every_shape_are_the_same_ranking(
    session: Session, study: Study, shape: str, packed: str
) -> None:
    row = PAIRS[shape]
    data = parquet([row]) if "parquet" in packed else json.dumps(row).encode()
    if packed in {"gzip", "parquet.gz"}:
        data = gzip.compress(data)
    # The name tells nothing: what the file is, is seen in its first bytes.
    report = IMPORTERS["comparisons"](session, study, io.BytesIO(data), file_name="set.bin")
    assert (report.read, report.stored, report.new_prompts) == (1, 1, 1)
    assert rankings(session) == [("Say 1.", {"One.": 1, "No.": 2})]
    policies = session.scalars(select(Policy.name)).all()
    assert policies == ["set.bin"]
    again = load(session, study, "comparisons", [PAIRS["text"]], "another.jsonl")
    assert (again.stored, again.duplicates) == (0, 1)


def test_comparisons_in_csv(session: Session, study: Study) -> None:
    data = b"prompt,chosen,rejected,chosen_model,rejected_model\nSay 1.,One.,No.,a,b\n"
    IMPORTERS["comparisons"](session, study, io.BytesIO(data), file_name="set.csv")
    named = select(Policy.name, Completion.text).join(Completion.policy)
    assert {(name, text) for name, text in session.execute(named)} == {("a", "One."), ("b", "No.")}


def test_an_imported_ranking_stands_as_any_other(session: Session, study: Study) -> None:
    rows = [
        {"prompt": "Say 1.", "completions": ["One.", "1", "No."], "groups": [[0, 1], [2]]},
        {"prompt": "Say 2.", "completions": ["Two.", "No."], "ranks": [1, 2], "models": ["a", "b"]},
        {"prompt": "Say 1.", "completions": ["One.", "No."], "ranks": [2, 1]},
    ]
    report = load(session, study, "rankings", rows)
    assert (report.read, report.stored, report.duplicates, report.new_prompts) == (3, 3, 0, 2)
    assert rankings(session) == [
        ("Say 1.", {"One.": 1, "1": 1, "No.": 2}),
        ("Say 2.", {"Two.": 1, "No.": 2}),
        ("Say 1.", {"No.": 1, "One.": 2}),
    ]
    # "One." and "No." to "Say 1." are the same completions in both of its rankings.
    assert report.policies == {"set": 3, "a": 1, "b": 1}
    batches = session.scalars(select(Batch).order_by(Batch.id)).all()
    assert [batch.name for batch in batches] == ["Imported: set", "Imported: set (2)"]
    tasks = session.scalars(select(LabelTask)).all()
    assert {(task.state, task.labels_done, task.slots_taken) for task in tasks} == {
        (LabelTaskState.complete, 1, 1)
    }
    label = session.scalars(select(Ranking)).first()
    assert label is not None
    assert (label.pool, label.purpose, label.simulated) == (Pool.training, Purpose.training, False)
    user = session.get_one(User, label.user_id)
    assert (user.username, user.active) == (f"imported.{study.id}", False)
    frozen = freeze_rankings(session, study)
    assert (frozen.records, frozen.counts["comparisons"]) == (3, 2 + 1 + 1)


def test_labelers_of_a_file_stay_apart_under_pseudonyms(session: Session, study: Study) -> None:
    pair = {"prompt": "Say 1.", "chosen": "One.", "rejected": "Two."}
    rows = [pair | {"labeler": "ann@lab.org"}, pair | {"labeler": "Bob"}, pair | {"labeler": 7}]
    report = load(session, study, "comparisons", [*rows, rows[0]])
    assert (report.stored, report.duplicates, report.unused_columns) == (3, 1, [])
    users = session.scalars(
        select(User).join(Ranking, Ranking.user_id == User.id).where(Ranking.study_id == study.id)
    ).all()
    assert len({user.id for user in users}) == 3
    for user in users:
        assert re.fullmatch(rf"imported\.{study.id}\.[0-9a-f]{{12}}", user.username)
        assert not user.active
        membership = session.get_one(Membership, (study.id, user.id))
        assert (membership.role, membership.pool) == (Role.labeler, Pool.training)
    names = {account_name(study, name) for name in ("ann@lab.org", "Bob", "7")}
    assert {user.username for user in users} == names
    again = load(session, study, "comparisons", rows)
    assert (again.stored, again.duplicates) == (0, 3)


def test_labels_that_came_without_their_labeler_are_not_stored_again(
    session: Session, study: Study
) -> None:
    row = {"prompt": "Say 1.", "completion": "One."}
    assert load(session, study, "demonstrations", [row]).stored == 1
    assert load(session, study, "demonstrations", [row | {"labeler": "Bob"}]).stored == 0


def test_an_account_that_a_person_has_taken_is_not_used(session: Session, study: Study) -> None:
    make.make_user(session, username=account_name(study, "Bob").upper())
    row = {"prompt": "Say 1.", "completion": "One.", "labeler": "Bob"}
    with pytest.raises(Invalid, match="is a person's"):
        load(session, study, "demonstrations", [row])


def test_what_was_shown_first_tells_nothing(session: Session, study: Study) -> None:
    rows = [{"prompt": f"Say {n}.", "chosen": "Yes.", "rejected": "No."} for n in range(100, 200)]
    load(session, study, "comparisons", rows)
    first = (
        select(func.count())
        .select_from(AssignmentItem)
        .join(AssignmentItem.completion)
        .where(AssignmentItem.position == 0, Completion.text == "Yes.")
    )
    # Of 100 fair draws, 20 to 80 but once in a billion.
    assert 20 < (session.scalar(first) or 0) < 80


def test_demonstrations_from_chats_and_columns(session: Session, study: Study) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say 1."},
        {"role": "assistant", "content": "One."},
    ]
    rows = [
        {"messages": chat},
        {"instruction": "Say 2.", "output": "Two."},
        {"prompt": "Say 3.", "response": "Three."},
        {"messages": chat[:2]},
        {"prompt": "Say 4.", "completion": " "},
    ]
    report = load(session, study, "demonstrations", rows)
    assert (report.read, report.stored, report.duplicates) == (5, 3, 0)
    assert report.left_out == {
        "the dialogue does not end with a turn of the assistant": 1,
        "the completion is empty": 1,
    }
    assert report.left_out_lines["the completion is empty"] == [5]
    said = " ".join(report.sentences())
    assert "1 left out: the completion is empty (line 5)." in said
    pairs = session.execute(
        select(Prompt.text, Demonstration.text)
        .join(Prompt, Prompt.id == Demonstration.prompt_id)
        .order_by(Demonstration.id)
    )
    assert pairs.all() == [
        ("System: Be brief.\n\nHuman: Say 1.\n\nAssistant:", "One."),
        ("Say 2.", "Two."),
        ("Say 3.", "Three."),
    ]
    assert load(session, study, "demonstrations", rows, "other.jsonl").stored == 0
    assert freeze_demonstrations(session, study).records == 3


def message(role: str, text: str, *replies: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "replies": list(replies), **more}


TREE = {
    "message_tree_id": "t",
    "prompt": message(
        "prompter",
        "Say 1.",
        message("assistant", "Uno.", rank=2),
        message(
            "assistant",
            "One.",
            message("prompter", "And 2?", message("assistant", "Two.", model_name="m")),
            rank=0,
        ),
        message("assistant", "1", rank=1, model_name="m"),
        message("assistant", "Not ranked."),
        message("assistant", "Deleted.", rank=3, deleted=True),
    ),
}
FOLLOW_UP = "Human: Say 1.\n\nAssistant: One.\n\nHuman: And 2?\n\nAssistant:"


def test_a_message_tree_holds_prompts_demonstrations_and_rankings(
    session: Session, study: Study
) -> None:
    assert load(session, study, "prompts", [TREE]).stored == 2
    texts = select(Prompt.text, Prompt.source_user_id, Prompt.split).order_by(Prompt.id)
    (one, user, split), (two, *same) = session.execute(texts).all()
    assert (one, two) == ("Say 1.", FOLLOW_UP)
    assert same == [user, split]  # a dialogue's continuation is never on another side than it
    assert load(session, study, "demonstrations", [TREE]).stored == 2
    written = session.scalars(select(Demonstration.text).order_by(Demonstration.id)).all()
    assert written == ["One.", "Two."]
    report = load(session, study, "rankings", [TREE], "trees.jsonl.gz")
    assert (report.stored, report.new_prompts, report.policies) == (1, 0, {"trees": 2, "m": 1})
    assert rankings(session) == [("Say 1.", {"One.": 1, "1": 2, "Uno.": 3})]
    with pytest.raises(ImportRefused, match="import the file as rankings"):
        load(session, study, "comparisons", [{**TREE, "chosen": "", "rejected": ""}])


def test_dialogues_with_different_prompts_are_left_out(session: Session, study: Study) -> None:
    rows = [
        PAIRS["dialogues"],
        {
            "chosen": "\n\nHuman: Say 2.\n\nAssistant: Two.",
            "rejected": "\n\nHuman: Say 3.\n\nAssistant: No.",
        },
        {"prompt": "Say 4.", "chosen": "Same.", "rejected": "Same."},
    ]
    report = load(session, study, "comparisons", rows)
    assert (report.read, report.stored, report.duplicates) == (3, 1, 0)
    assert report.left_out == {
        "chosen and rejected answer different prompts": 1,
        "a completion is there twice": 1,
    }


BROKEN: dict[str, tuple[str, Any, str]] = {
    "no rejected": ("comparisons", {"prompt": "a", "chosen": "b"}, "no column rejected"),
    "null": (
        "comparisons",
        {"prompt": "a", "chosen": "b", "rejected": None},
        "rejected is missing",
    ),
    "a number": ("comparisons", {"prompt": "a", "chosen": 1, "rejected": "c"}, "chosen is missing"),
    "no prompt": ("comparisons", {"prompt": " ", "chosen": "b", "rejected": "c"}, "is empty"),
    "role": ("demonstrations", {"messages": [{"role": "wizard", "content": ""}]}, "role 'wizard'"),
    "no list": ("demonstrations", {"messages": 3}, "messages must be a list, not a number"),
    "an image": (
        "demonstrations",
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "a part that is not text",
    ),
    "no order": ("rankings", {"prompt": "a", "completions": ["b", "c"]}, "ranks is missing"),
    "names": (
        "rankings",
        {"prompt": "a", "completions": ["b", "c"], "ranks": [1, 2], "models": ["m"]},
        "models has 1 names for 2 completions",
    ),
    "a tree's rank": (
        "rankings",
        {"prompt": message("prompter", "a", message("assistant", "b", rank="first"))},
        "a rank must be a whole number, not 'first'",
    ),
    "a tree without roles": ("rankings", {"prompt": {"text": "a"}}, "no role or no text"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_label_refuses_the_file(session: Session, study: Study, case: str) -> None:
    kind, row, reason = BROKEN[case]
    good: dict[str, Any] = {
        "prompt": "Say 1.",
        "chosen": "One.",
        "rejected": "No.",
        "completion": "One.",
    }
    good |= {"completions": ["One.", "No."], "ranks": [1, 2]}
    before = counts(session)
    with pytest.raises(ImportRefused, match="line 2: .*" + reason):
        load(session, study, kind, [good, row])
    assert counts(session) == before
    assert session.scalars(select(Import)).all() == []


@pytest.mark.parametrize("kind", ["prompts", "demonstrations", "rankings"])
def test_an_import_can_be_undone_and_done_again(session: Session, study: Study, kind: str) -> None:
    load(session, study, "prompts", [{"prompt": "Say 9.", "prompt_id": "nine"}])
    before = counts(session)
    report = load(session, study, kind, [TREE])
    assert report.import_id is not None
    after = counts(session)
    assert after != before
    undone = undo_import(session, study, report.import_id)
    assert undone.undone_at is not None
    assert counts(session) == before
    with pytest.raises(Conflict, match="undone already"):
        undo_import(session, study, report.import_id)
    again = load(session, study, kind, [TREE])
    assert (again.stored, again.imported_before) == (report.stored, None)
    assert counts(session) == after


def test_labels_of_prompts_that_are_not_taken_are_listed_by_reason(
    session: Session, study: Study
) -> None:
    study.preparation = {"max_tokens": 100}
    users = {split_of(study, f"user {n}"): f"user {n}" for n in range(1000)}
    near = "List ten ways in which a small town could use less water in a dry summer"
    load(session, study, "prompts", [{"prompt": near, "user": users[Split.test]}])
    rows = [
        {"prompt": "Say 1.", "completion": "One."},
        {"prompt": f"{near}.", "completion": "Mulch.", "user": users[Split.train]},
        {"prompt": "tell me more " * 100, "completion": "More."},
        {"prompt": "tell me more " * 100, "completion": "No."},
        {"prompt": "Say 1.", "completion": "One."},
    ]
    report = load(session, study, "demonstrations", rows)
    assert (report.read, report.stored, report.duplicates) == (5, 1, 1)
    assert report.folded == {"over_length": 2, "other_side": 1}
    said = report.sentences()
    assert "2 left out: the prompt has more tokens than the study takes (lines 3, 4)." in said
    reason = "the prompt is nearly the same as one that is here in another split"
    assert f"1 left out: {reason} (line 2)." in said
    assert report.counts()["over the length"] == 2


def test_an_import_on_which_something_depends_stays(session: Session, study: Study) -> None:
    prompts = load(session, study, "prompts", [{"prompt": "Say 1.", "prompt_id": 1}]).import_id
    completions = load(
        session, study, "completions", [{"prompt_id": 1, "model": "m", "completion": "One."}]
    ).import_id
    labels = load(session, study, "demonstrations", [{"prompt": "Say 2.", "output": "Two."}])
    assert prompts is not None
    assert completions is not None
    assert labels.import_id is not None
    with pytest.raises(Conflict, match="1 completions from elsewhere answer its prompts"):
        undo_import(session, study, prompts)
    freeze_demonstrations(session, study)
    with pytest.raises(Conflict, match="1 places in snapshots hold its labels"):
        undo_import(session, study, labels.import_id)
    undo_import(session, study, completions)
    assert session.scalars(select(Policy)).all() == []
    prompt = session.scalars(select(Prompt).where(Prompt.text == "Say 1.")).one()
    make.make_demonstration_batch(session, study, [prompt])
    with pytest.raises(Conflict, match="1 label tasks ask about its prompts"):
        undo_import(session, study, prompts)
    for unknown in (0, -1, 10**30, labels.import_id + 1000):
        with pytest.raises(NotFound):
            undo_import(session, study, unknown)
    other = make.make_study(session, "Another")
    with pytest.raises(NotFound):
        undo_import(session, other, prompts)


REAL = {
    # In 5 of 2,312 the dialogues part before the last turn; 2 prompts come twice.
    ("comparisons", "hh_rlhf/harmless_base_test.jsonl.gz"): (2312, 2307, 5),
    # 212 questions have two or more ranked answers.
    ("rankings", "oasst/en_100_trees.jsonl.gz"): (212, 212, 0),
}


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize(("kind", "path"), REAL)
def test_published_sets_come_in_as_they_are(
    session: Session, study: Study, kind: str, path: str
) -> None:
    read, taken, left_out = REAL[kind, path]
    with (DATA / path).open("rb") as file:
        report = IMPORTERS[kind](session, study, file, file_name=Path(path).name)
        again = IMPORTERS[kind](session, study, file, file_name="renamed.gz")
    assert (report.read, sum(report.left_out.values())) == (read, left_out)
    assert report.stored + report.duplicates + sum(report.folded.values()) == taken
    assert report.stored > 0.97 * taken
    assert again.stored == 0
    assert freeze_rankings(session, study).records <= report.stored
