"""Batches of label tasks: which prompts and completions labelers are asked about."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import (
    Batch,
    Completion,
    LabelKind,
    LabelTaskCompletion,
    Policy,
    Pool,
    Prompt,
    Purpose,
    Split,
    Study,
)
from app.services.batch_contents import (
    DEFAULT_SPLITS,
    DEMONSTRATIONS,
    completions_by_prompt,
    demonstrations_policy,
    fresh_prompts,
    newest_demonstrations,
    ranked_as_completions,
)
from app.services.batch_rows import add_tasks, new_batch
from app.services.bulk import among
from app.services.results import add_evaluation
from app.services.usable import usable_prompt

UNUSABLE = (
    "Some of these prompts are withdrawn, or held or dropped because of personal information."
)
MIN_K = 2  # a blind evaluation may be a pair
PAPER_MIN_K = 4  # training rankings in the paper hold 4 to 9 completions (section 3.5)
MAX_K = 9


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
        if session.scalar(known.where(usable_prompt())) != len(prompts):
            raise Invalid(UNUSABLE)
    batch = new_batch(
        session,
        study,
        kind=LabelKind.demonstration,
        name=name,
        purpose=purpose,
        pool=pool,
        lease_minutes=lease_minutes,
        round_id=round_id,
        stage=stage,
    )
    about = [{"prompt_id": prompt_id} for prompt_id in prompts]
    add_tasks(session, batch, about, labels_wanted=labels_per_task, priority=priority)
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
    suggest_order: bool = True,
    lease_minutes: int = 60,
    round_id: int | None = None,
    stage: str | None = None,
) -> Batch:
    """A task a prompt: rank its K completions, after rating each alone if `rate_completions`.

    `completions` gives, by prompt id, the ids of that prompt's MIN_K to MAX_K completions; tasks
    are handed out in its order. With `suggest_order` the ranking begins with the order of the
    ratings. Raises Invalid when a completion is not that prompt's, when K is out of range, or when
    pool and purpose do not fit.
    """
    _check_completions(session, study, completions)
    batch = new_batch(
        session,
        study,
        kind=LabelKind.ranking,
        name=name,
        purpose=purpose,
        pool=pool,
        rate_completions=rate_completions,
        suggest_order=suggest_order,
        lease_minutes=lease_minutes,
        round_id=round_id,
        stage=stage,
    )
    about = [{"prompt_id": prompt_id} for prompt_id in completions]
    tasks = add_tasks(session, batch, about, labels_wanted=labels_wanted, priority=priority)
    session.execute(
        insert(LabelTaskCompletion),
        [
            {"label_task_id": task_id, "completion_id": completion_id}
            for task_id, ids in zip(tasks, completions.values(), strict=True)
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
    suggest_order: bool = True,
    lease_minutes: int = 60,
    round_id: int | None = None,
    stage: str | None = None,
    include_demonstrations: bool = False,
    seed: int = 0,
) -> Batch:
    """Rank completions of distinct policies: one a policy, k_min to k_max a prompt.

    Takes `count` prompts (all when None) of `splits` (DEFAULT_SPLITS of the purpose) that at least
    `k_min` of the policies have completed; of more than `k_max` a random choice by `seed`. With
    `include_demonstrations` the newest training demonstration of a prompt that has one is among
    its completions and counts as one; its labeler does not get the task. Raises Invalid when there
    are fewer prompts than that. For the purpose of an evaluation, the batch is one of its policies.
    """
    if not MIN_K <= k_min <= k_max <= MAX_K:
        raise Invalid(f"K must lie between {MIN_K} and {MAX_K}, the smallest first.")
    if include_demonstrations:
        policies = [policy for policy in policies if policy.name != DEMONSTRATIONS]
    if len({policy.id for policy in policies}) + include_demonstrations < k_min:
        raise Invalid(f"Choose at least {k_min} policies: a ranking holds one completion of each.")
    splits = splits or DEFAULT_SPLITS[purpose]
    found = completions_by_prompt(session, study, policies, splits=splits)
    written = newest_demonstrations(session, study, found) if include_demonstrations else {}
    prompt_ids = sorted(
        prompt_id for prompt_id in found if len(found[prompt_id]) + (prompt_id in written) >= k_min
    )
    random.Random(f"prompts {seed}").shuffle(prompt_ids)
    if not prompt_ids or len(prompt_ids) < (count or 0):
        raise Invalid(
            f"{len(prompt_ids)} prompts of the chosen splits have completions of at least {k_min} "
            f"of these policies" + (f"; {count} were asked for." if count else ".")
        )
    prompt_ids = prompt_ids[:count]
    ranked = ranked_as_completions(
        session, study, [written[prompt_id] for prompt_id in prompt_ids if prompt_id in written]
    )
    chosen: dict[int, list[int]] = {}
    for prompt_id in prompt_ids:
        ids = found[prompt_id]
        own = [ranked[written[prompt_id]]] if prompt_id in written else []
        if len(ids) + len(own) > k_max:
            draw = random.Random(f"completions {seed} {prompt_id}")
            ids = draw.sample(ids, k_max - len(own))
        chosen[prompt_id] = ids + own
    batch = create_ranking_batch(
        session,
        study,
        name=name,
        completions=chosen,
        labels_wanted=labels_wanted,
        purpose=purpose,
        pool=pool,
        priority=priority,
        rate_completions=rate_completions,
        suggest_order=suggest_order,
        lease_minutes=lease_minutes,
        round_id=round_id,
        stage=stage,
    )
    if purpose is Purpose.evaluation:
        judged = {policy.id for policy in policies}
        if ranked:
            judged.add(demonstrations_policy(session, study).id)
        add_evaluation(session, batch, judged)
    return batch


def _check_completions(
    session: Session, study: Study, completions: Mapping[int, Sequence[int]]
) -> None:
    asked = [completion_id for ids in completions.values() for completion_id in ids]
    if not asked:
        raise Invalid("A batch has at least one prompt.")
    rows = session.execute(
        select(Completion.id, Completion.prompt_id, usable_prompt())
        .join(Completion.prompt)
        .where(Completion.study_id == study.id, among(Completion.id, asked))
    ).all()
    if not all(usable for *_, usable in rows):
        raise Invalid(UNUSABLE)
    prompt_of = {completion_id: prompt_id for completion_id, prompt_id, _ in rows}
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
