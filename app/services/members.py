"""The people of a study, and inviting one."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from app.errors import Invalid, NotFound
from app.models import Assignment, AssignmentState, Membership, Role, Study, User
from app.services import people

# Without letters and digits that look alike: somebody reads it out or copies it by hand.
ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"

INVITED_ROLES = (Role.labeler, Role.heldout_labeler, Role.researcher)


@dataclass(frozen=True, kw_only=True)
class Member:
    membership: Membership
    labels: int  # submitted assignments
    last_label: datetime | None


@dataclass(frozen=True, kw_only=True)
class Invited:
    """`password` is set for a new account: only its hash is kept, so it is shown this once."""

    user: User
    password: str | None


def members_of(session: Session, study: Study) -> list[Member]:
    """The study's people with what they have labeled, researchers first, then by name."""
    submitted = (
        select(
            Assignment.user_id,
            func.count().label("labels"),
            func.max(Assignment.submitted_at).label("last"),
        )
        .where(Assignment.study_id == study.id, Assignment.state == AssignmentState.submitted)
        .group_by(Assignment.user_id)
        .subquery()
    )
    rows = session.execute(
        select(Membership, func.coalesce(submitted.c.labels, 0), submitted.c.last)
        .join(User, User.id == Membership.user_id)
        .outerjoin(submitted, submitted.c.user_id == Membership.user_id)
        .where(Membership.study_id == study.id)
        .options(joinedload(Membership.user))
        .order_by(Membership.role != Role.researcher, User.simulated, func.lower(User.username))
    )
    return [Member(membership=m, labels=labels, last_label=last) for m, labels, last in rows]


def invite(
    session: Session, study: Study, *, username: str, display_name: str, role: Role
) -> Invited:
    """Give the user of this name a role; an account is made for a name that nobody has.

    Raises Invalid for a name that cannot be, Conflict when they have another role in the study.
    """
    user = _user_of_name(session, username)
    password = None
    if user is None:
        password = generate_password()
        user = people.create_user(
            session, username=username, password=password, display_name=display_name
        )
    people.add_member(session, study, user, role)
    return Invited(user=user, password=password)


def find_user(session: Session, username: str) -> User:
    """The user of this name, in any case. Raises NotFound."""
    user = _user_of_name(session, username)
    if user is None:
        raise NotFound(f"There is no account {username}.")
    return user


def role_of(name: str) -> Role:
    """The role of this name. Raises Invalid for a word that is none of INVITED_ROLES."""
    if name not in INVITED_ROLES:
        raise Invalid(f"{name!r} is no role: choose {', '.join(INVITED_ROLES)}.")
    return Role(name)


def _user_of_name(session: Session, username: str) -> User | None:
    return session.scalar(select(User).where(func.lower(User.username) == username.strip().lower()))


def generate_password() -> str:
    """Four groups of four characters: 79 bits, and possible to type."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(4))
