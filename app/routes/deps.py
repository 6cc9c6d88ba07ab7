"""What endpoints ask for: the signed-in user, and the study with the right to it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import contains_eager

from app.db import DbSession
from app.errors import Forbidden, NotFound, SignInRequired
from app.models import Membership, Role, Study, User
from app.services import flags, people

COOKIE = "plumbline_session"


def current_user(request: Request, session: DbSession) -> User:
    """The signed-in user. Raises SignInRequired, which leads to the sign-in page and back.

    Other dependencies call it: one that depends on it would wait for a thread once more.
    """
    known: User | None = getattr(request.state, "user", None)
    if known is not None:
        return known
    token = request.cookies.get(COOKIE)
    user = people.user_of_token(session, token) if token else None
    if user is None:
        raise SignInRequired("Please sign in.")
    request.state.user = user
    # Text too: the page of an error is rendered after its session was rolled back.
    request.state.user_name = user.display_name or user.username
    return user


CurrentUser = Annotated[User, Depends(current_user)]


def find_study(session: DbSession, slug: str) -> Study:
    study = session.scalar(select(Study).where(Study.slug == slug))
    if study is None:
        raise NotFound("There is no such study.")
    return study


def researcher_study(request: Request, slug: str, session: DbSession) -> Study:
    """The study in the address, for its researchers and for administrators.

    Its pages show how many flags wait for an answer: see templates/studies/_nav.html.
    """
    user = current_user(request, session)
    study = find_study(session, slug)
    membership = session.get(Membership, (study.id, user.id))
    if not user.administrator and (membership is None or membership.role is not Role.researcher):
        # To others the study does not exist: its name alone may tell too much.
        raise NotFound("There is no such study.")
    request.state.open_flags = flags.open_flags(session, study)
    return study


ResearcherStudy = Annotated[Study, Depends(researcher_study)]


def labeler_membership(request: Request, slug: str, session: DbSession) -> Membership:
    """The user's membership as a labeler of the study in the address, with the study."""
    user = current_user(request, session)
    membership = session.scalar(
        select(Membership)
        .join(Membership.study)
        .where(Study.slug == slug, Membership.user_id == user.id)
        .options(contains_eager(Membership.study))
    )
    if membership is None:
        raise NotFound("There is no such study.")
    if membership.pool is None:
        raise Forbidden("This page is for labelers of the study.")
    if membership.withdrawn_at is not None:
        raise Forbidden("You no longer take part in this study. Its researchers can tell you more.")
    return membership


LabelerMembership = Annotated[Membership, Depends(labeler_membership)]


def administrator(request: Request, session: DbSession) -> User:
    user = current_user(request, session)
    if not user.administrator:
        raise Forbidden("This page is for administrators.")
    return user


Administrator = Annotated[User, Depends(administrator)]
