"""What a round does, stage by stage, and what each stage starts.

A stage starts once all that it needs is done. It makes a run for a worker, or a batch for labelers,
or takes over what an earlier round has made already; how far it is follows from those rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from app.models import (
    Batch,
    Checkpoint,
    CheckpointKind,
    LabelKind,
    Pool,
    Purpose,
    Round,
    Run,
    RunInput,
    RunKindName,
    RunState,
    Snapshot,
    Split,
)
from app.services import batches, runs, snapshots
from app.services.round_baselines import baselines, judged_prompts
from app.services.round_config import RL_INIT
from app.services.round_context import Context, choose_prompts, prompts_of_split
from app.services.round_rankings import make_ranking_batch, ranking_requests


def _start_demonstrations(context: Context) -> None:
    if context.config.demonstrations == 0:
        context.reuse("demonstrations")
        return
    prompts = choose_prompts(context, LabelKind.demonstration, context.config.demonstrations)
    context.batches["demonstrations"] = batches.create_demonstration_batch(
        context.session,
        context.study,
        name=f"Round {context.round.number}: demonstrations",
        prompts=prompts,
        round_id=context.round.id,
        stage="demonstrations",
    )


def _start_base(context: Context) -> None:
    """The base model that is named, or the study's starter, or a new starter."""
    session, study, name = context.session, context.study, context.config.base_model
    known = (
        select(Checkpoint)
        .where(Checkpoint.study_id == study.id, Checkpoint.label == "base")
        .order_by(Checkpoint.id.desc())
        .limit(1)
    )
    if name is not None:
        checkpoint = session.scalar(known.where(Checkpoint.uri == name))
        if checkpoint is None:
            checkpoint = Checkpoint(
                study_id=study.id, kind=CheckpointKind.policy, label="base", uri=name
            )
            session.add(checkpoint)
            session.flush()
        context.reuse("base", checkpoint=checkpoint.id)
        return
    checkpoint = session.scalar(known.where(Checkpoint.run_id.is_not(None)))
    if checkpoint is not None:
        context.reuse("base", checkpoint=checkpoint.id)
        return
    context.start_run("base", RunKindName.base, {"pretraining": context.starter_texts()})


def _start_sft(context: Context) -> None:
    """A new SFT policy, its epoch chosen by an earlier round's reward model where there is one."""
    inputs: dict[str, Snapshot | Checkpoint] = {
        "init": context.checkpoint("base"),
        "demonstrations": snapshots.freeze_demonstrations(context.session, context.study),
    }
    done = _same_sft(context, "sft", inputs)
    if done is not None:
        context.reuse("sft", checkpoint=done.id)
        return
    reward = _earlier_reward_model(context)
    if reward is not None:
        inputs["reward"] = reward
    context.start_run("sft", RunKindName.sft, inputs)


def _earlier_reward_model(context: Context) -> Checkpoint | None:
    """The study's latest reward model that knows answers such as this round's SFT will give.

    It comes from the same base model, so it reads the same tokens, and from the same prompt
    template.
    """
    base = context.checkpoint("base")
    template = Round.config["prompt_template"].as_string()
    found = context.session.scalars(
        select(Checkpoint)
        .join(Run, Run.id == Checkpoint.run_id)
        .join(Round, Round.id == Run.round_id)
        .where(
            Checkpoint.study_id == context.study.id,
            Checkpoint.kind == CheckpointKind.reward_model,
            Round.id != context.round.id,
            template == context.config.prompt_template,
        )
        .order_by(Checkpoint.id.desc())
    )
    for reward in found:
        ancestor = reward
        while ancestor.parent_id is not None:
            ancestor = context.session.get_one(Checkpoint, ancestor.parent_id)
        if ancestor.id == base.id:
            return reward
    return None


def _same_sft(
    context: Context, stage: str, inputs: Mapping[str, Snapshot | Checkpoint]
) -> Checkpoint | None:
    """The checkpoint of an earlier SFT run of the study with the same inputs and config, if any.

    Whatever reward model chose its epoch: a newer one alone is no reason to train again, and to
    measure KL from another policy than the rankings' completions came from.
    """
    preset, config = context.hyperparameters(stage, RunKindName.sft)
    wanted = {(part, isinstance(source, Snapshot), source.id) for part, source in inputs.items()}
    candidates = context.session.scalars(
        select(Run)
        .where(
            Run.study_id == context.study.id,
            Run.kind == RunKindName.sft,
            Run.state == RunState.succeeded,
            Run.preset == preset,
            Run.config == config,
        )
        .options(selectinload(Run.inputs))
        .order_by(Run.id.desc())
    )
    for run in candidates:
        found = {
            (item.part, item.snapshot_id is not None, item.snapshot_id or item.checkpoint_id)
            for item in run.inputs
            if item.part != "reward"
        }
        if found == wanted:
            return runs.checkpoint_of(context.session, run)
    return None


def _start_sample_sft(context: Context) -> None:
    waiting = _adoptable_batch(context)
    if waiting is not None:
        context.reuse("sample-sft", batch=waiting.id)
        return
    prompts = choose_prompts(context, LabelKind.ranking, context.config.ranking_prompts)
    inputs: dict[str, Snapshot | Checkpoint] = {
        "prompts": snapshots.freeze_prompts(context.session, context.study, prompts, why="ranking")
    }
    for stage in ("sft", "base") if context.config.contrast_share else ("sft",):
        inputs[context.policy(stage).label] = context.checkpoint(stage)
    requests = ranking_requests(context, "sft", beside="base", part="prompts")
    context.start_run("sample-sft", RunKindName.sample, inputs, requests)


def _adoptable_batch(context: Context) -> Batch | None:
    """The ranking tasks that the last round made of its policy's samples, for this round."""
    return context.session.scalar(
        select(Batch)
        .where(
            Batch.study_id == context.study.id,
            Batch.round_id.is_(None),
            Batch.stage == "rankings",
        )
        .order_by(Batch.id)
        .limit(1)
    )


def _start_rankings(context: Context) -> None:
    taken = context.round.reused.get("sample-sft")
    if taken is not None:
        batch = context.session.get_one(Batch, taken["batch"])
        batch.round_id = context.round.id
        context.session.flush()
    else:
        batch = make_ranking_batch(
            context,
            context.runs["sample-sft"],
            "sft",
            beside="base",
            name=f"Round {context.round.number}: rankings of sft samples",
            round_id=context.round.id,
        )
    context.batches["rankings"] = batch


def _start_reward(context: Context) -> None:
    context.start_run(
        "reward",
        RunKindName.reward,
        {
            "init": context.checkpoint("sft"),
            "rankings": snapshots.freeze_rankings(context.session, context.study),
            "demonstrations": snapshots.freeze_demonstrations(context.session, context.study),
        },
    )


def _start_rl_init(context: Context) -> None:
    """What PPO starts from: the base model after a little SFT with pretraining text mixed in.

    The SFT policy takes its place where the round asks for that, or has no such text.
    """
    sft = context.checkpoint("sft")
    demonstrations = context.snapshot_behind(sft, "demonstrations")
    if not context.config.rl_init or context.pretraining is None or demonstrations is None:
        context.reuse(RL_INIT, checkpoint=sft.id)
        return
    inputs: dict[str, Snapshot | Checkpoint] = {
        "init": context.checkpoint("base"),
        "demonstrations": demonstrations,
        "pretraining": context.pretraining,
    }
    done = _same_sft(context, RL_INIT, inputs)
    if done is not None:
        context.reuse(RL_INIT, checkpoint=done.id)
        return
    context.start_run(RL_INIT, RunKindName.sft, inputs)


def _start_ppo(context: Context) -> None:
    prompts = prompts_of_split(context, Split.train)
    inputs: dict[str, Snapshot | Checkpoint] = {
        "init": context.checkpoint(RL_INIT),
        "reference": context.checkpoint("sft"),
        "reward": context.checkpoint("reward"),
        "prompts": snapshots.freeze_prompts(context.session, context.study, prompts, why="ppo"),
    }
    if context.pretraining is not None:
        inputs["pretraining"] = context.pretraining
    context.start_run("ppo", RunKindName.ppo, inputs)


def _start_sample_ppo(context: Context) -> None:
    """The policies' answers to held-out prompts, and the new policy's samples to rank next."""
    judged = judged_prompts(context)
    inputs: dict[str, Snapshot | Checkpoint] = {
        "reward": context.checkpoint("reward"),
        "evaluation": snapshots.freeze_prompts(
            context.session, context.study, judged, why="evaluation"
        ),
    }
    requests: list[dict[str, Any]] = []
    for stage in ("base", "sft", "ppo"):
        label = context.policy(stage).label
        inputs[label] = context.checkpoint(stage)
        requests.append({"policy": label, "part": "evaluation", "n": 1})
    best = context.best_of_sft()
    if best is not None:
        inputs[best.label] = context.checkpoint("sft")
        requests.append(
            {"policy": best.label, "part": "evaluation", "n": 1, "best_of": best.best_of}
        )
    if context.config.next_ranking_prompts:
        following = choose_prompts(context, LabelKind.ranking, context.config.next_ranking_prompts)
        inputs["next"] = snapshots.freeze_prompts(
            context.session, context.study, following, why="ranking in the next round"
        )
        requests += ranking_requests(context, "ppo", beside="sft", part="next")
    context.start_run("sample-ppo", RunKindName.sample, inputs, requests)


def _start_evaluation(context: Context) -> None:
    session, study = context.session, context.study
    run = context.runs["sample-ppo"]
    judged = session.scalar(
        select(RunInput.snapshot_id).where(RunInput.run_id == run.id, RunInput.part == "next")
    )
    if judged is not None:
        make_ranking_batch(
            context,
            run,
            "ppo",
            beside="sft",
            name=f"Round {context.round.number + 1}: rankings of ppo samples",
            round_id=None,
        )
    policies = [context.policy(stage) for stage in ("base", "sft", "ppo")]
    policies += baselines(context)
    best = context.best_of_sft()
    if best is not None:
        policies.append(best)
    context.batches["evaluation"] = batches.ranking_batch_from_policies(
        session,
        study,
        policies,
        name=f"Round {context.round.number}: blind evaluation",
        k_min=len(policies),
        k_max=len(policies),
        splits=[Split.test],
        labels_wanted=context.config.evaluation_labels,
        purpose=Purpose.evaluation,
        pool=Pool.heldout,
        round_id=context.round.id,
        stage="evaluation",
    )


@dataclass(frozen=True)
class Stage:
    """One step of a round. `labels` says who does it: labelers, or else a run."""

    name: str
    title: str
    needs: tuple[str, ...]
    labels: bool
    start: Callable[[Context], None]


STAGES: tuple[Stage, ...] = (
    Stage("demonstrations", "Demonstrations", (), True, _start_demonstrations),
    Stage("base", "Base model", (), False, _start_base),
    Stage("sft", "SFT", ("demonstrations", "base"), False, _start_sft),
    Stage("sample-sft", "SFT samples", ("sft",), False, _start_sample_sft),
    Stage("rankings", "Rankings", ("sample-sft",), True, _start_rankings),
    Stage("reward", "Reward model", ("rankings",), False, _start_reward),
    Stage(RL_INIT, "RL init", ("sft",), False, _start_rl_init),
    Stage("ppo", "PPO-ptx", ("reward", RL_INIT), False, _start_ppo),
    Stage("sample-ppo", "PPO samples", ("ppo",), False, _start_sample_ppo),
    Stage("evaluation", "Blind evaluation", ("sample-ppo",), True, _start_evaluation),
)
