"""A round with all that its stages look at, and the prompts they choose."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import (
    Batch,
    Checkpoint,
    LabelKind,
    LabelTask,
    Policy,
    Prompt,
    Purpose,
    Round,
    Run,
    RunInput,
    RunKindName,
    Snapshot,
    Split,
    Study,
)
from app.services import runs, snapshots
from app.services.policies import policy_of
from app.services.pretraining import study_text
from app.services.round_config import RL_INIT, RoundConfig
from app.services.usable import usable_prompt
from app.simulation.corpus import starter_texts

VALID_SHARE = 0.1  # of demonstrations and rankings: on those prompts the models are checked


@dataclass
class Context:
    """A round with all that its stages look at."""

    session: Session
    study: Study
    round: Round
    config: RoundConfig
    runs: dict[str, Run] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)

    @classmethod
    def load(cls, session: Session, round_: Round) -> Context:
        study = session.get_one(Study, round_.study_id)
        context = cls(session, study, round_, RoundConfig(**round_.config))
        found_runs = session.scalars(
            select(Run)
            .where(Run.round_id == round_.id)
            .order_by(Run.id)
            .execution_options(populate_existing=True)
        )
        context.runs = {run.stage: run for run in found_runs}
        found = session.scalars(select(Batch).where(Batch.round_id == round_.id))
        context.batches = {batch.stage: batch for batch in found if batch.stage is not None}
        return context

    def checkpoint(self, stage: str) -> Checkpoint:
        """The checkpoint that a finished stage made or took over."""
        taken = self.round.reused.get(stage)
        if taken is not None:
            return self.session.get_one(Checkpoint, taken["checkpoint"])
        checkpoint = runs.checkpoint_of(self.session, self.runs[stage])
        if checkpoint is None:
            raise LookupError(f"stage {stage} of round {self.round.number} made no checkpoint")
        return checkpoint

    def policy(self, stage: str) -> Policy:
        """The policy that answers with a stage's checkpoint; made at the first use."""
        return policy_of(self.session, self.checkpoint(stage))

    def best_of_sft(self) -> Policy | None:
        """The best of the SFT policy's samples by the round's reward model, where it is judged."""
        if self.config.best_of == 1:
            return None
        sft, reward = self.checkpoint("sft"), self.checkpoint("reward")
        return policy_of(self.session, sft, best_of=self.config.best_of, reward=reward)

    def snapshot_behind(self, checkpoint: Checkpoint, part: str) -> Snapshot | None:
        """What the run that made a checkpoint read as this part, if it did."""
        return self.session.scalar(
            select(Snapshot)
            .join(RunInput, RunInput.snapshot_id == Snapshot.id)
            .where(RunInput.run_id == checkpoint.run_id, RunInput.part == part)
        )

    @cached_property
    def pretraining(self) -> Snapshot | None:
        """The text that the base model was made of, or that the study was given; None without."""
        own = self.snapshot_behind(self.checkpoint("base"), "pretraining")
        return own or study_text(self.session, self.study)

    def starter_texts(self) -> Snapshot:
        """Text for a new starter base model."""
        return snapshots.freeze_texts(
            self.session,
            self.study,
            starter_texts(self.round.seed, self.config.starter_texts),
            origin=f"starter texts, seed {self.round.seed}",
        )

    def reuse(self, stage: str, **what: int) -> None:
        self.round.reused = {**self.round.reused, stage: what}
        self.session.flush()

    def hyperparameters(self, stage: str, kind: RunKindName) -> tuple[str, dict[str, Any]]:
        """(preset, overrides) of a stage's run. The RL init is a run of kind sft with its own."""
        if stage == RL_INIT:
            return f"{self.config.preset}-{RL_INIT}", self.config.overrides.get(RL_INIT, {})
        return self.config.preset, self.config.overrides.get(kind.value, {})

    def start_run(
        self,
        stage: str,
        kind: RunKindName,
        inputs: Mapping[str, Snapshot | Checkpoint],
        requests: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        preset, config = self.hyperparameters(stage, kind)
        self.runs[stage] = runs.create_run(
            self.session,
            self.study,
            kind=kind,
            stage=stage,
            seed=self.round.seed,
            preset=preset,
            config=config,
            inputs=inputs,
            requests=list(requests),
            round_id=self.round.id,
        )


def _unlabeled_prompts(context: Context, kind: LabelKind, split: Split) -> Select[Any]:
    """Prompts of a split without a training task of this kind, in an order fixed by the seed."""
    taken = select(LabelTask.id).where(
        LabelTask.prompt_id == Prompt.id,
        LabelTask.kind == kind,
        LabelTask.purpose == Purpose.training,
    )
    return (
        select(Prompt.id)
        .where(
            Prompt.study_id == context.study.id,
            Prompt.split == split,
            usable_prompt(),
            ~taken.exists(),
        )
        .order_by(func.md5(func.concat(Prompt.id, literal(f":{context.round.seed}:{kind.value}"))))
    )


def choose_prompts(context: Context, kind: LabelKind, count: int) -> list[int]:
    """`count` prompts to label: a tenth of them valid, the rest train.

    Raises Invalid when the study has fewer.
    """
    valid = max(1, round(count * VALID_SHARE))
    chosen: list[int] = []
    for split, wanted in ((Split.valid, valid), (Split.train, count - valid)):
        found = list(
            context.session.scalars(_unlabeled_prompts(context, kind, split).limit(wanted))
        )
        if len(found) < wanted:
            raise Invalid(
                f"The round asks for {wanted} {split.value} prompts without a {kind.value}; "
                f"the study has {len(found)}. Import more prompts, or ask for fewer."
            )
        chosen += found
    random.Random(context.round.seed).shuffle(chosen)
    return chosen


def prompts_of_split(
    context: Context, split: Split, limit: int | None = None, *conditions: ColumnElement[bool]
) -> list[int]:
    """Usable prompts of a split that meet the conditions, in an order fixed by the seed."""
    order = func.md5(func.concat(Prompt.id, literal(f":{context.round.seed}:{split.value}")))
    return list(
        context.session.scalars(
            select(Prompt.id)
            .where(
                Prompt.study_id == context.study.id,
                Prompt.split == split,
                usable_prompt(),
                *conditions,
            )
            .order_by(order)
            .limit(limit)
        )
    )
