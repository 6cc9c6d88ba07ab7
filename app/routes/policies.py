"""The study's own policies: what they are, and sampling one, plainly or as the best of n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.db import DbSession
from app.errors import DomainError, Invalid
from app.models import CheckpointKind, Split, Study
from app.render import page
from app.routes.deps import ResearcherStudy
from app.services import policies

router = APIRouter(prefix="/studies/{slug}/policies")

DEFAULTS: dict[str, Any] = {
    "checkpoint": "",
    "reward": "",
    "best_of": "1",
    "completions": "1",
    "count": "",
    "splits": [Split.test.value],
}


@router.get("")
def list_policies(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    return _page(request, session, study, DEFAULTS)


@router.post("")
def sample(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    checkpoint: Annotated[str, Form()] = "",
    reward: Annotated[str, Form()] = "",
    best_of: Annotated[str, Form()] = "1",
    completions: Annotated[str, Form()] = "1",
    count: Annotated[str, Form()] = "",
    splits: Annotated[list[str] | None, Form()] = None,
) -> Response:
    """Start the run; the form comes back as it was filled in when something is wrong with it."""
    values = {
        "checkpoint": checkpoint,
        "reward": reward,
        "best_of": best_of,
        "completions": completions,
        "count": count,
        "splits": [split for split in splits or [] if split in set(Split)],
    }
    try:
        find = policies.find_checkpoint
        number = _number(checkpoint, "Checkpoint", 2**63 - 1)
        chooser = _number(reward, "Reward model", 2**63 - 1) if reward.strip() else None
        if not values["splits"]:
            raise Invalid("Choose at least one split.")
        run = policies.sample_policy(
            session,
            study,
            find(session, study, number, CheckpointKind.policy),
            splits=[Split(split) for split in values["splits"]],
            count=_number(count, "Prompts", 1_000_000) if count.strip() else None,
            n=_number(completions, "Completions a prompt", 100),
            best_of=_number(best_of, "Best of n", policies.MOST),
            reward=None
            if chooser is None
            else find(session, study, chooser, CheckpointKind.reward_model),
        )
    except DomainError as error:
        session.rollback()
        return _page(request, session, study, values, error)
    return RedirectResponse(f"/studies/{study.slug}/runs/{run.id}", status_code=303)


def _number(typed: str, label: str, high: int) -> int:
    text = typed.strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= high):
        raise Invalid(f"{label}: a whole number from 1 to {high:,}.")
    return int(text)


def _page(
    request: Request,
    session: DbSession,
    study: Study,
    values: Mapping[str, Any],
    error: DomainError | None = None,
) -> Response:
    def options(kind: CheckpointKind) -> list[tuple[str, str]]:
        found = policies.checkpoints_of(session, study, kind)
        return [(str(c.id), f"{c.label} #{c.id}") for c in found]

    context = {
        "study": study,
        "values": values,
        "policies": policies.own_policies(session, study),
        "checkpoints": options(CheckpointKind.policy),
        "reward_models": options(CheckpointKind.reward_model),
        "splits": list(Split),
        "most": policies.MOST,
        "error": error.message if error else None,
    }
    return page(request, "data/policies.html", context, status=error.status if error else 200)
