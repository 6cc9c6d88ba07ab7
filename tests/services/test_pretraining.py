"""Text for the pretraining mix of rounds whose base model comes from elsewhere."""

from __future__ import annotations

import io
import json

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import storage
from app.errors import Conflict, Invalid
from app.models import Snapshot, Split, Study
from app.services import pretraining, rounds
from app.services.importing.problems import ImportRefused
from app.services.round_config import round_config
from app.services.round_context import Context
from tests import factories as make


@pytest.fixture
def study(session: Session) -> Study:
    study = make.make_study(session)
    for split, count in ((Split.train, 10), (Split.valid, 4), (Split.test, 4)):
        for _ in range(count):
            make.make_prompt(session, study, split=split)
    return study


def give(session: Session, study: Study, *texts: object, name: str = "web.jsonl") -> Snapshot:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    return pretraining.import_text(session, study, io.BytesIO(lines.encode()), file_name=name)


def test_the_newest_text_is_mixed_in(session: Session, study: Study) -> None:
    first = give(session, study, "One.", "Two.\nOf two lines.")
    assert (first.records, first.counts) == (2, {"texts": 2, "characters": 22})
    lines = storage.fetch(first.uri).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["One.", "Two.\nOf two lines."]
    assert give(session, study, "One.", "Two.\nOf two lines.").id == first.id
    second = give(session, study, "Three.")
    assert pretraining.study_text(session, study) == second
    with pytest.raises(Conflict, match=f"snapshot {first.id} already, and not the newest"):
        give(session, study, "One.", "Two.\nOf two lines.")
    assert pretraining.study_text(session, make.make_study(session)) is None


def test_a_file_with_a_line_that_is_no_text_is_refused_whole(
    session: Session, study: Study
) -> None:
    with pytest.raises(ImportRefused) as refused:
        give(session, study, "One.", 2, " ", "a\x00b")
    assert [problem.split(":")[0] for problem in refused.value.problems] == [
        "line 2",
        "line 3",
        "line 4",
    ]
    assert session.scalar(select(func.count(Snapshot.id))) == 0


def test_a_round_with_a_model_from_elsewhere_needs_text(session: Session, study: Study) -> None:
    named = {
        "base_model": "gpt2",
        "demonstrations": 4,
        "ranking_prompts": 4,
        "evaluation_prompts": 2,
    }
    with pytest.raises(Invalid, match="plumbline pretraining-text FILE"), session.begin_nested():
        rounds.start_round(session, study, round_config(named), seed=1, started_by=None)
    without = round_config({**named, "overrides": {"ppo": {"ptx_coefficient": 0}}})
    round_ = rounds.start_round(session, study, without, seed=1, started_by=None)
    assert Context.load(session, round_).pretraining is None
    rounds.cancel(session, round_)
    text = give(session, study, "One.")
    round_ = rounds.start_round(session, study, round_config(named), seed=1, started_by=None)
    assert Context.load(session, round_).pretraining == text


def test_the_paper_s_presets_are_not_for_a_starter(session: Session, study: Study) -> None:
    config = round_config({"demonstrations": 4, "ranking_prompts": 4, "evaluation_prompts": 2})
    with pytest.raises(Invalid, match="Name a base model"), session.begin_nested():
        rounds.start_round(session, study, config, seed=1, started_by=None)
