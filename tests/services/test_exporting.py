"""Datasets on their way out: every kind, what is left out of it and why, and who can read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.errors import Invalid, NotFound
from app.models import (
    ExportFormat,
    ExportKind,
    ExportShape,
    Membership,
    PiiState,
    Pool,
    Prompt,
    Split,
    Study,
    User,
)
from app.services import labels
from app.services.exporting.columns import Indexed, Messages, Type, json_lines, table
from app.services.exporting.export import write_export
from app.services.exporting.query import ExportQuery
from app.services.snapshots import freeze_rankings, pseudonym
from tests import factories as make


def rank(
    session: Session, membership: Membership, tiers: Sequence[int], **fields: str
) -> dict[str, int]:
    """Give the next ranking these tiers, by the order of the completions' ids.

    Answers with the place of each letter's completion in that order; in `fields`, `{0}` of a name
    stands for the first completion's letter.
    """
    assignment = make.take_next(session, membership)
    by_id = sorted(assignment.items, key=lambda item: item.completion_id)
    letters = [item.letter for item in by_id]
    form = {f"tier_{letter}": str(t) for letter, t in zip(letters, tiers, strict=True)}
    form |= {name.format(*letters): value for name, value in fields.items()}
    labels.submit(session, assignment, session.get_one(User, membership.user_id), form)
    return {letter: place for place, letter in enumerate(letters)}


def write(
    session: Session, study: Study, folder: Path, kind: ExportKind, **wanted: Any
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The manifest, and the rows of each split as JSONL has them."""
    folder.mkdir()
    manifest = write_export(session, study, ExportQuery(kind=kind, **wanted), folder)
    rows = {
        path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in sorted(folder.glob("jsonl/*.jsonl"))
    }
    return manifest, rows


@pytest.fixture
def study(session: Session) -> Study:
    return make.make_study(session)


def test_demonstrations_of_each_split_and_shape(
    session: Session, study: Study, tmp_path: Path
) -> None:
    prompts = [
        make.make_prompt(session, study, 'Say "hi".\nPlease.'),
        make.make_prompt(session, study, "Sag etwas: ü🙂", split=Split.valid),
    ]
    make.make_demonstration_batch(session, study, prompts)
    ann = make.make_labeler(session, study)
    for text in ("Hi!", "Etwas."):
        make.give_label(session, ann, {"text": text})

    manifest, rows = write(session, study, tmp_path / "text", ExportKind.sft)
    assert {split: len(of) for split, of in rows.items()} == {"train": 1, "valid": 1}
    row = rows["train"][0]
    assert (row["prompt"], row["completion"]) == ('Say "hi".\nPlease.', "Hi!")
    assert row["labeler"] == pseudonym(study, ann.user_id)
    assert (row["origin"], row["guideline_version"], row["simulated"]) == ("customer", 1, False)
    assert manifest["rows_by_origin_and_split"] == {"customer": {"train": 1, "valid": 1}}
    assert manifest["labelers"] == {pseudonym(study, ann.user_id): 2}
    assert manifest["guideline_versions"] == {"1": 2}
    for file in manifest["files"]:
        data = (tmp_path / "text" / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())

    _, rows = write(session, study, tmp_path / "chat", ExportKind.sft, shape=ExportShape.messages)
    assert rows["valid"][0]["messages"] == [
        {"role": "user", "content": "Sag etwas: ü🙂"},
        {"role": "assistant", "content": "Etwas."},
    ]

    again, _ = write(session, study, tmp_path / "again", ExportKind.sft)
    assert again["sha256"] == manifest["sha256"]
    only, rows = write(session, study, tmp_path / "valid", ExportKind.sft, splits=(Split.valid,))
    assert (only["rows"], list(rows)) == (1, ["valid"])


def test_tie_groups_and_the_comparisons_that_follow(
    session: Session, study: Study, tmp_path: Path
) -> None:
    """Tiers 2, 3, 1, 2: c best, a and d tied, b worst. Six pairs, one of them a tie."""
    prompt = make.make_prompt(session, study, "Rank.")
    make.make_completions(session, prompt, ["a", "b", "c", "d"])
    make.make_ranking_batch(session, study, [prompt])
    rank(session, make.make_labeler(session, study), [2, 3, 1, 2])

    _, rows = write(session, study, tmp_path / "rankings", ExportKind.rankings)
    row = rows["train"][0]
    assert sorted(row["completions"]) == ["a", "b", "c", "d"]
    named = [{row["completions"][place] for place in group} for group in row["groups"]]
    assert named == [{"c"}, {"a", "d"}, {"b"}]
    assert row["policies"][row["completions"].index("c")] == "policy-2"

    manifest, rows = write(session, study, tmp_path / "pairs", ExportKind.comparisons)
    pairs = {(r["chosen"], r["rejected"]): r["tiers_apart"] for r in rows["train"]}
    assert pairs == {
        ("c", "a"): 1, ("c", "b"): 2, ("c", "d"): 1, ("a", "b"): 1, ("d", "b"): 1
    }  # fmt: skip
    assert manifest["rows"] == 5
    assert manifest["prompts_by_origin_and_split"] == {"customer": {"train": 1}}
    assert {r["chosen_policy"] for r in rows["train"] if r["chosen"] == "c"} == {"policy-2"}

    _, rows = write(
        session, study, tmp_path / "chat", ExportKind.comparisons, shape=ExportShape.messages
    )
    assert rows["train"][0]["prompt"] == [{"role": "user", "content": "Rank."}]
    assert {r["rejected"][0]["content"] for r in rows["train"]} == {"a", "b", "d"}


def test_preferences_of_each_labeler_and_their_mean(
    session: Session, study: Study, tmp_path: Path
) -> None:
    """Ann: a above b. Ben: a and b tied. So a is preferred by 1 and 0.5 of them: 0.75."""
    prompt = make.make_prompt(session, study)
    make.make_completions(session, prompt, ["a", "b"])
    make.make_ranking_batch(session, study, [prompt], labels_wanted=2)
    ann, ben = make.make_labeler(session, study), make.make_labeler(session, study)
    rank(session, ann, [1, 2])
    rank(session, ben, [1, 1])
    manifest, rows = write(session, study, tmp_path / "out", ExportKind.preferences)
    row = rows["train"][0]
    assert (row["completion_a"], row["completion_b"], row["soft_label"]) == ("a", "b", 0.75)
    assert dict(zip(row["labelers"], row["preferences"], strict=True)) == {
        pseudonym(study, ann.user_id): 1.0,
        pseudonym(study, ben.user_id): 0.5,
    }
    assert (manifest["rows"], manifest["prompts"]) == (1, 1)


def test_ratings_with_metadata(session: Session, study: Study, tmp_path: Path) -> None:
    prompt = make.make_prompt(session, study)
    make.make_completions(session, prompt, ["a", "b"])
    make.make_ranking_batch(session, study, [prompt])
    fields = {
        "overall_{0}": "7",
        "overall_{1}": "2",
        "violent_content_{1}": "yes",
        "prompt_ambiguous": "yes",
    }
    rank(session, make.make_labeler(session, study), [1, 2], **fields)
    _, rows = write(session, study, tmp_path / "out", ExportKind.ratings)
    found = {row["completion"]: row for row in rows["train"]}
    assert {text: row["overall"] for text, row in found.items()} == {"a": 7, "b": 2}
    assert found["b"]["violent_content"] is True
    assert found["b"]["hallucination"] is None
    assert all(row["prompt_ambiguous"] is True for row in found.values())


def test_ratings_left_out_are_those_that_would_be_rows(
    session: Session, study: Study, tmp_path: Path
) -> None:
    ann = make.make_labeler(session, study)
    for fields in ({"overall_{0}": "7", "overall_{1}": "2"}, {"overall_{0}": "5"}, {}):
        prompt = make.make_prompt(session, study)
        make.make_completions(session, prompt, ["a", "b"])
        make.make_ranking_batch(session, study, [prompt])
        rank(session, ann, [1, 2], **fields)
        prompt.pii_state = PiiState.held
    session.flush()
    manifest, rows = write(session, study, tmp_path / "usual", ExportKind.ratings)
    assert (manifest["counted"], manifest["left_out"], rows) == ("ratings", {"held": 3}, {})
    asked, rows = write(session, study, tmp_path / "asked", ExportKind.ratings, held=True)
    assert (asked["left_out"], len(rows["train"])) == ({}, 3)
    rankings, _ = write(session, study, tmp_path / "rankings", ExportKind.rankings)
    assert (rankings["counted"], rankings["left_out"]) == ("rankings", {"held": 3})


def test_what_is_left_out_is_counted_under_its_reason(session: Session, tmp_path: Path) -> None:
    study = make.make_study(session, rehearsal=True)
    prompts = [make.make_prompt(session, study, f"Prompt {i}.") for i in range(3)]
    make.make_demonstration_batch(session, study, prompts, labels_wanted=3)
    people = {
        name: make.make_labeler(session, study, simulated=name == "simulated")
        for name in ("stays", "leaves", "simulated")
    }
    for membership in people.values():
        for _ in prompts:
            make.give_label(session, membership)
    people["leaves"].withdrawn_at = func.now()
    prompts[2].pii_state = PiiState.held
    session.flush()
    # 9 labels: 3 simulated; of the other 6, 3 of who left; of the last 3, 1 about a held prompt.
    manifest, rows = write(session, study, tmp_path / "usual", ExportKind.sft)
    assert manifest["left_out"] == {"simulated": 3, "withdrawn": 3, "held": 1}
    assert {row["prompt"] for row in rows["train"]} == {"Prompt 0.", "Prompt 1."}
    assert "Left out: 3 demonstrations given by simulated" in (
        tmp_path / "usual" / "jsonl" / "README.md"
    ).read_text("utf-8")
    asked = {"simulated": True, "withdrawn": True, "held": True}
    manifest, _ = write(session, study, tmp_path / "all", ExportKind.sft, **asked)
    assert (manifest["rows"], manifest["left_out"]) == (9, {})

    manifest, rows = write(session, study, tmp_path / "prompts", ExportKind.prompts)
    assert manifest["left_out"] == {"held": 1}
    session.execute(
        update(Prompt).where(Prompt.id == prompts[0].id).values(withdrawn_at=func.now())
    )
    manifest, rows = write(session, study, tmp_path / "fewer", ExportKind.prompts)
    assert manifest["left_out"] == {"held": 1, "withdrawn": 1}
    assert [row["prompt"] for row in rows["train"]] == ["Prompt 1."]


def test_labels_that_judge_are_left_out_unless_asked_for(
    session: Session, study: Study, tmp_path: Path
) -> None:
    make.make_ranking_batch(session, study, 2, pool=Pool.heldout, k=2)
    judge = make.make_labeler(session, study, pool=Pool.heldout)
    for _ in range(2):
        rank(session, judge, [1, 2])
    manifest, _ = write(session, study, tmp_path / "usual", ExportKind.comparisons)
    assert (manifest["rows"], manifest["files"], manifest["left_out"]) == (0, [], {"heldout": 2})
    manifest, rows = write(session, study, tmp_path / "asked", ExportKind.comparisons, heldout=True)
    assert {row["pool"] for row in rows["train"]} == {"heldout"}
    assert manifest["rows"] == 2


def test_an_export_of_a_snapshot_has_its_labels_and_no_later_ones(
    session: Session, study: Study, tmp_path: Path
) -> None:
    make.make_ranking_batch(session, study, 2, k=2)
    ann = make.make_labeler(session, study)
    rank(session, ann, [1, 2])
    snapshot = freeze_rankings(session, study)
    rank(session, ann, [1, 2])
    manifest, _ = write(
        session, study, tmp_path / "out", ExportKind.rankings, snapshot_id=snapshot.id
    )
    assert manifest["rows"] == 1
    assert manifest["snapshot"] == {"id": snapshot.id, "sha256": snapshot.sha256}
    now, _ = write(session, study, tmp_path / "now", ExportKind.rankings)
    assert now["rows"] == 2


def test_everything_of_a_labeler_and_about_a_prompt(
    session: Session, study: Study, tmp_path: Path
) -> None:
    prompt = make.make_prompt(session, study, "Rank.")
    make.make_completions(session, prompt, ["a", "b"])
    make.make_ranking_batch(session, study, [prompt])
    make.make_demonstration_batch(session, study, [prompt])
    ann = make.make_labeler(session, study)
    rank(session, ann, [2, 1], **{"overall_{0}": "3"})
    make.give_label(session, ann, {"text": "Mine."})

    _, rows = write(session, study, tmp_path / "ann", ExportKind.labeler, user_id=ann.user_id)
    of = {kind: [r for r in rows["records"] if r["kind"] == kind] for kind in KINDS}
    assert [len(of[kind]) for kind in KINDS] == [2, 1, 1]
    assert of["demonstration"][0]["text"] == "Mine."
    ranking = of["ranking"][0]
    assert [ranking["completions"][p] for group in ranking["groups"] for p in group] == ["b", "a"]
    rated = json.loads(ranking["ratings"])[ranking["completions"].index("a")]
    assert rated["overall"] == 3
    text = (tmp_path / "ann" / "jsonl" / "records.jsonl").read_text("utf-8")
    assert "policy" not in text  # a labeler stays blind

    _, rows = write(session, study, tmp_path / "prompt", ExportKind.prompt, prompt_id=prompt.id)
    kinds = [row["kind"] for row in rows["records"]]
    assert kinds == ["prompt", "demonstration", *["completion"] * 2, "ranking", *["label_task"] * 2]
    with pytest.raises(NotFound):
        write(session, study, tmp_path / "none", ExportKind.prompt, prompt_id=prompt.id + 1)


KINDS = ("assignment", "demonstration", "ranking")


def test_queries_that_mean_nothing_are_refused() -> None:
    for wanted in (
        {"kind": "labeler"},
        {"kind": "sft", "prompt_id": 1},
        {"kind": "rankings", "shape": "messages"},
        {"kind": "sft", "formats": []},
        {"kind": "sft", "splits": ["dev"]},
        {"kind": "all"},
        {"kind": "sft", "heldot": True},
        {},
    ):
        with pytest.raises(Invalid):
            ExportQuery.from_json(wanted)
    query = ExportQuery(kind=ExportKind.sft, heldout=True, formats=(ExportFormat.jsonl,))
    assert ExportQuery.from_json(json.loads(json.dumps(query.to_json()))) == query


def test_columns_as_json_and_as_arrow() -> None:
    chunk = {
        "t": Indexed(["a", None], [0, 1, 0]),
        "n": Indexed([5], [0, 0, 0]),
        "m": Messages(
            [("user", Indexed(["x"], [0, 0, 0])), ("assistant", Indexed(["y", "z"], [1, 0, 1]))]
        ),
    }
    rows = [json.loads(line) for line in json_lines(chunk).splitlines()]
    fields = {"t": Type.text, "n": Type.integer, "m": Type.messages}
    assert table(chunk, fields).to_pylist() == rows
    assert [row["t"] for row in rows] == ["a", None, "a"]
    assert rows[0]["m"][1] == {"role": "assistant", "content": "z"}
