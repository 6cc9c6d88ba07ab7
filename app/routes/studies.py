"""The list of studies, making one, and its settings."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.db import DbSession
from app.errors import DomainError, Forbidden, Invalid
from app.render import page
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services import studies

router = APIRouter(prefix="/studies")


@router.get("")
def list_studies(request: Request, session: DbSession, user: CurrentUser) -> Response:
    """The studies that the user leads."""
    context = {
        "studies": studies.study_summaries(session, user),
        "may_create": studies.may_create_studies(session, user),
    }
    return page(request, "studies/list.html", context)


@router.get("/new")
def new_study(request: Request, session: DbSession, user: CurrentUser) -> Response:
    _check_may_create(session, user)
    values = {"name": "", "description": "", "rehearsal": False}
    return page(request, "studies/new.html", {"values": values, "error": None})


@router.post("")
def create(
    request: Request,
    session: DbSession,
    user: CurrentUser,
    name: Annotated[str, Form()],
    description: Annotated[str, Form()] = "",
    rehearsal: Annotated[bool, Form()] = False,
) -> Response:
    """Make a study; the form comes back as it was filled in when something is wrong with it."""
    _check_may_create(session, user)
    try:
        study = studies.create_study(
            session, name=name, description=description, rehearsal=rehearsal, created_by=user
        )
    except DomainError as error:
        values = {"name": name, "description": description, "rehearsal": rehearsal}
        context = {"values": values, "error": error.message}
        return page(request, "studies/new.html", context, status=error.status)
    return RedirectResponse(f"/studies/{study.slug}", status_code=303)


@router.get("/{slug}/settings")
def show_settings(request: Request, study: ResearcherStudy, saved: bool = False) -> Response:
    values = {
        "name": study.name,
        "description": study.description,
        "correction_minutes": str(study.correction_minutes),
    }
    context = {"study": study, "values": values, "error": None, "saved": saved}
    return page(request, "studies/settings.html", context)


@router.post("/{slug}/settings")
def save_settings(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    name: Annotated[str, Form()] = "",
    description: Annotated[str, Form()] = "",
    correction_minutes: Annotated[str, Form()] = "",
) -> Response:
    """Save; the form comes back as it was filled in when something is wrong with it."""
    try:
        studies.change_study(
            session,
            study,
            name=name,
            description=description,
            correction_minutes=_minutes(correction_minutes),
        )
    except DomainError as error:
        session.rollback()
        values = {
            "name": name,
            "description": description,
            "correction_minutes": correction_minutes,
        }
        context = {"study": study, "values": values, "error": error.message, "saved": False}
        return page(request, "studies/settings.html", context, status=error.status)
    return RedirectResponse(f"/studies/{study.slug}/settings?saved=true", status_code=303)


def _minutes(typed: str) -> int:
    digits = typed.strip()
    if not digits.isdecimal() or len(digits) > 9:
        raise Invalid("Time for corrections: a whole number of minutes.")
    return int(digits)


def _check_may_create(session: DbSession, user: CurrentUser) -> None:
    if not studies.may_create_studies(session, user):
        raise Forbidden("Studies are made by administrators and researchers.")
