"""A repeatable labeler: rankings by the score that imported completions came with."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import (
    Assignment,
    AssignmentItem,
    AssignmentState,
    Batch,
    Completion,
    LabelTask,
    LabelTaskState,
    Prompt,
    Ranking,
    RankingItem,
    Role,
    Study,
    User,
)
from app.services import people
from app.services.batches import MAX_K, MIN_K, create_ranking_batch
from app.services.studies import current_guidelines
from app.services.usable import usable_prompt

Scored = tuple[int, float]  # a completion's id and its score


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What `rank_by_score` made. `batch` is None when every prompt was ranked already."""

    batch: Batch | None
    rankings: int
    tied: int  # rankings with at least one tie
    sizes: Mapping[int, int]  # rankings by K


def rank_by_score(session: Session, study: Study, *, labeler_name: str = "judge") -> Judged:
    """Rank each prompt's scored completions by score, best first; equal scores tie.

    Through the rows that any labeler makes (batch, label task, submitted assignment, ranking), in
    the name of a simulated labeler, so in rehearsals only. Of each policy the newest completion
    counts; of more than MAX_K, a choice fixed by the prompt. Prompts of all splits are ranked, each
    once. Raises Invalid outside rehearsals, or when no completions came with scores.
    """
    if not study.rehearsal:
        raise Invalid(f"{study.name} is not a rehearsal: labels by a program count only there.")
    labeler = _labeler(session, study, labeler_name)
    scored = _scored_completions(session, study)
    if not scored:
        raise Invalid(f"No prompt of {study.name} has {MIN_K} completions with a score.")
    done = set(
        session.scalars(
            select(Ranking.prompt_id).where(
                Ranking.user_id == labeler.id, Ranking.study_id == study.id
            )
        )
    )
    todo = {prompt_id: choice for prompt_id, choice in scored.items() if prompt_id not in done}
    if not todo:
        return Judged(batch=None, rankings=0, tied=0, sizes={})
    batch = create_ranking_batch(
        session,
        study,
        name=f"Ranked by score ({labeler.username})",
        completions={prompt_id: [key for key, _ in choice] for prompt_id, choice in todo.items()},
        rate_completions=False,
    )
    tiers = {prompt_id: tiers_by_score(choice) for prompt_id, choice in todo.items()}
    _submit(session, study, batch, labeler, tiers)
    sizes: dict[int, int] = {}
    for choice in todo.values():
        sizes[len(choice)] = sizes.get(len(choice), 0) + 1
    return Judged(
        batch=batch,
        rankings=len(todo),
        tied=sum(max(tier.values()) < len(tier) for tier in tiers.values()),
        sizes=sizes,
    )


def tiers_by_score(scored: Sequence[Scored]) -> dict[int, int]:
    """Tier by completion id: 1 for the highest score, equal scores share one, no gaps."""
    order = sorted({score for _, score in scored}, reverse=True)
    tier_of = {score: tier for tier, score in enumerate(order, 1)}
    return {key: tier_of[score] for key, score in scored}


def _labeler(session: Session, study: Study, name: str) -> User:
    labeler = session.scalar(select(User).where(func.lower(User.username) == name.lower()))
    if labeler is None:
        labeler = people.create_user(
            session,
            username=name,
            password=secrets.token_urlsafe(32),  # nobody signs in as the judge
            display_name=f"{name} (by score)",
            simulated=True,
        )
    if not labeler.simulated:
        raise Invalid(f"{labeler.username} is a person: a program does not label in their name.")
    people.add_member(session, study, labeler, Role.labeler)
    return labeler


def _scored_completions(session: Session, study: Study) -> dict[int, list[Scored]]:
    """By id of a usable prompt, the newest scored completion of each policy, MIN_K to MAX_K."""
    newest = (
        select(Completion.prompt_id, Completion.id, Completion.external_score)
        .ext(distinct_on(Completion.prompt_id, Completion.policy_id))
        .join(Completion.prompt)
        .where(
            Completion.study_id == study.id,
            Completion.external_score.is_not(None),
            usable_prompt(),
        )
        .order_by(Completion.prompt_id, Completion.policy_id, Completion.id.desc())
    )
    found: dict[int, list[Scored]] = {}
    for prompt_id, completion_id, score in session.execute(newest):
        if score is not None:
            found.setdefault(prompt_id, []).append((completion_id, score))
    return {
        prompt_id: random.Random(prompt_id).sample(scored, MAX_K) if len(scored) > MAX_K else scored
        for prompt_id, scored in found.items()
        if len(scored) >= MIN_K
    }


def _submit(
    session: Session,
    study: Study,
    batch: Batch,
    labeler: User,
    tiers: Mapping[int, Mapping[int, int]],
) -> None:
    """Submitted assignments and current rankings for every task of the batch, in bulk.

    `tiers` gives, by prompt id, the tier of each completion id.
    """
    tasks = session.execute(
        select(LabelTask.id, Prompt.id)
        .join(LabelTask.prompt)
        .where(LabelTask.batch_id == batch.id)
        .order_by(LabelTask.id)
    ).all()
    now = session.scalar(select(func.now()))
    whose = {
        "study_id": study.id,
        "user_id": labeler.id,
        "pool": batch.pool,
        "purpose": batch.purpose,
    }
    assignments = session.scalars(
        insert(Assignment).returning(Assignment.id, sort_by_parameter_order=True),
        [
            whose
            | {
                "public_id": secrets.token_urlsafe(16),
                "label_task_id": task_id,
                "state": AssignmentState.submitted,
                "lease_until": now,
                "submitted_at": now,
            }
            for task_id, _ in tasks
        ],
    ).all()
    guidelines = current_guidelines(session, study)
    rankings = session.scalars(
        insert(Ranking).returning(Ranking.id, sort_by_parameter_order=True),
        [
            whose
            | {
                "assignment_id": assignment_id,
                "simulated": labeler.simulated,
                "prompt_id": prompt_id,
                "guideline_version_id": guidelines.id,
            }
            for assignment_id, (_, prompt_id) in zip(assignments, tasks, strict=True)
        ],
    ).all()
    shown, ranked = [], []
    for assignment_id, ranking_id, (_, prompt_id) in zip(assignments, rankings, tasks, strict=True):
        order = list(tiers[prompt_id])
        random.Random(assignment_id).shuffle(order)
        for position, completion_id in enumerate(order):
            key = {"completion_id": completion_id}
            shown.append(key | {"assignment_id": assignment_id, "position": position})
            ranked.append(key | {"ranking_id": ranking_id, "tier": tiers[prompt_id][completion_id]})
    session.execute(insert(AssignmentItem), shown)
    session.execute(insert(RankingItem), ranked)
    session.execute(
        update(LabelTask)
        .where(LabelTask.batch_id == batch.id)
        .values(state=LabelTaskState.complete, labels_done=1, slots_taken=1)
        .execution_options(synchronize_session=False)
    )
