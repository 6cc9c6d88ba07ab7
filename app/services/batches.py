"""Batches of label tasks: which prompts and completions labelers are asked about, and how far."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, func, insert, select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import (
    Batch,
    Completion,
    LabelKind,
    LabelTask,
    LabelTaskCompletion,
    LabelTaskState,
    Policy,
    Pool,
    Prompt,
    Purpose,
    Split,
    Study,
)
from app.services.batch_contents import DEFAULT_SPLITS, completions_by_prompt, fresh_prompts
from app.services.bulk import among

MIN_K = 2  # a blind evaluation may be a pair
PAPER_MIN_K = 4  # training rankings in the paper hold 4 to 9 completions (section 3.5)
MAX_K = 9


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """Counts over a batch's tasks that are not withdrawn; `tasks_closed` counts the others."""

    tasks: int
    tasks_complete: int
    tasks_closed: int
    labels_wanted: int
    labels_done: int
    on_screen: int  # assignments that are leased right now

    @property
    def finished(self) -> bool:
        return self.labels_done >= self.labels_wanted

    @property
    def fraction(self) -> float:
        """Labels done over labels wanted, 1 for a batch that wants none."""
        return self.labels_done / self.labels_wanted if self.labels_wanted else 1.0


def create_demonstration_batch(
    session: Session,
    study: Study,
    *,
    name: str,
    prompts: Sequence[int] | None = None,
    count: int | None = None,
    splits: Sequence[Split] = (),
    labels_per_task: int = 1,
    purpose: Purpose = Purpose.training,
    pool: Pool = Pool.training,
    priority: int = 0,
    lease_minutes: int = 60,
    round_id: int | None = None,
    stage: str | None = None,
) -> Batch:
    """A task a prompt: write the completion you would like the assistant to give.

    Give the ids of `prompts`, or a `count` of prompts of `splits` (DEFAULT_SPLITS of the purpose)
    that have no demonstration task yet. `round_id` and `stage` tie the batch to a round. Raises
    Invalid when there are fewer, when a prompt is not of the study, or when pool and purpose do
    not fit.
    """
    if (prompts is None) == (count is None):
        raise ValueError("give either prompts or count")
    if prompts is None:
        assert count is not None
        prompts = fresh_prompts(session, study, purpose, count, splits)
    elif len(set(prompts)) < len(prompts):
        raise Invalid("A prompt is named twice.")
    else:
        known = select(func.count()).where(among(Prompt.id, prompts), Prompt.study_id == study.id)
        if session.scalar(known) != len(prompts):
            raise Invalid(f"Some of these prompts are not in {study.name}.")
    batch = _new_batch(
        session,
        study,
        kind=LabelKind.demonstration,
        name=name,
        purpose=purpose,
        pool=pool,
        rate_completions=False,
        lease_minutes=lease_minutes,
        round_id=round_id,
        stage=stage,
    )
    _add_tasks(session, batch, prompts, labels_wanted=labels_per_task, priority=priority)
    return batch


def create_ranking_batch(
    session: Session,
    study: Study,
    *,
    name: str,
    completions: Mapping[int, Sequence[int]],
    labels_wanted: int = 1,
    purpose: Purpose = Purpose.training,
    pool: Pool = Pool.training,
    priority: int = 0,
    rate_completions: bool = True,
    lease_minutes: int = 60,
    round_id: int | None = None,
    stage: str | None = None,
) -> Batch:
    """A task a prompt: rank its K completions, after rating each alone if `rate_completions`.

    `completions` gives, by prompt id, the ids of that prompt's MIN_K to MAX_K completions; tasks
    are handed out in its order. Raises Invalid when a completion is not that prompt's, when K is
    out of range, or when pool and purpose do not fit.
    """
    _check_completions(session, study, completions)
    batch = _new_batch(
        session,
        study,
        kind=LabelKind.ranking,
        name=name,
        purpose=purpose,
        pool=pool,
        rate_completions=rate_completions,
        lease_minutes=lease_minutes,
        round_id=round_id,
        stage=stage,
    )
    tasks = _add_tasks(
        session, batch, list(completions), labels_wanted=labels_wanted, priority=priority
    )
    session.execute(
        insert(LabelTaskCompletion),
        [
            {"label_task_id": tasks[prompt_id], "completion_id": completion_id}
            for prompt_id, ids in completions.items()
            for completion_id in ids
        ],
    )
    return batch


def ranking_batch_from_policies(
    session: Session,
    study: Study,
    policies: Sequence[Policy],
    *,
    name: str,
    k_min: int = PAPER_MIN_K,
    k_max: int = MAX_K,
    count: int | None = None,
    splits: Sequence[Split] = (),
    labels_wanted: int = 1,
    purpose: Purpose = Purpose.training,
    pool: Pool = Pool.training,
    priority: int = 0,
    rate_completions: bool = True,
    lease_minutes: int = 60,
    round_id: int | None = None,
    stage: str | None = None,
    seed: int = 0,
) -> Batch:
    """Rank completions of distinct policies: one a policy, k_min to k_max a prompt.

    Takes `count` prompts (all when None) of `splits` (DEFAULT_SPLITS of the purpose) that at least
    `k_min` of the policies have completed; of more than `k_max` a random choice by `seed`. Raises
    Invalid when there are fewer prompts than that.
    """
    if not MIN_K <= k_min <= k_max <= MAX_K:
        raise Invalid(f"K must lie between {MIN_K} and {MAX_K}, the smallest first.")
    if len({policy.id for policy in policies}) < k_min:
        raise Invalid(f"Choose at least {k_min} policies: a ranking holds one completion of each.")
    found = completions_by_prompt(
        session, study, policies, splits=splits or DEFAULT_SPLITS[purpose], at_least=k_min
    )
    prompt_ids = sorted(found)
    random.Random(f"prompts {seed}").shuffle(prompt_ids)
    if not prompt_ids or len(prompt_ids) < (count or 0):
        raise Invalid(
            f"{len(prompt_ids)} prompts of the chosen splits have completions of at least {k_min} "
            f"of these policies" + (f"; {count} were asked for." if count else ".")
        )
    chosen: dict[int, list[int]] = {}
    for prompt_id in prompt_ids[:count]:
        ids = found[prompt_id]
        if len(ids) > k_max:
            ids = random.Random(f"completions {seed} {prompt_id}").sample(ids, k_max)
        chosen[prompt_id] = ids
    return create_ranking_batch(
        session,
        study,
        name=name,
        completions=chosen,
        labels_wanted=labels_wanted,
        purpose=purpose,
        pool=pool,
        priority=priority,
        rate_completions=rate_completions,
        lease_minutes=lease_minutes,
        round_id=round_id,
        stage=stage,
    )


def batch_progress(session: Session, batch: Batch) -> BatchProgress:
    """How far a batch is, in one query over its tasks."""
    statement = _progress_query().where(LabelTask.batch_id == batch.id)
    row = session.execute(statement.group_by(LabelTask.batch_id)).mappings().one_or_none()
    return _progress(row)


def batches_with_progress(session: Session, study: Study) -> list[tuple[Batch, BatchProgress]]:
    """The study's batches, newest first, each with its progress: two queries in all."""
    rows = session.execute(
        _progress_query().where(LabelTask.study_id == study.id).group_by(LabelTask.batch_id)
    ).mappings()
    by_batch = {row["batch_id"]: _progress(row) for row in rows}
    batches = session.scalars(
        select(Batch).where(Batch.study_id == study.id).order_by(Batch.id.desc())
    )
    return [(batch, by_batch.get(batch.id) or _progress(None)) for batch in batches]


def _progress_query() -> Select[*tuple[Any, ...]]:
    live = LabelTask.state != LabelTaskState.closed

    def total(column: ColumnElement[int]) -> ColumnElement[int]:
        return func.coalesce(func.sum(column).filter(live), 0)

    return select(
        LabelTask.batch_id,
        func.count().filter(live).label("tasks"),
        func.count().filter(LabelTask.state == LabelTaskState.complete).label("tasks_complete"),
        func.count().filter(~live).label("tasks_closed"),
        total(LabelTask.labels_wanted.expression).label("labels_wanted"),
        total(LabelTask.labels_done.expression).label("labels_done"),
        total(LabelTask.slots_taken - LabelTask.labels_done).label("on_screen"),
    )


def _progress(row: RowMapping | None) -> BatchProgress:
    names = BatchProgress.__dataclass_fields__
    return BatchProgress(**{name: int(row[name]) if row else 0 for name in names})


def _check_completions(
    session: Session, study: Study, completions: Mapping[int, Sequence[int]]
) -> None:
    asked = [completion_id for ids in completions.values() for completion_id in ids]
    if not asked:
        raise Invalid("A batch has at least one prompt.")
    rows = session.execute(
        select(Completion.id, Completion.prompt_id).where(
            Completion.study_id == study.id, among(Completion.id, asked)
        )
    )
    prompt_of = {row.id: row.prompt_id for row in rows}
    for prompt_id, ids in completions.items():
        if not MIN_K <= len(ids) <= MAX_K:
            raise Invalid(
                f"A ranking holds {MIN_K} to {MAX_K} completions: "
                f"prompt {prompt_id} comes with {len(ids)}."
            )
        if len(set(ids)) < len(ids):
            raise Invalid(f"A completion of prompt {prompt_id} is named twice.")
        if any(prompt_of.get(completion_id) != prompt_id for completion_id in ids):
            raise Invalid(f"Some completions are not of prompt {prompt_id} in {study.name}.")


def _new_batch(
    session: Session,
    study: Study,
    *,
    kind: LabelKind,
    name: str,
    purpose: Purpose,
    pool: Pool,
    rate_completions: bool,
    lease_minutes: int,
    round_id: int | None,
    stage: str | None,
) -> Batch:
    if pool is Pool.heldout and purpose is Purpose.training:
        raise Invalid("Held-out labelers only judge: their labels never train.")
    if not name.strip():
        raise Invalid("A batch needs a name.")
    if lease_minutes < 1:
        raise Invalid("A lease lasts at least one minute.")
    batch = Batch(
        study_id=study.id,
        name=name.strip(),
        kind=kind,
        purpose=purpose,
        pool=pool,
        rate_completions=rate_completions,
        lease_minutes=lease_minutes,
        round_id=round_id,
        stage=stage,
    )
    session.add(batch)
    session.flush()
    return batch


def _add_tasks(
    session: Session, batch: Batch, prompts: Sequence[int], *, labels_wanted: int, priority: int
) -> dict[int, int]:
    """Ids of the new tasks by prompt id."""
    if labels_wanted < 1:
        raise Invalid("A task wants at least one label.")
    if not prompts:
        raise Invalid("A batch has at least one prompt.")
    ids = session.scalars(
        insert(LabelTask).returning(LabelTask.id, sort_by_parameter_order=True),
        [
            {
                "study_id": batch.study_id,
                "batch_id": batch.id,
                "kind": batch.kind,
                "purpose": batch.purpose,
                "pool": batch.pool,
                "prompt_id": prompt_id,
                "priority": priority,
                "labels_wanted": labels_wanted,
            }
            for prompt_id in prompts
        ],
    )
    return dict(zip(prompts, ids, strict=True))
