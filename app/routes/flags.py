"""What labelers flagged in a study, and answering it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import RedirectResponse, Response

from app.db import DbSession
from app.errors import DomainError, NotFound
from app.models import Study
from app.render import page
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services import flags
from app.services.flag_views import flag_views

router = APIRouter(prefix="/studies/{slug}/flags")


@router.get("")
def list_flags(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    return _page(request, session, study)


@router.post("/{flag_id}")
def answer(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    user: CurrentUser,
    flag_id: Annotated[int, Path(ge=1, lt=2**63)],
    words: Annotated[str, Form(alias="answer")] = "",
) -> Response:
    """Answer; a text that cannot be taken comes back, beside what was answered meanwhile."""
    try:
        flags.answer_flag(session, flags.find_flag(session, study, flag_id), user, words)
    except NotFound:
        raise
    except DomainError as error:
        session.rollback()
        return _page(request, session, study, flag_id, words, error)
    return RedirectResponse(f"/studies/{study.slug}/flags", status_code=303)


def _page(
    request: Request,
    session: DbSession,
    study: Study,
    flag_id: int | None = None,
    words: str = "",
    error: DomainError | None = None,
) -> Response:
    context = {
        "study": study,
        "views": flag_views(session, study),
        "typed": {flag_id: words},
        "error": error.message if error else None,
    }
    return page(request, "data/flags.html", context, status=error.status if error else 200)
