"""What labels say: win rates of an evaluation, agreement of labelers, and a round's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import (
    Assignment,
    Batch,
    Completion,
    Demonstration,
    Evaluation,
    EvaluationPolicy,
    LabelTask,
    Policy,
    Pool,
    Purpose,
    Ranking,
    RankingItem,
    Round,
    Run,
    Study,
)
from app.stats.agreement import agreement
from app.stats.proportion import Proportion
from app.stats.winrate import win_rate
from trainer import contract


def _tiers(session: Session, *conditions: Any) -> Iterator[tuple[Any, dict[int, int]]]:
    """(assignment, {completion: tier}) for each current ranking that meets the conditions."""
    rows = session.execute(
        select(Ranking.id, Assignment.label_task_id, RankingItem.completion_id, RankingItem.tier)
        .join(RankingItem, RankingItem.ranking_id == Ranking.id)
        .join(Assignment, Assignment.id == Ranking.assignment_id)
        .where(Ranking.superseded_at.is_(None), *conditions)
        .order_by(Ranking.id)
    )
    found: dict[int, tuple[int, dict[int, int]]] = {}
    for ranking_id, task_id, completion_id, tier in rows:
        found.setdefault(ranking_id, (task_id, {}))[1][completion_id] = tier
    yield from found.values()


def labeler_agreement(session: Session, study: Study, pool: Pool) -> Proportion | None:
    """How often two labelers of the pool agree on a comparison (paper, section 3.3)."""
    return agreement(_tiers(session, Ranking.study_id == study.id, Ranking.pool == pool))


def add_evaluation(session: Session, batch: Batch, policies: Collection[int]) -> Evaluation:
    """What the batch's rankings decide: which of these policies, by their ids, is preferred."""
    evaluation = Evaluation(study_id=batch.study_id, round_id=batch.round_id, batch_id=batch.id)
    session.add(evaluation)
    session.flush()
    session.add_all(
        EvaluationPolicy(evaluation_id=evaluation.id, study_id=batch.study_id, policy_id=policy_id)
        for policy_id in policies
    )
    session.flush()
    return evaluation


def evaluation_of(session: Session, batch: Batch) -> Evaluation | None:
    return session.scalar(select(Evaluation).where(Evaluation.batch_id == batch.id))


def evaluation_policies(session: Session, evaluation: Evaluation) -> list[Policy]:
    return list(
        session.scalars(
            select(Policy)
            .join(EvaluationPolicy, EvaluationPolicy.policy_id == Policy.id)
            .where(EvaluationPolicy.evaluation_id == evaluation.id)
            .order_by(Policy.id)
        )
    )


def win_rates(session: Session, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Every policy against every other, by label, with 95 % intervals clustered by prompt.

    Where two have one label, such as those of two rounds, they stand under their names.
    """
    policies = evaluation_policies(session, evaluation)
    labels = Counter(policy.label for policy in policies)
    names = {p.id: p.label if labels[p.label] == 1 else p.name for p in policies}
    rows = session.execute(
        select(Ranking.id, Ranking.prompt_id, Completion.policy_id, RankingItem.tier)
        .join(RankingItem, RankingItem.ranking_id == Ranking.id)
        .join(Completion, Completion.id == RankingItem.completion_id)
        .join(Assignment, Assignment.id == Ranking.assignment_id)
        .join(Assignment.label_task)
        .where(
            Ranking.superseded_at.is_(None),
            LabelTask.batch_id == evaluation.batch_id,
        )
    )
    judged: dict[int, tuple[int, dict[int, int]]] = {}
    for ranking_id, prompt_id, policy_id, tier in rows:
        judged.setdefault(ranking_id, (prompt_id, {}))[1][policy_id] = tier
    found = []
    for policy in policies:
        for baseline in policies:
            rate = win_rate(judged.values(), policy.id, baseline.id) if policy != baseline else None
            if rate is not None:
                found.append(
                    {
                        "policy": names[policy.id],
                        "baseline": names[baseline.id],
                        "win_rate": rate.rate,
                        "low": rate.low,
                        "high": rate.high,
                        "judgements": rate.n,
                    }
                )
    return found


def mean_scores(session: Session, run: Run) -> dict[str, float]:
    """The reward model's mean score of each policy's completions of a sample run, by label."""
    rows = session.execute(
        select(Policy.label, func.avg(Completion.score))
        .join(Policy, Policy.id == Completion.policy_id)
        .where(Completion.run_id == run.id, Completion.sample_index == 0)
        .group_by(Policy.label)
    )
    return {label: score for label, score in rows if score is not None}


def _count(session: Session, label: Any, *conditions: Any) -> int:
    return (
        session.scalar(
            select(func.count())
            .select_from(label)
            .where(label.superseded_at.is_(None), *conditions)
        )
        or 0
    )


def round_report(session: Session, round_: Round) -> dict[str, Any]:
    """The figures of a finished round, plain enough for a JSON file.

    `rm_accuracy` is the reward model's held-out pairwise accuracy with its interval, beside it how
    often the labelers of the training pool agree with each other.
    """
    study = session.get_one(Study, round_.study_id)
    runs = {run.stage: run for run in session.scalars(select(Run).where(Run.round_id == round_.id))}
    evaluation = session.scalar(select(Evaluation).where(Evaluation.round_id == round_.id))
    metrics = (runs["reward"].result or {}).get("metrics", {}) if "reward" in runs else {}
    pools = {pool: labeler_agreement(session, study, pool) for pool in Pool}
    assert round_.finished_at is not None
    return {
        "study": study.slug,
        "round": round_.number,
        "seed": round_.seed,
        "minutes": (round_.finished_at - round_.created_at).total_seconds() / 60,
        "rm_accuracy": {
            "rate": metrics.get(contract.RM_ACCURACY),
            "low": metrics.get(contract.RM_ACCURACY_LOW),
            "high": metrics.get(contract.RM_ACCURACY_HIGH),
            "comparisons": metrics.get(contract.RM_PAIRS),
            "longer_wins": metrics.get(contract.RM_LONGER_WINS),
        },
        "agreement": {
            pool.value: None if found is None else asdict(found) for pool, found in pools.items()
        },
        "win_rates": win_rates(session, evaluation) if evaluation is not None else [],
        "mean_scores": mean_scores(session, runs["sample-ppo"]) if "sample-ppo" in runs else {},
        "labels": {
            "demonstrations": _count(
                session,
                Demonstration,
                Demonstration.study_id == study.id,
                Demonstration.purpose == Purpose.training,
            ),
            "rankings": _count(
                session,
                Ranking,
                Ranking.study_id == study.id,
                Ranking.purpose == Purpose.training,
            ),
            "evaluation_rankings": _count(
                session,
                Ranking,
                Ranking.study_id == study.id,
                Ranking.purpose == Purpose.evaluation,
            ),
        },
    }
