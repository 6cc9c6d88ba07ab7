"""What labelers rank in a round: samples of one policy, and some of an earlier one beside them.

The earlier policy's answers are mostly worse, in other ways than the policy's own samples differ
among themselves. A reward model that has seen none of them does not know that they are bad, and
PPO finds that out.
"""

from __future__ import annotations

import math
import random
from typing import Any

from sqlalchemy import select, update

from app.errors import Invalid
from app.models import Batch, Completion, LabelTask, Policy, Run
from app.services import batches
from app.services.round_config import RoundConfig
from app.services.round_context import Context

SPARE = 2  # samples more than are ranked: what a policy says twice, a ranking shows once


def ranking_requests(
    context: Context, stage: str, *, beside: str, part: str
) -> list[dict[str, Any]]:
    """How many samples a sampling run makes of the prompts of `part`, by policy."""
    config = context.config
    request = {"policy": context.policy(stage).label, "part": part}
    requests = [{**request, "n": config.completions_max + SPARE}]
    if config.contrast_share:
        most = math.ceil(config.completions_max * config.contrast_share)
        requests.append({**request, "policy": context.policy(beside).label, "n": most})
    return requests


def make_ranking_batch(
    context: Context, run: Run, stage: str, *, beside: str, name: str, round_id: int | None
) -> Batch:
    """A ranking task for each prompt with enough different samples, K drawn from the config.

    About `contrast_share` of the K come from the policy of the stage `beside`. Raises Invalid when
    no prompt has enough.
    """
    config, policy = context.config, context.policy(stage)
    own = _distinct_samples(context, run, policy)
    others = _distinct_samples(context, run, context.policy(beside))
    rng = random.Random(f"{context.round.seed}:{run.id}")
    chosen: dict[int, list[int]] = {}
    for prompt_id in sorted(own):
        k = rng.randint(config.completions_min, config.completions_max)
        picked = _picked(own[prompt_id], others.get(prompt_id, {}), k, config)
        if len(picked) >= config.completions_min:
            chosen[prompt_id] = picked
    if not chosen:
        raise Invalid(
            f"{policy.name} gave no prompt {config.completions_min} different completions: "
            "there is nothing to rank."
        )
    batch = batches.create_ranking_batch(
        context.session,
        context.study,
        name=name,
        completions=chosen,
        round_id=round_id,
        stage="rankings",
    )
    twice = rng.sample(sorted(chosen), round(len(chosen) * config.ranking_overlap))
    context.session.execute(
        update(LabelTask)
        .where(LabelTask.batch_id == batch.id, LabelTask.prompt_id.in_(twice))
        .values(labels_wanted=2)
    )
    return batch


def _distinct_samples(context: Context, run: Run, policy: Policy) -> dict[int, dict[str, int]]:
    """Ids of a policy's completions in a run by text, by prompt id; without the empty ones."""
    rows = context.session.execute(
        select(Completion.prompt_id, Completion.id, Completion.text)
        .where(Completion.run_id == run.id, Completion.policy_id == policy.id)
        .order_by(Completion.prompt_id, Completion.sample_index)
    )
    found: dict[int, dict[str, int]] = {}
    for prompt_id, completion_id, text in rows:
        if text.strip():
            found.setdefault(prompt_id, {}).setdefault(text, completion_id)
    return found


def _picked(own: dict[str, int], others: dict[str, int], k: int, config: RoundConfig) -> list[int]:
    """Ids of at most `k` completions with different texts, the contrast's share of them first."""
    contrast = [id_ for text, id_ in others.items() if text not in own]
    contrast = contrast[: round(k * config.contrast_share)]
    return contrast + list(own.values())[: k - len(contrast)]
