"""A study's overview, its rounds, and the live page of each."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from app.db import DbSession
from app.errors import DomainError, Invalid
from app.models import Study
from app.render import page
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services import rounds, studies
from app.services.batch_progress import batches_with_progress
from app.services.round_baselines import possible_baselines
from app.services.round_config import REHEARSAL, RoundConfig, round_config
from app.services.round_views import round_view

router = APIRouter(prefix="/studies/{slug}")


def _address(study: Study, number: int) -> str:
    return f"/studies/{study.slug}/rounds/{number}"


@router.get("")
def overview(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    """What the study holds, and its rounds."""
    batches = batches_with_progress(session, study)
    context = {
        "study": study,
        "counts": studies.study_counts(session, study),
        "rounds": rounds.rounds_of(session, study),
        "batches": [(b, progress) for b, progress in batches if not progress.finished],
    }
    return page(request, "rounds/overview.html", context)


@router.get("/rounds.json")
def list_rounds(session: DbSession, study: ResearcherStudy) -> Response:
    """The study's rounds, newest first, for programs."""
    found = rounds.rounds_of(session, study)
    return JSONResponse([{"number": r.number, "state": r.state, "seed": r.seed} for r in found])


@router.get("/rounds/new")
def new_round(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    """The form for a round, filled with the study's defaults."""
    config = RoundConfig(**{**(REHEARSAL if study.rehearsal else {}), **study.settings})
    values = {**config.model_dump(), "seed": secrets.randbelow(10_000)}
    values["overrides"] = json.dumps(config.overrides, indent=1) if config.overrides else ""
    values["base_model"] = config.base_model or ""
    return _form(request, session, study, values)


def _form(
    request: Request,
    session: DbSession,
    study: Study,
    values: dict[str, Any],
    error: DomainError | None = None,
) -> Response:
    context = {
        "study": study,
        "values": values,
        "possible_baselines": possible_baselines(session, study),
        "error": error.message if error else None,
    }
    return page(request, "rounds/new.html", context, status=error.status if error else 200)


@router.post("/rounds")
def start_round(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    user: CurrentUser,
    preset: Annotated[str, Form()],
    seed: Annotated[str, Form()],
    demonstrations: Annotated[str, Form()],
    ranking_prompts: Annotated[str, Form()],
    completions_min: Annotated[str, Form()],
    completions_max: Annotated[str, Form()],
    contrast_share: Annotated[str, Form()],
    ranking_overlap: Annotated[str, Form()],
    evaluation_prompts: Annotated[str, Form()],
    evaluation_labels: Annotated[str, Form()],
    next_ranking_prompts: Annotated[str, Form()],
    baselines: Annotated[list[str] | None, Form()] = None,
    best_of: Annotated[str, Form()] = "1",
    rl_init: Annotated[str, Form()] = "true",
    base_model: Annotated[str, Form()] = "",
    overrides: Annotated[str, Form()] = "",
) -> Response:
    """Start a round; the form comes back as it was filled in when something is wrong with it."""
    values: dict[str, Any] = {
        "preset": preset,
        "rl_init": rl_init,
        "demonstrations": demonstrations,
        "ranking_prompts": ranking_prompts,
        "completions_min": completions_min,
        "completions_max": completions_max,
        "contrast_share": contrast_share,
        "ranking_overlap": ranking_overlap,
        "evaluation_prompts": evaluation_prompts,
        "evaluation_labels": evaluation_labels,
        "best_of": best_of,
        "next_ranking_prompts": next_ranking_prompts,
        "baselines": baselines or [],
    }
    try:
        config = round_config(
            {
                **study.settings,
                **values,
                "base_model": base_model.strip() or None,
                "overrides": _json_object(overrides),
            }
        )
        round_ = rounds.start_round(session, study, config, seed=_seed(seed), started_by=user)
    except DomainError as error:
        session.rollback()
        values |= {"seed": seed, "base_model": base_model, "overrides": overrides}
        return _form(request, session, study, values, error)
    return RedirectResponse(_address(study, round_.number), status_code=303)


def _seed(text: str) -> int:
    if not text.strip().isdecimal() or int(text) >= 2**31:
        raise Invalid("seed: a whole number from 0 to 2147483647.")
    return int(text)


def _json_object(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise Invalid(f"overrides: not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise Invalid('overrides: an object by kind of run, such as {"ppo": {"episodes": 4096}}.')
    return value


@router.get("/rounds/{number}")
def show_round(
    request: Request, session: DbSession, study: ResearcherStudy, number: int
) -> Response:
    """The live page: it asks for itself again while the round goes on."""
    view = round_view(session, study, number)
    return page(request, "rounds/round.html", {"study": study, "view": view}, fragment="live")


@router.get("/rounds/{number}/status.json")
def round_status(session: DbSession, study: ResearcherStudy, number: int) -> Response:
    """The same in JSON, for the terminal."""
    view = round_view(session, study, number)
    return JSONResponse({**asdict(view), "over": view.over})


@router.post("/rounds/{number}/cancel")
def cancel_round(session: DbSession, study: ResearcherStudy, number: int) -> Response:
    rounds.cancel(session, rounds.get_round(session, study, number))
    return RedirectResponse(_address(study, number), status_code=303)


@router.post("/rounds/{number}/retry")
def retry_round(session: DbSession, study: ResearcherStudy, number: int) -> Response:
    rounds.retry(session, rounds.get_round(session, study, number))
    return RedirectResponse(_address(study, number), status_code=303)
