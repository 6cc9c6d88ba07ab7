"""A small round, played whole: live server, workers, trainer, simulated labelers over HTTP.

And what must hold afterwards: lineage both ways, blind pools, and a second round that goes on from
the first one's samples.
"""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from rich.console import Console
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import demo, storage
from app.db import make_engine
from app.models import (
    Assignment,
    AssignmentItem,
    Batch,
    Checkpoint,
    Completion,
    LabelTask,
    LabelTaskCompletion,
    Policy,
    Pool,
    Prompt,
    Ranking,
    Run,
    RunInput,
    RunMetric,
    RunState,
    Snapshot,
    SnapshotRanking,
    Split,
    Study,
    User,
)
from app.services.batch_progress import batch_progress
from app.supervisor import Supervisor
from tests import factories as make

SMALL: dict[str, Any] = {
    "demonstrations": 20,
    "ranking_prompts": 20,
    "contrast_share": 0.34,
    "ranking_overlap": 0.5,
    "evaluation_prompts": 8,
    "evaluation_labels": 2,
    "next_ranking_prompts": 20,
    "overrides": json.dumps(
        {
            "base": {"steps": 25},
            "sft": {"epochs": 1},
            "rl-init": {"epochs": 1},
            "ppo": {"episodes": 64, "batch_episodes": 32},
        }
    ),
}


def _silent() -> Console:
    return Console(file=io.StringIO())


@pytest.mark.train
def test_a_round_is_played_through_the_real_parts(live_server: Supervisor) -> None:
    url = live_server.services.urls.database_url
    found = demo.set_up(live_server.settings, url, seed=3)
    _complete_test_prompts(url, "elsewhere")
    judged = {**SMALL, "baselines": "elsewhere", "best_of": 3}
    status = demo.play(live_server.url, found, 3, _silent(), judged)

    assert status["state"] == "finished"
    assert {stage["state"] for stage in status["stages"]} == {"done"}
    report = status["report"]
    pairs = {(row["policy"], row["baseline"]) for row in report["win_rates"]}
    assert {("ppo-ptx", "sft"), ("sft", "base"), ("ppo-ptx", "base")} <= pairs
    assert {("ppo-ptx", "elsewhere"), ("elsewhere", "sft")} <= pairs
    assert {("ppo-ptx", "best-of-3 of sft"), ("best-of-3 of sft", "sft")} <= pairs
    for row in report["win_rates"]:
        assert row["judgements"] == 16
        assert 0 <= row["low"] <= row["win_rate"] <= row["high"] <= 1
    assert report["mean_scores"].keys() == {"base", "sft", "ppo-ptx", "best-of-3 of sft"}
    assert report["labels"]["demonstrations"] == 20
    assert report["rm_accuracy"]["comparisons"] > 0

    _every_page_of_it_renders(live_server.url, found)
    engine = make_engine(url)
    with Session(engine) as session:
        _lineage_reaches_from_checkpoint_to_label_and_back(session)
        _ppo_started_from_a_policy_of_its_own(session)
        _the_model_card_names_its_snapshot_and_no_labeler(session)
        _held_out_labels_stay_out_of_snapshots(session)
        _orders_were_shuffled_and_kept(session)
        _a_third_of_what_is_ranked_is_an_earlier_policys(session)
        _samples_of_the_new_policy_wait_to_be_ranked(session)

    second = demo.Researcher(live_server.url, found)
    try:
        number = second.start_round(4, **{**SMALL, "demonstrations": 0})
        assert number == 2
        states = {stage["name"]: stage["state"] for stage in second.status(2)["stages"]}
    finally:
        second.close()
    # Nothing new to imitate: base, SFT and PPO's start are taken over, though there is a reward
    # model that could choose their epochs; and the waiting samples are ranked next.
    for name in ("demonstrations", "base", "sft", "sample-sft", "rl-init"):
        assert states[name] == "reused"
    assert states["rankings"] == "waiting"
    engine.dispose()


def _complete_test_prompts(url: str, name: str) -> None:
    """An external policy that the round can take as a baseline."""
    engine = make_engine(url)
    with Session(engine) as session:
        study = session.scalars(select(Study)).one()
        policy = make.make_policy(session, study, name)
        session.add_all(
            Completion(
                study_id=study.id, prompt_id=prompt_id, policy_id=policy.id, text="I do not know."
            )
            for prompt_id in session.scalars(select(Prompt.id).where(Prompt.split == Split.test))
        )
        session.commit()
    engine.dispose()


def _every_page_of_it_renders(url: str, found: demo.Demo) -> None:
    study = f"/studies/{found.slug}"
    login = {"username": "researcher", "password": found.logins["researcher"]}
    with httpx.Client(base_url=url) as client:
        client.post("/login", data=login)
        paths = ["", "/rounds/new", "/rounds/1", "/batches", "/prompts", "/people"]
        paths += [
            f"/runs/{number}{tail}" for number in range(1, 8) for tail in ("", "/metrics.json")
        ]
        for path in paths:
            for headers in ({}, {"HX-Request": "true"}):
                assert client.get(study + path, headers=headers).status_code == 200, path
        fragment = client.get(f"{study}/rounds/1", headers={"HX-Request": "true"}).text
        assert "<html" not in fragment
        assert "Blind evaluation" in fragment


@pytest.mark.train
def test_a_killed_worker_goes_on_from_where_it_was(live_server: Supervisor) -> None:
    url = live_server.services.urls.database_url
    found = demo.set_up(live_server.settings, url, seed=3)
    long_enough = {"base": {"steps": 150, "checkpoint_seconds": 1.0}}
    researcher = demo.Researcher(live_server.url, found)
    researcher.start_round(3, **{**SMALL, "overrides": json.dumps(long_enough)})
    researcher.close()
    engine = make_engine(url)
    with Session(engine) as session:
        run = session.scalars(select(Run)).one()
        _wait(lambda: _reload(session, run).step >= 60)
        os.kill(live_server.pid_of("worker-train"), signal.SIGKILL)
        _wait(lambda: _reload(session, run).state is RunState.succeeded)
        assert run.attempt >= 2
        log = (live_server.settings.runs_path / f"{run.id:06d}" / "log.txt").read_text()
        assert "train 10/150" in log
        assert log.count("train 10/150") == 1  # begun once, then gone on with
        steps = session.scalars(
            select(RunMetric.step).where(RunMetric.phase == "train").order_by(RunMetric.step)
        ).all()
        assert steps == list(range(10, 151, 10))
    engine.dispose()


def _reload(session: Session, run: Run) -> Run:
    session.rollback()
    session.refresh(run)
    return run


def _wait(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.3)


def _a_third_of_what_is_ranked_is_an_earlier_policys(session: Session) -> None:
    """The base policy's beside the SFT policy's now, the SFT policy's beside PPO-ptx's next."""
    for finished, earlier, own in ((True, "base", "sft"), (False, "sft", "ppo-ptx")):
        rows = session.execute(
            select(LabelTask.id, Policy.label, func.count())
            .join(Batch, Batch.id == LabelTask.batch_id)
            .join(LabelTaskCompletion, LabelTaskCompletion.label_task_id == LabelTask.id)
            .join(Completion, Completion.id == LabelTaskCompletion.completion_id)
            .join(Policy, Policy.id == Completion.policy_id)
            .where(Batch.stage == "rankings", Batch.round_id.is_not(None) == finished)
            .group_by(LabelTask.id, Policy.label)
        ).all()
        by_task: dict[int, dict[str, int]] = {}
        for task, label, n in rows:
            by_task.setdefault(task, {})[label] = n
        assert by_task
        for counts in by_task.values():
            assert counts.keys() <= {earlier, own}
            # 1 or 2 of 4, at most 3 of 9; fewer where both policies said the same
            assert counts.get(earlier, 0) <= round(0.34 * sum(counts.values())) + 1
        assert sum(c.get(earlier, 0) for c in by_task.values()) >= len(by_task)


def _lineage_reaches_from_checkpoint_to_label_and_back(session: Session) -> None:
    checkpoint = session.scalars(select(Checkpoint).where(Checkpoint.label == "rm")).one()
    snapshot = session.scalars(
        select(Snapshot)
        .join(RunInput, RunInput.snapshot_id == Snapshot.id)
        .where(RunInput.run_id == checkpoint.run_id, RunInput.part == "rankings")
    ).one()
    behind = session.scalars(
        select(SnapshotRanking.ranking_id).where(SnapshotRanking.snapshot_id == snapshot.id)
    ).all()
    assert len(behind) == snapshot.records >= 20
    from_label = session.scalars(
        select(Checkpoint.label)
        .join(RunInput, RunInput.run_id == Checkpoint.run_id)
        .join(SnapshotRanking, SnapshotRanking.snapshot_id == RunInput.snapshot_id)
        .where(SnapshotRanking.ranking_id == behind[0])
    ).all()
    assert from_label == ["rm"]


def _ppo_started_from_a_policy_of_its_own(session: Session) -> None:
    run = session.scalars(select(Run).where(Run.stage == "ppo")).one()
    rows = session.execute(
        select(RunInput.part, Checkpoint.label)
        .join(Checkpoint, Checkpoint.id == RunInput.checkpoint_id)
        .where(RunInput.run_id == run.id)
    )
    assert dict(rows.all()) == {"init": "rl-init", "reference": "sft", "reward": "rm"}


def _the_model_card_names_its_snapshot_and_no_labeler(session: Session) -> None:
    checkpoint = session.scalars(select(Checkpoint).where(Checkpoint.label == "rm")).one()
    snapshot = session.scalars(
        select(Snapshot)
        .join(RunInput, RunInput.snapshot_id == Snapshot.id)
        .where(RunInput.run_id == checkpoint.run_id, RunInput.part == "rankings")
    ).one()
    card = (storage.fetch(checkpoint.uri) / "README.md").read_text(encoding="utf-8")
    assert f"| rankings | #{snapshot.id} | {snapshot.records} |" in card
    assert snapshot.sha256 in card
    assert f"- init: checkpoint sft #{checkpoint.parent_id}" in card
    assert "agree on" in card  # half of the prompts are ranked twice
    assert not [name for name in snapshot.counts["labelers"] if name in card]


def _held_out_labels_stay_out_of_snapshots(session: Session) -> None:
    held_out = session.scalar(
        select(func.count()).select_from(Ranking).where(Ranking.pool == Pool.heldout)
    )
    assert held_out == 16
    assert set(session.scalars(select(SnapshotRanking.pool))) == {Pool.training}
    simulated = select(User.simulated).join(Ranking, Ranking.user_id == User.id)
    assert all(session.scalars(simulated))


def _orders_were_shuffled_and_kept(session: Session) -> None:
    """Were they not, every first card would hold the completion that was drawn first."""
    first = session.execute(
        select(
            AssignmentItem.completion_id,
            func.min(AssignmentItem.completion_id).over(partition_by=AssignmentItem.assignment_id),
            AssignmentItem.position,
        )
    ).all()
    shown_first = [completion == lowest for completion, lowest, position in first if not position]
    assert 0 < sum(shown_first) < len(shown_first)
    assert session.scalar(select(func.count()).select_from(Assignment)) == len(shown_first) + 20


def _samples_of_the_new_policy_wait_to_be_ranked(session: Session) -> None:
    batch = session.scalars(
        select(Batch).where(Batch.stage == "rankings", Batch.round_id.is_(None))
    ).one()
    assert not batch_progress(session, batch).finished
    assert session.scalar(
        select(func.count()).select_from(LabelTask).where(LabelTask.batch_id == batch.id)
    )


@pytest.mark.train
def test_a_failing_trainer_says_why_and_retry_goes_on(live_server: Supervisor) -> None:
    url = live_server.services.urls.database_url
    found = demo.set_up(live_server.settings, url, seed=3)
    wrong = {**SMALL, "overrides": json.dumps({"base": {"stepz": 25}})}
    with pytest.raises(demo.DemoFailed, match="did you mean 'steps'"):
        demo.play(live_server.url, found, 3, _silent(), wrong)

    engine = make_engine(url)
    with Session(engine) as session:
        run = session.scalars(select(Run)).one()
        assert run.state is RunState.failed
        assert run.error is not None
        assert "Traceback" not in run.error
        study = session.get_one(Study, run.study_id)
        assert study.rehearsal
        assert session.scalar(select(func.count()).select_from(Completion)) == 0
    engine.dispose()
