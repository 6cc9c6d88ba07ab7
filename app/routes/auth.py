"""First account, sign-in, sign-out, and where each role begins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.config import get_settings
from app.db import DbSession
from app.errors import DomainError
from app.models import Role, User
from app.render import page
from app.routes.deps import COOKIE, CurrentUser
from app.services import people

router = APIRouter()


def _signed_in(session: DbSession, user: User, target: str) -> Response:
    settings = get_settings()
    response = RedirectResponse(target, status_code=303)
    response.set_cookie(
        COOKIE,
        people.sign_in(session, user),
        max_age=settings.session_days * 86_400,
        httponly=True,
        samesite="lax",
        secure=settings.secure_cookies,
    )
    return response


def _local(target: str) -> str:
    """A path on this site; anything else would let a link send people elsewhere after sign-in."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if plain else "/"


@router.get("/")
def home(session: DbSession, user: CurrentUser) -> Response:
    """Labelers go straight to their next task, researchers to their studies."""
    memberships = people.memberships_of(session, user)
    labels = [m for m in memberships if m.pool is not None]
    if user.administrator or any(m.role is Role.researcher for m in memberships):
        return RedirectResponse("/studies", status_code=303)
    if len(labels) == 1:
        return RedirectResponse(f"/label/{labels[0].study.slug}", status_code=303)
    return RedirectResponse("/label", status_code=303)


@router.get("/setup")
def setup_form(request: Request, session: DbSession) -> Response:
    if not people.installation_is_empty(session):
        return RedirectResponse("/login", status_code=303)
    return page(request, "auth/setup.html", {"error": None, "username": "", "name": ""})


@router.post("/setup")
def setup(
    request: Request,
    session: DbSession,
    username: Annotated[str, Form()],
    password: Annotated[str, Form()],
    name: Annotated[str, Form()] = "",
) -> Response:
    try:
        user = people.create_first_user(session, username=username, password=password, name=name)
    except DomainError as error:
        context = {"error": error.message, "username": username, "name": name}
        return page(request, "auth/setup.html", context, status=error.status)
    return _signed_in(session, user, "/studies")


@router.get("/login")
def login_form(request: Request, session: DbSession, next: str = "/") -> Response:
    if people.installation_is_empty(session):
        return RedirectResponse("/setup", status_code=303)
    context = {"error": None, "username": "", "next": _local(next)}
    return page(request, "auth/login.html", context)


@router.post("/login")
def login(
    request: Request,
    session: DbSession,
    username: Annotated[str, Form()],
    password: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",
) -> Response:
    try:
        user = people.authenticate(session, username, password)
    except DomainError as error:
        context = {"error": error.message, "username": username, "next": _local(next)}
        return page(request, "auth/login.html", context, status=error.status)
    return _signed_in(session, user, _local(next))


@router.post("/logout")
def logout(request: Request, session: DbSession) -> Response:
    token = request.cookies.get(COOKIE)
    if token:
        people.sign_out(session, token)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE)
    return response
