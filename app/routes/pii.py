"""Prompts held for personal information, and deciding about them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from app.db import DbSession
from app.errors import DomainError, NotFound
from app.models import Study
from app.render import page
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services import pii_queue

router = APIRouter(prefix="/studies/{slug}/pii")

PromptId = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("")
def show_queue(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    done: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
) -> Response:
    """The queue; `done` is the prompt that was decided a moment ago, which can be undone."""
    return _page(request, session, study, done=done)


@router.post("/{prompt_id}")
def decide(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    user: CurrentUser,
    prompt_id: PromptId,
    decision: Annotated[str, Form()] = "",
    span: Annotated[list[int] | None, Form()] = None,
    also: Annotated[str, Form()] = "",
) -> Response:
    """Decide; what cannot be done comes back with the reason."""
    try:
        pii_queue.decide(session, study, user, prompt_id, decision, chosen=span or (), also=also)
    except NotFound:
        raise
    except DomainError as error:
        session.rollback()
        return _page(request, session, study, error=error, typed={prompt_id: also})
    return RedirectResponse(f"/studies/{study.slug}/pii?done={prompt_id}", status_code=303)


@router.post("/{prompt_id}/undo")
def undo(session: DbSession, study: ResearcherStudy, prompt_id: PromptId) -> Response:
    pii_queue.undo(session, study, prompt_id)
    return RedirectResponse(f"/studies/{study.slug}/pii#prompt-{prompt_id}", status_code=303)


def _page(
    request: Request,
    session: DbSession,
    study: Study,
    *,
    done: int | None = None,
    error: DomainError | None = None,
    typed: dict[int, str] | None = None,
) -> Response:
    queue = pii_queue.pii_queue(session, study)
    context = {
        "study": study,
        "queue": queue,
        "kinds": pii_queue.WORDS,
        "done": next((prompt for prompt, _ in queue.decided if prompt.id == done), None),
        "error": error.message if error else None,
        "typed": typed or {},
    }
    return page(request, "data/pii.html", context, status=error.status if error else 200)
