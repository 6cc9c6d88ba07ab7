"""What of a study may still be used: nothing withdrawn, nothing held back for personal data."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists

from app.models import Demonstration, Membership, PiiState, Prompt, Ranking

HELD = (PiiState.held, PiiState.dropped)


def usable_prompt() -> ColumnElement[bool]:
    """Of a row of Prompt."""
    return and_(Prompt.withdrawn_at.is_(None), Prompt.pii_state.not_in(HELD))


def usable_label(label: type[Demonstration] | type[Ranking]) -> ColumnElement[bool]:
    """Of a label: neither its labeler nor its prompt was withdrawn, and the prompt is not held."""
    # Of the label's row alone, also in a query that has prompts or memberships of its own.
    of_prompt = exists().where(Prompt.id == label.prompt_id, usable_prompt()).correlate(label)
    gone = (
        exists()
        .where(
            Membership.study_id == label.study_id,
            Membership.user_id == label.user_id,
            Membership.withdrawn_at.is_not(None),
        )
        .correlate(label)
    )
    return and_(of_prompt, ~gone)
