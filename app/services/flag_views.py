"""Flags as researchers read them: with what the labeler saw and wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.models import AssignmentItem, Demonstration, Flag, Study
from app.services.bulk import among
from app.services.flags import flags_of_study


@dataclass(frozen=True, kw_only=True)
class FlagView:
    """A flag, the completions in the order and under the letters that its labeler saw, and the
    demonstration that they wrote, or what they have drafted of it."""

    flag: Flag
    items: Sequence[AssignmentItem]
    written: str


def flag_views(session: Session, study: Study) -> list[FlagView]:
    """The study's flags, unanswered first, in three queries."""
    flags = flags_of_study(session, study)
    assignments = [flag.assignment_id for flag in flags]
    items: dict[int, list[AssignmentItem]] = {}
    for item in session.scalars(
        select(AssignmentItem)
        .where(among(AssignmentItem.assignment_id, assignments))
        .options(joinedload(AssignmentItem.completion))
        .order_by(AssignmentItem.assignment_id, AssignmentItem.position)
    ):
        items.setdefault(item.assignment_id, []).append(item)
    written = dict(
        iter(
            session.execute(
                select(Demonstration.assignment_id, Demonstration.text).where(
                    among(Demonstration.assignment_id, assignments),
                    Demonstration.superseded_at.is_(None),
                )
            )
        )
    )
    return [
        FlagView(
            flag=flag,
            items=items.get(flag.assignment_id, []),
            written=written.get(flag.assignment_id)
            or str((flag.assignment.draft or {}).get("text", "")),
        )
        for flag in flags
    ]
