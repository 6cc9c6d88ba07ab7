"""What a round's training stages start, what they start it from, and what they take over."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import (
    Checkpoint,
    CheckpointKind,
    Round,
    Run,
    RunKindName,
    Split,
    Study,
)
from app.services import outcomes, rounds, runs, withdrawals
from app.services.round_config import RL_INIT, round_config
from app.services.round_context import Context
from app.services.stages import STAGES
from tests import factories as make
from trainer.contract import RunResult

ELSEWHERE = {"base_model": "gpt2", "overrides": {"ppo": {"ptx_coefficient": 0}}}
START = {stage.name: stage.start for stage in STAGES}


@pytest.fixture
def study(session: Session) -> Study:
    """A study with prompts for several rounds, and two demonstrations."""
    study = make.make_study(session)
    for split, count in ((Split.train, 40), (Split.valid, 10), (Split.test, 4)):
        for _ in range(count):
            make.make_prompt(session, study, split=split)
    demonstrate(session, study, 2)
    return study


def demonstrate(session: Session, study: Study, count: int) -> int:
    """So many demonstrations by a new labeler; who it is."""
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, count)
    for _ in range(count):
        make.give_label(session, labeler)
    return labeler.user_id


def begin(session: Session, study: Study, **values: Any) -> Context:
    """A new round after all others were cancelled, with its base model."""
    for round_ in rounds.rounds_of(session, study):
        if not round_.finished_at:
            rounds.cancel(session, round_)
    small = {
        "preset": "starter",
        "demonstrations": 0,
        "ranking_prompts": 4,
        "evaluation_prompts": 2,
        "starter_texts": 100,
    }
    config = round_config({**small, **values})
    round_ = rounds.start_round(session, study, config, seed=len(values), started_by=None)
    context = Context.load(session, round_)
    return finish(context, "base") if "base" in context.runs else context


def finish(context: Context, stage: str) -> Context:
    """What a worker writes when the stage's run has succeeded; the round, pushed on."""
    session, run = context.session, context.runs[stage]
    claim = runs.claim(session, run.id, "here")
    assert claim is not None
    result = RunResult(kind=run.kind.value, model="model")
    runs.succeed(session, claim, result.to_json())
    outcomes.register_checkpoint(session, run, result, f"file:///run-{run.id}")
    rounds.advance(session, context.round.id)
    return Context.load(session, context.round)


def reward_model(context: Context) -> Checkpoint:
    """The round's reward model, as if its rankings were there."""
    inputs = {"init": context.checkpoint("sft")}
    context.start_run("reward", RunKindName.reward, inputs)
    return finish(context, "reward").checkpoint("reward")


def inputs_of(session: Session, run: Run) -> dict[str, int | None]:
    """Ids of its snapshots and checkpoints, by part."""
    study = session.get_one(Study, run.study_id)
    found = runs.get_run(session, study, run.id).inputs
    return {item.part: item.checkpoint_id or item.snapshot_id for item in found}


def test_ppo_starts_from_a_policy_of_its_own(session: Session, study: Study) -> None:
    context = begin(session, study, overrides={RL_INIT: {"epochs": 1}, "sft": {"epochs": 9}})
    context = finish(context, "sft")
    made, sft = context.runs[RL_INIT], context.runs["sft"]
    assert (made.kind, made.preset, made.config) == ("sft", "starter-rl-init", {"epochs": 1})
    assert (sft.preset, sft.config) == ("starter", {"epochs": 9})
    base = context.checkpoint("base")
    texts = inputs_of(session, context.runs["base"])["pretraining"]
    demonstrations = inputs_of(session, sft)["demonstrations"]
    assert inputs_of(session, made) == {
        "init": base.id,
        "demonstrations": demonstrations,
        "pretraining": texts,
    }
    context = finish(context, RL_INIT)
    start = context.checkpoint(RL_INIT)
    assert (start.label, start.parent_id) == ("rl-init", base.id)
    reward = reward_model(context)
    context = Context.load(session, context.round)
    assert {k: v for k, v in inputs_of(session, context.runs["ppo"]).items() if k != "prompts"} == {
        "init": start.id,
        "reference": context.checkpoint("sft").id,
        "reward": reward.id,
        "pretraining": texts,
    }


@pytest.mark.parametrize("values", [{"rl_init": False}, {**ELSEWHERE}])
def test_or_from_the_sft_policy(session: Session, study: Study, values: dict[str, Any]) -> None:
    context = finish(begin(session, study, **values), "sft")
    assert RL_INIT not in context.runs
    assert context.checkpoint(RL_INIT) == context.checkpoint("sft")
    reward_model(context)
    ppo = Context.load(session, context.round).runs["ppo"]
    assert inputs_of(session, ppo)["init"] == context.checkpoint("sft").id


def test_ppo_waits_for_what_it_starts_from(session: Session, study: Study) -> None:
    context = finish(begin(session, study), "sft")
    reward_model(context)
    states = {s.stage.name: s.state for s in rounds.statuses(session, context.round)}
    assert (states["reward"], states[RL_INIT], states["ppo"]) == ("done", "running", "pending")
    assert "ppo" in finish(Context.load(session, context.round), RL_INIT).runs


def test_a_reward_model_of_an_earlier_round_chooses_the_epoch(
    session: Session, study: Study
) -> None:
    first = finish(begin(session, study), "sft")
    assert "reward" not in inputs_of(session, first.runs["sft"])
    labeler = demonstrate(session, study, 1)
    without = begin(session, study)  # the first round made no reward model
    assert "reward" not in inputs_of(session, without.runs["sft"])
    reward_model(first)
    latest = reward_model(finish(without, "sft"))
    demonstrate(session, study, 1)
    context = finish(begin(session, study), "sft")
    run = context.runs["sft"]
    assert inputs_of(session, run)["reward"] == latest.id
    assert "reward" not in inputs_of(session, context.runs[RL_INIT])
    # The lineage knows it: what its rankings lose, the SFT policy has seen.
    run = runs.get_run(session, study, run.id)
    assert outcomes.about_run(session, study, run)["parents"]["reward"] == (
        f"checkpoint rm #{latest.id}"
    )
    withdrawals.withdraw_labeler(session, study, labeler)
    marked = {m.checkpoint.id for m in withdrawals.marked_checkpoints(session, study)}
    assert {latest.id, context.checkpoint("sft").id} <= marked


def test_a_newer_reward_model_alone_is_no_reason_to_train_again(
    session: Session, study: Study
) -> None:
    first = finish(finish(begin(session, study), "sft"), RL_INIT)
    reward_model(first)
    second = begin(session, study, demonstrations=0)
    assert second.checkpoint("sft") == first.checkpoint("sft")
    assert second.checkpoint(RL_INIT) == first.checkpoint(RL_INIT)
    assert second.runs.keys().isdisjoint({"base", "sft", RL_INIT})
    demonstrate(session, study, 1)
    third = finish(begin(session, study), "sft")
    assert third.checkpoint("sft") != first.checkpoint("sft")
    reward_model(third)
    fourth = begin(session, study)  # taken over, though a reward model chose its epoch
    assert fourth.checkpoint("sft") == third.checkpoint("sft")


@pytest.mark.parametrize("values", [{"prompt_template": "Q: {prompt}\n"}, {**ELSEWHERE}])
def test_a_reward_model_of_other_texts_or_tokens_does_not_choose(
    session: Session, study: Study, values: dict[str, Any]
) -> None:
    reward_model(finish(begin(session, study), "sft"))
    demonstrate(session, study, 1)
    context = begin(session, study, **values)
    assert "reward" not in inputs_of(session, context.runs["sft"])
    again = begin(session, study, overrides={"sft": {"epochs": 2}})
    assert "reward" in inputs_of(session, again.runs["sft"])


def test_checkpoints_of_every_stage_have_a_kind(session: Session, study: Study) -> None:
    context = finish(finish(begin(session, study), "sft"), RL_INIT)
    reward_model(context)
    kinds = dict(session.execute(select(Checkpoint.label, Checkpoint.kind)).all())
    assert kinds == {
        "base": CheckpointKind.policy,
        "sft": CheckpointKind.policy,
        "rl-init": CheckpointKind.policy,
        "rm": CheckpointKind.reward_model,
    }
    assert session.scalar(select(Round.stage)) == "sample-sft"
