"""What the form of a round asks about training, and what the page of an SFT run shows."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Round, Run, RunKindName, RunState, Split, Study
from tests import factories as make
from tests.routes.conftest import sign_in
from trainer.contract import SFT_CHOSEN_EPOCH, SFT_VALID_LOSS, SFT_VALID_SCORE


@pytest.fixture
def study(db: Session, client: TestClient) -> Study:
    study = make.make_study(db)
    make.make_researcher(db, study, "rex")
    for split, count in ((Split.train, 20), (Split.valid, 6), (Split.test, 4)):
        for _ in range(count):
            make.make_prompt(db, study, split=split)
    db.commit()
    sign_in(client, "rex")
    return study


FORM = {
    "preset": "paper-6b",
    "base_model": "gpt2",
    "seed": "1",
    "demonstrations": "2",
    "ranking_prompts": "4",
    "completions_min": "4",
    "completions_max": "9",
    "contrast_share": "0",
    "ranking_overlap": "0.1",
    "evaluation_prompts": "2",
    "evaluation_labels": "1",
    "next_ranking_prompts": "2",
}


@pytest.mark.parametrize(("given", "stored"), [({}, True), ({"rl_init": "false"}, False)])
def test_the_form_asks_what_ppo_starts_from(
    client: TestClient, db: Session, study: Study, given: dict[str, str], stored: bool
) -> None:
    page = client.get(f"/studies/{study.slug}/rounds/new").text
    assert '<option value="true" selected>A policy of its own</option>' in page
    named = {"base_model": "gpt2", "overrides": '{"ppo": {"ptx_coefficient": 0}}'}
    answer = client.post(
        f"/studies/{study.slug}/rounds", data=FORM | named | given, follow_redirects=False
    )
    assert answer.status_code == 303, answer.text
    config = db.scalars(select(Round.config)).one()
    assert (config["preset"], config["rl_init"]) == ("paper-6b", stored)
    assert "RL init" in client.get(answer.headers["location"]).text


def test_a_wrong_answer_is_said_and_kept(client: TestClient, study: Study) -> None:
    form = FORM | {"rl_init": "perhaps", "overrides": '{"rl-init": {"epochs": 1}}'}
    answer = client.post(f"/studies/{study.slug}/rounds", data=form)
    assert answer.status_code == 422
    assert "rl_init: Input should be a valid boolean" in answer.text
    assert "&#34;rl-init&#34;" in answer.text


def sft_page(client: TestClient, db: Session, study: Study, **result: Any) -> str:
    run = Run(
        study_id=study.id,
        stage="sft",
        kind=RunKindName.sft,
        seed=0,
        preset="paper",
        config={},
        state=RunState.succeeded,
        result={"kind": "sft", **result},
    )
    db.add(run)
    db.commit()
    return client.get(f"/studies/{study.slug}/runs/{run.id}").text


def test_the_page_of_an_sft_run_shows_the_epochs(
    client: TestClient, db: Session, study: Study
) -> None:
    rows = [
        {"epoch": n, SFT_VALID_LOSS: loss, SFT_VALID_SCORE: score}
        for n, loss, score in ((1, 2.1, -0.5), (2, 2.25, 0.75), (3, 2.375, 0.25))
    ]
    page = sft_page(
        client,
        db,
        study,
        metrics={SFT_CHOSEN_EPOCH: 2.0, SFT_VALID_LOSS: 2.25, SFT_VALID_SCORE: 0.75},
        figures={"epochs": rows, "scored_prompts": 6, "scored_samples": 510},
    )
    assert "510 answers to 6 valid prompts" in page
    assert page.count('<span class="badge good">kept</span>') == 1
    assert '<td>2 <span class="badge good">kept</span></td>' in page
    for shown in ("2.1", "0.75", "0.25"):
        assert shown in page


def test_it_says_when_there_was_nothing_to_choose_by(
    client: TestClient, db: Session, study: Study
) -> None:
    page = sft_page(
        client,
        db,
        study,
        metrics={SFT_CHOSEN_EPOCH: 1.0, SFT_VALID_LOSS: 2.0},
        figures={"epochs": [{"epoch": 1, SFT_VALID_LOSS: 2.0}]},
    )
    assert "The last one: the run had no reward model to choose by." in page
    assert "Mean score" not in page
    assert "Which epoch was kept" not in sft_page(client, db, study, metrics={}, figures={})
