"""The completions of rankings with their tiers, many rankings at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import AssignmentItem, Completion, Ranking, RankingItem
from app.services.bulk import among


def ranked_items(session: Session, ranking_ids: Sequence[int]) -> dict[int, Sequence[Any]]:
    """By ranking, in the order in which its labeler saw them: rows of ranking_id, completion_id,
    tier, text and policy_id."""
    rows = session.execute(
        select(
            RankingItem.ranking_id,
            RankingItem.completion_id,
            RankingItem.tier,
            Completion.text,
            Completion.policy_id,
        )
        .join(Completion, Completion.id == RankingItem.completion_id)
        .join(Ranking, Ranking.id == RankingItem.ranking_id)
        .join(
            AssignmentItem,
            (AssignmentItem.assignment_id == Ranking.assignment_id)
            & (AssignmentItem.completion_id == RankingItem.completion_id),
        )
        .where(among(RankingItem.ranking_id, ranking_ids))
        .order_by(RankingItem.ranking_id, AssignmentItem.position)
    )
    return {key: list(group) for key, group in groupby(rows, key=lambda row: row.ranking_id)}


def tie_groups(tiers: Sequence[int]) -> list[list[int]]:
    """Ordered tie groups, best first, of places in `tiers`."""
    return [
        [place for place, tier in enumerate(tiers) if tier == wanted]
        for wanted in sorted(set(tiers))
    ]
