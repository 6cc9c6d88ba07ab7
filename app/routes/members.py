"""The people of a study."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from app.db import DbSession
from app.errors import DomainError
from app.models import Role, Study
from app.render import page
from app.routes.deps import ResearcherStudy
from app.services.members import Invited, invite, members_of, role_of

router = APIRouter(prefix="/studies/{slug}/people")

ROLES = {
    Role.labeler: "Labeler: their labels train",
    Role.heldout_labeler: "Held-out labeler: only judges, never trains",
    Role.researcher: "Researcher: leads the study",
}


@router.get("")
def list_members(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    return _show(request, session, study)


@router.post("")
def add_member(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    username: Annotated[str, Form()],
    role: Annotated[str, Form()],
    display_name: Annotated[str, Form()] = "",
) -> Response:
    """Add somebody; the answer shows a new account's password, which is kept nowhere."""
    try:
        invited = invite(
            session, study, username=username, display_name=display_name, role=role_of(role)
        )
    except DomainError as error:
        session.rollback()  # an account made for a membership that was refused
        values = {"username": username, "display_name": display_name, "role": role}
        return _show(
            request, session, study, values=values, error=error.message, status=error.status
        )
    return _show(request, session, study, invited=invited)


def _show(
    request: Request,
    session: DbSession,
    study: Study,
    *,
    values: dict[str, str] | None = None,
    error: str | None = None,
    invited: Invited | None = None,
    status: int = 200,
) -> Response:
    context = {
        "study": study,
        "members": members_of(session, study),
        "roles": [(role.value, text) for role, text in ROLES.items()],
        "values": values or {"username": "", "display_name": "", "role": Role.labeler.value},
        "error": error,
        "invited": invited,
    }
    return page(request, "data/people.html", context, status=status)
