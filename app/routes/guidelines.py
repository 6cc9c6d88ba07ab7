"""A study's guidelines: the newest, the earlier versions, and the editor."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.db import DbSession
from app.errors import DomainError
from app.models import Study
from app.render import page
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services import guideline_versions
from app.services.guideline_versions import GuidelinesChanged
from app.services.markdown import render_markdown
from app.services.studies import current_guidelines

router = APIRouter(prefix="/studies/{slug}/guidelines")

Markdown = Annotated[str, Form()]
Version = Annotated[int, Path(ge=1, lt=2**31)]


@router.get("")
def show_guidelines(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    return _version(request, session, study, current_guidelines(session, study).version)


@router.get("/edit")
def edit(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    newest = current_guidelines(session, study)
    return _editor(request, study, markdown=newest.markdown, based_on=newest.version)


@router.post("/preview")
def preview(study: ResearcherStudy, markdown: Markdown = "") -> Response:  # noqa: ARG001 — its right
    """The text as labelers would see it, for the editor."""
    return HTMLResponse(render_markdown(markdown))


@router.post("")
def save(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    user: CurrentUser,
    based_on: Annotated[int, Form()],
    markdown: Markdown = "",
    intent: Annotated[str, Form()] = "save",
) -> Response:
    """Save a new version, or show the text first; what cannot be saved comes back as typed."""
    if intent == "preview":
        return _editor(request, study, markdown=markdown, based_on=based_on)
    try:
        guideline_versions.save_guidelines(session, study, markdown, based_on=based_on, author=user)
    except GuidelinesChanged as error:
        session.rollback()
        return _editor(request, study, markdown=markdown, based_on=error.version, error=error)
    except DomainError as error:
        session.rollback()
        return _editor(request, study, markdown=markdown, based_on=based_on, error=error)
    return RedirectResponse(f"/studies/{study.slug}/guidelines", status_code=303)


@router.get("/{number}")
def show_version(
    request: Request, session: DbSession, study: ResearcherStudy, number: Version
) -> Response:
    return _version(request, session, study, number)


def _version(request: Request, session: DbSession, study: Study, number: int) -> Response:
    """A version as labelers see it, what it changed, and all versions."""
    views = guideline_versions.versions(session, study)
    shown = guideline_versions.get_version(views, number)
    before = [view for view in views if view.version.version < number]
    context: dict[str, Any] = {
        "study": study,
        "view": shown,
        "views": views,
        "html": render_markdown(shown.version.markdown),
        "changes": guideline_versions.changed_lines(
            before[0].version.markdown, shown.version.markdown
        )
        if before
        else [],
        "labelers": guideline_versions.labelers_of(session, study),
    }
    return page(request, "data/guidelines.html", context)


def _editor(
    request: Request,
    study: Study,
    *,
    markdown: str,
    based_on: int,
    error: DomainError | None = None,
) -> Response:
    context = {
        "study": study,
        "markdown": markdown,
        "based_on": based_on,
        "changed": isinstance(error, GuidelinesChanged),
        "html": render_markdown(markdown),
        "error": error.message if error else None,
    }
    template = "data/edit_guidelines.html"
    return page(request, template, context, status=error.status if error else 200)
