"""The pages of policies, and of a reward model's figures, over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from app.models import Checkpoint, CheckpointKind, Run, RunKindName, RunState, Split, Study
from app.services.run_views import run_directory
from tests import factories as make
from tests.routes.conftest import sign_in
from trainer.contract import CROSSVALIDATION, RankingRecord, write_json
from trainer.crossvalidate import summary
from trainer.reward_figures import held_out_figures


@pytest.fixture
def study(db: Session, client: TestClient) -> Study:
    study = make.make_study(db)
    researcher = make.make_researcher(db, study)
    make.make_prompt(db, study, split=Split.test)
    db.commit()
    sign_in(client, researcher.username)
    return study


def make_checkpoints(db: Session, study: Study) -> tuple[int, int]:
    sft, reward = (
        Checkpoint(study_id=study.id, kind=kind, label=label, uri=f"file:///{label}")
        for kind, label in ((CheckpointKind.policy, "sft"), (CheckpointKind.reward_model, "rm"))
    )
    db.add_all([sft, reward])
    db.commit()
    return sft.id, reward.id


def test_without_checkpoints_the_page_says_what_to_do(client: TestClient, study: Study) -> None:
    page = client.get(f"/studies/{study.slug}/policies").text
    assert "No checkpoints yet" in page
    assert "Start a round" in page


def test_the_best_of_n_is_sampled_from_the_page(
    client: TestClient, db: Session, study: Study
) -> None:
    sft, reward = make_checkpoints(db, study)
    form = {"checkpoint": str(sft), "reward": str(reward), "best_of": "16", "splits": "test"}
    answer = client.post(f"/studies/{study.slug}/policies", data=form, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    run = db.get_one(Run, int(answer.headers["location"].rpartition("/")[2]))
    assert run.requests == [
        {"policy": "best-of-16 of sft", "part": "prompts", "n": 1, "best_of": 16}
    ]
    page = client.get(f"/studies/{study.slug}/policies").text
    assert f"best-of-16 of sft #{sft} by #{reward}" in page
    assert "at most 1.84 nats" in page
    assert client.get(answer.headers["location"]).status_code == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best_of": "4", "reward": ""}, "needs a reward model"),
        ({"best_of": "9" * 30}, "Best of n: a whole number from 1 to 1,024."),
        ({"completions": "x"}, "Completions a prompt: a whole number"),
        ({"count": "7"}, "have 1 prompts that can be used; 7 were asked for"),
        ({"splits": []}, "Choose at least one split."),
        ({"checkpoint": "4711"}, "has no policy #4711"),
        ({"checkpoint": ""}, "Checkpoint: a whole number"),
    ],
)
def test_what_is_wrong_is_said_and_kept(
    client: TestClient, db: Session, study: Study, change: dict[str, Any], message: str
) -> None:
    sft, reward = make_checkpoints(db, study)
    form = {"checkpoint": str(sft), "reward": str(reward), "best_of": "2", "splits": ["test"]}
    answer = client.post(f"/studies/{study.slug}/policies", data={**form, **change})
    assert answer.status_code in (404, 422), answer.text
    assert message in answer.text
    assert db.query(Run).count() == 0


def make_reward_run(db: Session, study: Study, **values: Any) -> str:
    run = Run(
        study_id=study.id,
        stage="reward",
        kind=RunKindName.reward,
        seed=0,
        preset="paper",
        config={},
        **values,
    )
    db.add(run)
    db.commit()
    return f"/studies/{study.slug}/runs/{run.id}"


def figures() -> dict[str, Any]:
    """Of three rankings by two labelers, with scores of two members."""
    records = [
        RankingRecord(
            ranking_id=i,
            prompt_id=i,
            prompt="?",
            completions=["a", "b", "c", "d"],
            groups=[[0], [1], [2], [3]],
            split="valid",
            labeler=f"labeler-{i % 2}",
        )
        for i in range(3)
    ]
    scores = [[[2.0, 1.5], [1.0, 1.2], [0.5, 1.4], [-1.0, -2.0]]] * 3
    return asdict(held_out_figures(records, scores)[0])


def test_a_reward_models_page_shows_its_figures(
    client: TestClient, db: Session, study: Study
) -> None:
    result = {"kind": "reward", "metrics": {}, "figures": figures()}
    address = make_reward_run(db, study, state=RunState.succeeded, result=result)
    page = client.get(address).text
    for expected in (
        "By how far apart a labeler put the two",
        "3+",
        "labeler-1",
        "members disagree",
        "Expected calibration error",
        "<polyline",
    ):
        assert expected in page
    assert "Labelers it has not read" not in page
    fragment = client.get(address, headers={"HX-Request": "true"}).text
    assert "<polyline" in fragment
    assert "<html" not in fragment

    fold = {
        "labelers": 1,
        "held_out": {"rate": 0.7, "comparisons": 9},
        "own": {"rate": 0.8, "comparisons": 9},
    }
    directory = run_directory(int(address.rpartition("/")[2]))
    directory.mkdir(parents=True)
    write_json(directory / CROSSVALIDATION, summary([fold, fold]))
    assert "70.0 %" in client.get(address).text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Measured when the run ends."),
        ({"state": RunState.cancelled}, "the run did not end well"),
        ({"state": RunState.succeeded, "result": {"metrics": {}}}, "no ranking of a valid prompt"),
    ],
)
def test_without_figures_the_page_says_why(
    client: TestClient, db: Session, study: Study, values: dict[str, Any], message: str
) -> None:
    assert message in client.get(make_reward_run(db, study, **values)).text
