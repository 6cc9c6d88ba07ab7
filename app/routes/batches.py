"""A study's batches of label tasks, and making one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from app.db import DbSession
from app.errors import DomainError, Invalid
from app.models import LabelKind, Pool, Purpose, Split, Study
from app.render import page
from app.routes.deps import ResearcherStudy
from app.services.batch_contents import policies_with_completions
from app.services.batch_progress import batches_with_progress
from app.services.batches import (
    MAX_K,
    MIN_K,
    PAPER_MIN_K,
    create_demonstration_batch,
    ranking_batch_from_policies,
)

router = APIRouter(prefix="/studies/{slug}/batches")

# Pool and purpose in one choice: the fourth combination cannot be.
AUDIENCES = {
    "training": (Purpose.training, Pool.training),
    "evaluation": (Purpose.evaluation, Pool.training),
    "heldout": (Purpose.evaluation, Pool.heldout),
}
DEFAULTS: dict[str, Any] = {
    "name": "",
    "count": "",
    "labels": "1",
    "audience": "training",
    "k_min": str(PAPER_MIN_K),
    "k_max": str(MAX_K),
    "rate": True,
    "splits": [],
    "policies": [],
}


async def posted(request: Request) -> AsyncIterator[FormData]:
    async with request.form() as form:
        yield form


Posted = Annotated[FormData, Depends(posted)]


@router.get("")
def list_batches(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    context = {"study": study, "batches": batches_with_progress(session, study)}
    return page(request, "data/batches.html", context)


@router.get("/new/{kind}")
def new_batch(
    request: Request, session: DbSession, study: ResearcherStudy, kind: LabelKind
) -> Response:
    return _form(request, session, study, kind, DEFAULTS)


@router.post("/new/{kind}")
def create_batch(
    request: Request, session: DbSession, study: ResearcherStudy, kind: LabelKind, form: Posted
) -> Response:
    """Make the batch; the form comes back as it was filled in when something is wrong with it."""
    values = _values(form)
    try:
        if kind is LabelKind.demonstration:
            _create_demonstrations(session, study, values)
        else:
            _create_rankings(session, study, values)
    except DomainError as error:
        session.rollback()
        return _form(request, session, study, kind, values, error)
    return RedirectResponse(f"/studies/{study.slug}/batches", status_code=303)


def _create_demonstrations(session: DbSession, study: Study, values: Mapping[str, Any]) -> None:
    purpose, pool = _audience(values)
    create_demonstration_batch(
        session,
        study,
        name=values["name"],
        count=_number(values, "count", "Prompts", 1, 1_000_000),
        splits=[Split(split) for split in values["splits"]],
        labels_per_task=_number(values, "labels", "Labels a prompt", 1, 100),
        purpose=purpose,
        pool=pool,
    )


def _create_rankings(session: DbSession, study: Study, values: Mapping[str, Any]) -> None:
    purpose, pool = _audience(values)
    policies = [
        policy
        for policy, _ in policies_with_completions(session, study)
        if str(policy.id) in values["policies"]
    ]
    ranking_batch_from_policies(
        session,
        study,
        policies,
        name=values["name"],
        k_min=_number(values, "k_min", "Fewest completions", MIN_K, MAX_K),
        k_max=_number(values, "k_max", "Most completions", MIN_K, MAX_K),
        count=_number(values, "count", "Prompts", 1, 1_000_000) if values["count"] else None,
        splits=[Split(split) for split in values["splits"]],
        labels_wanted=_number(values, "labels", "Labels a prompt", 1, 100),
        purpose=purpose,
        pool=pool,
        rate_completions=values["rate"],
    )


def _values(form: FormData) -> dict[str, Any]:
    """The form's fields as they were typed, so that they can be shown again."""
    typed = {
        name: str(form.get(name, DEFAULTS[name])).strip()
        for name in ("name", "count", "labels", "audience", "k_min", "k_max")
    }
    splits = [split for split in form.getlist("splits") if split in set(Split)]
    return typed | {
        "rate": "rate" in form,
        "splits": splits,
        "policies": [str(value) for value in form.getlist("policies")],
    }


def _audience(values: Mapping[str, Any]) -> tuple[Purpose, Pool]:
    if values["audience"] not in AUDIENCES:
        raise Invalid("Choose who labels, and what for.")
    return AUDIENCES[values["audience"]]


def _number(values: Mapping[str, Any], name: str, label: str, low: int, high: int) -> int:
    typed = values[name]
    if not typed.isdecimal() or len(typed) > 9 or not low <= int(typed) <= high:
        raise Invalid(f"{label}: a whole number from {low:,} to {high:,}.")
    return int(typed)


def _form(
    request: Request,
    session: DbSession,
    study: Study,
    kind: LabelKind,
    values: Mapping[str, Any],
    error: DomainError | None = None,
) -> Response:
    context = {
        "study": study,
        "kind": kind,
        "values": values,
        "policies": policies_with_completions(session, study),
        "splits": list(Split),
        "error": error.message if error else None,
    }
    return page(request, "data/new_batch.html", context, status=error.status if error else 200)
