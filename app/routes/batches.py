"""A study's batches of label tasks: making one, how far it is, withdrawing it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, TypedDict

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from app.db import DbSession
from app.errors import DomainError, Invalid
from app.models import Batch, LabelKind, Pool, Purpose, Split, Study, WritingStyle
from app.render import page
from app.routes.deps import ResearcherStudy
from app.services import batch_views
from app.services.batch_contents import policies_with_completions
from app.services.batch_progress import batches_with_progress
from app.services.batches import (
    MAX_K,
    MIN_K,
    PAPER_MIN_K,
    create_demonstration_batch,
    ranking_batch_from_policies,
)
from app.services.label_forms import SKIP_REASONS
from app.services.writing import create_writing_batch

router = APIRouter(prefix="/studies/{slug}/batches")

# Pool and purpose in one choice: the fourth combination cannot be.
AUDIENCES = {
    "training": (Purpose.training, Pool.training),
    "evaluation": (Purpose.evaluation, Pool.training),
    "heldout": (Purpose.evaluation, Pool.heldout),
}
STYLES = {
    WritingStyle.plain: "Plain: any task, as diverse as can be",
    WritingStyle.few_shot: "Few-shot: an instruction with pairs of query and response",
    WritingStyle.user_based: "User-based: after a use case that you give",
}
TEXTS: dict[str, str] = {
    "name": "",
    "count": "",
    "labels": "1",
    "audience": "training",
    "k_min": str(PAPER_MIN_K),
    "k_max": str(MAX_K),
    "style": WritingStyle.plain.value,
    "briefs": "",
    "lease_minutes": "60",
    "priority": "0",
}
CHECKED = {"rate": True, "suggest": True, "demonstrations": False}
DEFAULTS: dict[str, Any] = {**TEXTS, **CHECKED, "splits": [], "policies": []}
MAX_LEASE_MINUTES = 1_440
MAX_PRIORITY = 1_000


async def posted(request: Request) -> AsyncIterator[FormData]:
    async with request.form() as form:
        yield form


Posted = Annotated[FormData, Depends(posted)]
BatchId = Annotated[int, Path(ge=1, lt=2**63)]


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
        match kind:
            case LabelKind.demonstration:
                batch = _create_demonstrations(session, study, values)
            case LabelKind.ranking:
                batch = _create_rankings(session, study, values)
            case LabelKind.prompt:
                batch = _create_prompts(session, study, values)
    except DomainError as error:
        session.rollback()
        return _form(request, session, study, kind, values, error)
    return RedirectResponse(_address(study, batch.id), status_code=303)


@router.get("/{batch_id}")
def show_batch(
    request: Request, session: DbSession, study: ResearcherStudy, batch_id: BatchId
) -> Response:
    view = batch_views.batch_view(session, study, batch_id)
    context = {"study": study, "view": view, "reasons": SKIP_REASONS}
    return page(request, "data/batch.html", context)


@router.post("/{batch_id}/withdraw")
def withdraw(session: DbSession, study: ResearcherStudy, batch_id: BatchId) -> Response:
    batch_views.withdraw(session, batch_views.find_batch(session, study, batch_id))
    return RedirectResponse(_address(study, batch_id), status_code=303)


@router.post("/{batch_id}/reopen")
def reopen(session: DbSession, study: ResearcherStudy, batch_id: BatchId) -> Response:
    batch_views.reopen(session, batch_views.find_batch(session, study, batch_id))
    return RedirectResponse(_address(study, batch_id), status_code=303)


def _address(study: Study, batch_id: int) -> str:
    return f"/studies/{study.slug}/batches/{batch_id}"


def _create_demonstrations(session: DbSession, study: Study, values: Mapping[str, Any]) -> Batch:
    purpose, pool = _audience(values)
    return create_demonstration_batch(
        session,
        study,
        name=values["name"],
        count=_number(values, "count", "Prompts", 1, 1_000_000),
        splits=[Split(split) for split in values["splits"]],
        labels_per_task=_number(values, "labels", "Labels a prompt", 1, 100),
        purpose=purpose,
        pool=pool,
        **_queue(values),
    )


def _create_rankings(session: DbSession, study: Study, values: Mapping[str, Any]) -> Batch:
    purpose, pool = _audience(values)
    policies = [
        policy
        for policy, _ in policies_with_completions(session, study)
        if str(policy.id) in values["policies"]
    ]
    return ranking_batch_from_policies(
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
        suggest_order=values["suggest"],
        include_demonstrations=values["demonstrations"],
        **_queue(values),
    )


def _create_prompts(session: DbSession, study: Study, values: Mapping[str, Any]) -> Batch:
    if values["style"] not in set(WritingStyle):
        raise Invalid("Choose the kind of prompt.")
    return create_writing_batch(
        session,
        study,
        name=values["name"],
        style=WritingStyle(values["style"]),
        count=_number(values, "count", "Prompts", 1, 100_000),
        briefs=values["briefs"].splitlines(),
        **_queue(values),
    )


class Queue(TypedDict):
    """When tasks are handed out, and for how long."""

    lease_minutes: int
    priority: int


def _queue(values: Mapping[str, Any]) -> Queue:
    low_first = -MAX_PRIORITY
    return {
        "lease_minutes": _number(values, "lease_minutes", "Lease minutes", 1, MAX_LEASE_MINUTES),
        "priority": _number(values, "priority", "Place in the queue", low_first, MAX_PRIORITY),
    }


def _values(form: FormData) -> dict[str, Any]:
    """The form's fields as they were typed, so that they can be shown again."""
    typed = {name: str(form.get(name, default)).strip() for name, default in TEXTS.items()}
    return {
        **typed,
        **{name: name in form for name in CHECKED},
        "splits": [split for split in form.getlist("splits") if split in set(Split)],
        "policies": [str(value) for value in form.getlist("policies")],
    }


def _audience(values: Mapping[str, Any]) -> tuple[Purpose, Pool]:
    if values["audience"] not in AUDIENCES:
        raise Invalid("Choose who labels, and what for.")
    return AUDIENCES[values["audience"]]


def _number(values: Mapping[str, Any], name: str, label: str, low: int, high: int) -> int:
    typed = values[name]
    digits = typed.removeprefix("-")
    if not digits.isdecimal() or len(digits) > 9 or not low <= int(typed) <= high:
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
        "styles": list(STYLES.items()),
        "error": error.message if error else None,
    }
    return page(request, "data/new_batch.html", context, status=error.status if error else 200)
