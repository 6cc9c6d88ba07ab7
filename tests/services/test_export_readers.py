"""Exports open unchanged in the libraries that people train with: datasets, pandas, TRL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.models import ExportKind, ExportShape, Split, Study
from app.services.exporting.export import fields_of, write_export
from app.services.exporting.query import CONVERSATIONS, ExportQuery
from tests import factories as make
from tests.services.test_exporting import rank

datasets = pytest.importorskip("datasets", reason="pip install -e '.[dev]'")


@pytest.fixture
def study(session: Session) -> Study:
    """Three prompts, one a split, each with a ranking of three and a demonstration.

    Only the last is rated: the columns of the first splits hold nothing but nulls.
    """
    study = make.make_study(session)
    ann = make.make_labeler(session, study)
    for split in Split:
        prompt = make.make_prompt(session, study, f"A prompt of {split.value}.", split=split)
        make.make_completions(session, prompt, ["a", "b", "c"])
        make.make_ranking_batch(session, study, [prompt])
        rated = {"overall_{0}": "7"} if split is Split.test else {}
        rank(session, ann, [1, 2, 2], **rated)
        make.make_demonstration_batch(session, study, [prompt])
        make.give_label(session, ann)
    return study


def queries(study: Study, session: Session) -> list[ExportQuery]:
    from sqlalchemy import select

    from app.models import Membership, Prompt

    user_id = session.scalars(
        select(Membership.user_id).where(Membership.study_id == study.id)
    ).one()
    prompt_id = session.scalars(select(Prompt.id).order_by(Prompt.id)).first()
    named = {ExportKind.labeler: {"user_id": user_id}, ExportKind.prompt: {"prompt_id": prompt_id}}
    return [
        ExportQuery(kind=kind, shape=shape, **named.get(kind, {}))  # type: ignore[arg-type]
        for kind in ExportKind
        for shape in ExportShape
        if shape is ExportShape.text or kind in CONVERSATIONS
    ]


def test_every_kind_opens_in_datasets_and_pandas(
    session: Session, study: Study, tmp_path: Path
) -> None:
    pandas = pytest.importorskip("pandas")
    for number, query in enumerate(queries(study, session)):
        folder = tmp_path / f"{number}-{query.kind.value}"
        folder.mkdir()
        manifest = write_export(session, study, query, folder)
        fields = list(fields_of(query))
        opened = {
            form: datasets.load_dataset(str(folder / form), cache_dir=str(tmp_path / "cache"))
            for form in ("jsonl", "parquet")
        }
        for form, found in opened.items():
            assert sum(found.num_rows.values()) == manifest["rows"], (query.kind, form)
            assert all(names == fields for names in found.column_names.values())
        for split in opened["jsonl"]:
            assert opened["jsonl"][split].to_list() == opened["parquet"][split].to_list()
            assert opened["jsonl"][split].features == opened["parquet"][split].features

        for file in manifest["files"]:
            path = folder / file["name"]
            frame = (
                pandas.read_json(path, lines=True)
                if file["format"] == "jsonl"
                else pandas.read_parquet(path)
            )
            assert (len(frame), list(frame.columns)) == (file["rows"], fields)

        if query.kind is ExportKind.comparisons:  # one file, as it is, without the card
            first = folder / next(f["name"] for f in manifest["files"] if f["format"] == "parquet")
            alone = datasets.load_dataset(
                "parquet", data_files=str(first), cache_dir=str(tmp_path / "cache")
            )
            assert alone["train"].column_names == fields


def test_trl_takes_them_as_they_are(session: Session, study: Study, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl.data_utils")

    def train(kind: ExportKind, shape: ExportShape) -> Any:
        folder = tmp_path / f"{kind.value}-{shape.value}"
        folder.mkdir()
        write_export(session, study, ExportQuery(kind=kind, shape=shape), folder)
        found = datasets.load_dataset(str(folder / "jsonl"), cache_dir=str(tmp_path / "cache"))
        return found["train"]

    for shape in ExportShape:
        chat = shape is ExportShape.messages
        pairs = train(ExportKind.comparisons, shape)
        demonstrations = train(ExportKind.sft, shape)
        prompts = train(ExportKind.prompts, shape)
        for found in (pairs, demonstrations, prompts):
            assert trl.is_conversational(found[0]) is chat
        assert len(pairs) == 2  # a above b and c, which are tied
        # TRL finds the prompt, and takes pairs apart into completions with a label.
        assert trl.maybe_extract_prompt(pairs[0])["prompt"] == pairs[0]["prompt"]
        unpaired = trl.maybe_unpair_preference_dataset(
            pairs.select_columns(["prompt", "chosen", "rejected"])
        )
        assert sorted(unpaired["label"]) == [False, False, True, True]

    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    for found in (
        train_rows(tmp_path, "sft-messages"),
        train_rows(tmp_path, "comparisons-messages"),
    ):
        rendered = trl.maybe_apply_chat_template(found[0], tokenizer(template))
        text = rendered.get("text") or rendered["prompt"]
        assert text.startswith("<user>A prompt of train.")


def train_rows(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    lines = (tmp_path / name / "jsonl" / "train.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def tokenizer(template: str) -> Any:
    """A tokenizer of whole words, made here: it reaches no hub."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
        chat_template=template,
    )
