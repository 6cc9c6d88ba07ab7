"""Policies of the study's own checkpoints: one of each, and the best of n of its samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from app.errors import Invalid, NotFound
from app.models import (
    Checkpoint,
    CheckpointKind,
    Completion,
    Policy,
    PolicyKind,
    Prompt,
    Round,
    Run,
    RunInput,
    RunKindName,
    Snapshot,
    Split,
    Study,
)
from app.services import runs, snapshots
from app.services.round_config import RoundConfig
from app.services.usable import usable_prompt

MOST = 1024  # samples to choose from
STAGE = "samples"  # of runs that belong to no round


def kl_bound(n: int) -> float:
    """Nats that the best of n is away from the policy it is taken from, at most: log n - (n - 1)/n.

    Stiennon et al. (2020), appendix G.3; reached where no two samples are the same.
    """
    return math.log(n) - (n - 1) / n


def policy_of(
    session: Session, checkpoint: Checkpoint, *, best_of: int = 1, reward: Checkpoint | None = None
) -> Policy:
    """The policy that answers with a checkpoint, or with the best of its samples; made if missing.

    Raises Invalid where `best_of` is out of range, or there is no reward model to choose.
    """
    if not 1 <= best_of <= MOST:
        raise Invalid(f"Best of n: n is a whole number from 1 to {MOST:,}.")
    if best_of > 1 and (reward is None or reward.kind is not CheckpointKind.reward_model):
        raise Invalid("Best of n needs a reward model that chooses.")
    chooser = reward.id if reward is not None and best_of > 1 else None
    known = select(Policy).where(
        Policy.checkpoint_id == checkpoint.id,
        Policy.best_of == best_of,
        Policy.reward_checkpoint_id.is_not_distinct_from(chooser),
    )
    policy = session.scalar(known)
    if policy is None:
        name, label = f"{checkpoint.label} #{checkpoint.id}", checkpoint.label
        if chooser is not None:
            name = f"best-of-{best_of} of {name} by #{chooser}"
            label = f"best-of-{best_of} of {label}"
        policy = Policy(
            study_id=checkpoint.study_id,
            name=name,
            label=label,
            kind=PolicyKind.checkpoint,
            checkpoint_id=checkpoint.id,
            best_of=best_of,
            reward_checkpoint_id=chooser,
        )
        session.add(policy)
        session.flush()
    return policy


def description(policy: Policy) -> str:
    """What the policy does, in words."""
    if policy.best_of == 1:
        return f"One sample of checkpoint #{policy.checkpoint_id}."
    return (
        f"Of {policy.best_of} samples of checkpoint #{policy.checkpoint_id}, the one that reward "
        f"model #{policy.reward_checkpoint_id} scores highest: at most "
        f"{kl_bound(policy.best_of):.2f} nats (KL) away from that checkpoint's policy."
    )


@dataclass(frozen=True, kw_only=True)
class PolicySummary:
    policy: Policy
    description: str
    completions: int
    prompts: int
    last: Run | None  # the last run that samples it, waiting or over


def own_policies(session: Session, study: Study) -> list[PolicySummary]:
    """The study's policies of its checkpoints, newest first, in three queries."""
    rows = session.execute(
        select(
            Policy,
            func.count(Completion.id),
            func.count(Completion.prompt_id.distinct()),
            func.max(Completion.run_id),
        )
        .outerjoin(Completion, Completion.policy_id == Policy.id)
        .where(Policy.study_id == study.id, Policy.kind == PolicyKind.checkpoint)
        .group_by(Policy.id)
        .order_by(Policy.id.desc())
    ).all()
    asked = _asked(session, study)
    latest = {p.id: max(run_id or 0, asked.get(p.id, 0)) for p, _, _, run_id in rows}
    found = session.scalars(select(Run).where(Run.id.in_(latest.values())))
    runs_by_id = {run.id: run for run in found}
    return [
        PolicySummary(
            policy=policy,
            description=description(policy),
            completions=completions,
            prompts=prompts,
            last=runs_by_id.get(latest[policy.id]),
        )
        for policy, completions, prompts, _ in rows
    ]


def _asked(session: Session, study: Study) -> dict[int, int]:
    """The newest run that was asked to sample a policy, done or not, by the policy's id."""
    chooser = aliased(RunInput)
    chosen = exists().where(
        chooser.run_id == RunInput.run_id,
        chooser.part == "reward",
        chooser.checkpoint_id == Policy.reward_checkpoint_id,
    )
    query = (
        select(Policy.id, func.max(Run.id))
        .join(RunInput, RunInput.checkpoint_id == Policy.checkpoint_id)
        .join(Run, Run.id == RunInput.run_id)
        .where(
            Policy.study_id == study.id,
            Run.kind == RunKindName.sample,
            RunInput.part == Policy.label,
            Policy.reward_checkpoint_id.is_(None) | chosen,
        )
        .group_by(Policy.id)
    )
    return dict(session.execute(query).all())


def checkpoints_of(session: Session, study: Study, kind: CheckpointKind) -> Sequence[Checkpoint]:
    """The study's checkpoints of a kind, newest first."""
    return session.scalars(
        select(Checkpoint)
        .where(Checkpoint.study_id == study.id, Checkpoint.kind == kind)
        .order_by(Checkpoint.id.desc())
    ).all()


def find_checkpoint(
    session: Session, study: Study, checkpoint_id: int, kind: CheckpointKind
) -> Checkpoint:
    """Raises NotFound where the study has no such checkpoint of the kind."""
    checkpoint = session.get(Checkpoint, checkpoint_id)
    if checkpoint is None or checkpoint.study_id != study.id or checkpoint.kind is not kind:
        words = kind.value.replace("_", " ")
        raise NotFound(f"{study.name} has no {words} #{checkpoint_id}.")
    return checkpoint


def sample_policy(
    session: Session,
    study: Study,
    checkpoint: Checkpoint,
    *,
    splits: Sequence[Split],
    count: int | None = None,
    n: int = 1,
    best_of: int = 1,
    reward: Checkpoint | None = None,
    seed: int = 0,
) -> Run:
    """A queued run that samples n completions of each of `count` prompts (None: all) of the splits.

    With a reward model they are scored, and with `best_of` above 1 each is the best of so many.
    Preset, overrides and prompt template are those of the round that made the checkpoint. Raises
    Invalid where the splits have too few prompts, or the policy cannot be.
    """
    policy = policy_of(session, checkpoint, best_of=best_of, reward=reward)
    ids = list(
        session.scalars(
            select(Prompt.id)
            .where(Prompt.study_id == study.id, Prompt.split.in_(splits), usable_prompt())
            .order_by(Prompt.text_sha256)
            .limit(count)
        )
    )
    if not ids or len(ids) < (count or 0):
        wanted = f"; {count:,} were asked for" if count else ""
        raise Invalid(f"The chosen splits have {len(ids):,} prompts that can be used{wanted}.")
    maker = session.get(Run, checkpoint.run_id) if checkpoint.run_id is not None else None
    of_round = maker.round_id if maker is not None else None
    made_by = session.get_one(Round, of_round).config if of_round is not None else {}
    inputs: dict[str, Snapshot | Checkpoint] = {
        policy.label: checkpoint,
        "prompts": snapshots.freeze_prompts(session, study, ids, why="sampling"),
    }
    if reward is not None:
        inputs["reward"] = reward
    return runs.create_run(
        session,
        study,
        kind=RunKindName.sample,
        stage=STAGE,
        seed=seed,
        preset=maker.preset if maker is not None else "paper",
        config=RoundConfig(**made_by).overrides.get("sample", {}),
        inputs=inputs,
        requests=[{"policy": policy.label, "part": "prompts", "n": n, "best_of": best_of}],
    )
