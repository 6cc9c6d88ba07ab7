"""What a finished run leaves behind: a checkpoint, or completions of its policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.models import (
    Checkpoint,
    CheckpointKind,
    Completion,
    Policy,
    Pool,
    Round,
    Run,
    RunInput,
    RunKindName,
    Study,
)
from app.services.results import labeler_agreement
from app.services.round_config import RL_INIT, RoundConfig
from trainer.contract import CompletionRecord, RunResult

ROWS_A_STATEMENT = 1000
LABELS = {RunKindName.base: "base", RunKindName.sft: "sft", RunKindName.reward: "rm"}


def checkpoint_label(run: Run, parts: Iterable[str]) -> str:
    """The short name of what a run makes: PPO with a pretraining mix is "ppo-ptx" (section 3.5)."""
    if run.kind is not RunKindName.ppo:
        return RL_INIT if run.stage == RL_INIT else LABELS[run.kind]
    without = "pretraining" not in parts or run.config.get("ptx_coefficient") == 0
    return "ppo" if without else "ppo-ptx"


def register_checkpoint(session: Session, run: Run, result: RunResult, uri: str) -> Checkpoint:
    """The model that a run made, with its parent: the checkpoint that it was initialised from."""
    inputs = {
        item.part: item
        for item in session.scalars(select(RunInput).where(RunInput.run_id == run.id))
    }
    parent = inputs.get("init")
    checkpoint = Checkpoint(
        study_id=run.study_id,
        run_id=run.id,
        parent_id=parent.checkpoint_id if parent is not None else None,
        kind=CheckpointKind.reward_model
        if run.kind is RunKindName.reward
        else CheckpointKind.policy,
        label=checkpoint_label(run, inputs),
        uri=uri,
        metrics=result.metrics,
        versions=result.versions,
    )
    session.add(checkpoint)
    session.flush()
    return checkpoint


def _chunks(records: Iterable[CompletionRecord]) -> Iterator[list[CompletionRecord]]:
    iterator = iter(records)
    while chunk := list(islice(iterator, ROWS_A_STATEMENT)):
        yield chunk


def _policies_by_part(session: Session, run: Run) -> dict[str, int]:
    """Ids of the policies that a sample run asked, by the parts of their checkpoints."""
    inputs = session.scalars(select(RunInput).where(RunInput.run_id == run.id))
    checkpoints = {item.part: item.checkpoint_id for item in inputs}
    best_of = {request["policy"]: request.get("best_of", 1) for request in run.requests}
    rows = session.execute(
        select(RunInput.part, Policy)
        .join(Policy, Policy.checkpoint_id == RunInput.checkpoint_id)
        .where(RunInput.run_id == run.id)
    )
    return {
        part: policy.id
        for part, policy in rows
        if policy.best_of == best_of.get(part)
        and policy.reward_checkpoint_id in (None, checkpoints.get("reward"))
    }


def store_completions(session: Session, run: Run, records: Iterable[CompletionRecord]) -> int:
    """The completions that a sample run drew, under the policies of its checkpoints."""
    policies = _policies_by_part(session, run)
    # Several requests may ask a policy about the same prompt: indices go on counting.
    seen: dict[tuple[int, int], int] = {}
    number = 0
    for chunk in _chunks(records):
        rows: list[dict[str, Any]] = []
        for record in chunk:
            key = (policies[record.policy], record.prompt_id)
            seen[key] = index = seen.get(key, -1) + 1
            rows.append(
                {
                    "study_id": run.study_id,
                    "prompt_id": record.prompt_id,
                    "policy_id": key[0],
                    "text": record.text.replace("\x00", "\ufffd"),  # PostgreSQL holds no NUL
                    "sample_index": index,
                    "finish_reason": record.finish_reason,
                    "tokens": record.tokens,
                    "score": record.score,
                    "run_id": run.id,
                }
            )
        session.execute(insert(Completion), rows)
        number += len(rows)
    return number


def prompt_template(session: Session, run: Run) -> str:
    """How prompts become text for the run's policies: the setting of its round.

    A run of none takes that of the rounds which made its checkpoints, or the default.
    """
    of_checkpoints = (
        select(Run.round_id)
        .join(Checkpoint, Checkpoint.run_id == Run.id)
        .join(RunInput, RunInput.checkpoint_id == Checkpoint.id)
        .where(RunInput.run_id == run.id, Run.round_id.is_not(None))
        .order_by(Run.id.desc())
        .limit(1)
    )
    round_id = run.round_id or session.scalar(of_checkpoints)
    if round_id is None:
        return RoundConfig().prompt_template
    return RoundConfig(**session.get_one(Round, round_id).config).prompt_template


def about_run(session: Session, study: Study, run: Run) -> dict[str, Any]:
    """What the model card of a run says that its directory does not hold: see trainer.card."""
    agreement = labeler_agreement(session, study, Pool.training)
    return {
        "study": study.name,
        "run": run.id,
        "snapshots": {
            item.part: f"#{item.snapshot.id}" for item in run.inputs if item.snapshot is not None
        },
        "parents": {
            item.part: f"checkpoint {item.checkpoint.label} #{item.checkpoint.id}"
            for item in run.inputs
            if item.checkpoint is not None
        },
        "agreement": None
        if agreement is None
        else {"rate": agreement.rate, "low": agreement.low, "high": agreement.high}
        | {"n": agreement.n},
    }
