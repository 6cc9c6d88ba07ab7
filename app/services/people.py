"""Accounts, sign-in sessions, memberships."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import timedelta
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.orm import Session, joinedload

from app.config import get_settings
from app.errors import Conflict, Invalid
from app.models import LoginSession, Membership, Pool, Role, Study, User

USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}")
MIN_PASSWORD = 8
POOL_OF_ROLE = {Role.labeler: Pool.training, Role.heldout_labeler: Pool.heldout}


class WrongCredentials(Invalid):
    def __init__(self) -> None:
        super().__init__("This user name and password do not fit together.")


@lru_cache(maxsize=1)
def _hasher() -> PasswordHasher:
    # OWASP's smallest argon2id setting: enough, and forty labelers can sign in at nine o'clock.
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@lru_cache(maxsize=1)
def _decoy_hash() -> str:
    return _hasher().hash("nobody has this password")


def installation_is_empty(session: Session) -> bool:
    """Whether no account exists yet, so that the first visit may make one."""
    return not session.scalar(select(exists().where(User.id.is_not(None))))


def create_user(
    session: Session,
    *,
    username: str,
    password: str,
    display_name: str = "",
    administrator: bool = False,
    simulated: bool = False,
) -> User:
    """A new account. Raises Invalid for a bad name or password, Conflict for a taken name."""
    username = username.strip()
    if not USERNAME.fullmatch(username):
        raise Invalid(
            "A user name is 1–64 letters, digits or _ . @ + - and begins with a letter or digit."
        )
    if len(password) < MIN_PASSWORD:
        raise Invalid(f"A password has at least {MIN_PASSWORD} characters.")
    taken = select(exists().where(func.lower(User.username) == username.lower()))
    if session.scalar(taken):
        raise Conflict(f"The user name {username} is taken.")
    user = User(
        username=username,
        display_name=display_name.strip(),
        password_hash=_hasher().hash(password),
        administrator=administrator,
        simulated=simulated,
        active=True,
    )
    session.add(user)
    session.flush()
    return user


def set_password(session: Session, user: User, password: str) -> None:
    """A new password; every browser where the user is signed in is signed out."""
    if len(password) < MIN_PASSWORD:
        raise Invalid(f"A password has at least {MIN_PASSWORD} characters.")
    user.password_hash = _hasher().hash(password)
    session.execute(delete(LoginSession).where(LoginSession.user_id == user.id))
    session.flush()


def create_first_user(session: Session, *, username: str, password: str, name: str = "") -> User:
    """The first account of an installation, an administrator. Raises Conflict when there is one."""
    session.execute(text("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE"))
    if not installation_is_empty(session):
        raise Conflict("This installation is already set up. Sign in instead.")
    return create_user(
        session, username=username, password=password, display_name=name, administrator=True
    )


def authenticate(session: Session, username: str, password: str) -> User:
    """The active user with these credentials. Raises WrongCredentials, in even time."""
    user = session.scalar(
        select(User).where(func.lower(User.username) == username.strip().lower(), User.active)
    )
    try:
        _hasher().verify(user.password_hash if user else _decoy_hash(), password)
    except (VerificationError, InvalidHashError):
        raise WrongCredentials from None
    if user is None:
        raise WrongCredentials
    return user


def _hash_token(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def sign_in(session: Session, user: User) -> str:
    """A new login session; returns the token for the cookie, which is stored only as a hash."""
    token = secrets.token_urlsafe(32)
    days = get_settings().session_days
    session.add(
        LoginSession(
            token_hash=_hash_token(token),
            user_id=user.id,
            expires_at=func.now() + timedelta(days=days),
        )
    )
    session.execute(delete(LoginSession).where(LoginSession.expires_at < func.now()))
    session.flush()
    return token


def sign_out(session: Session, token: str) -> None:
    session.execute(delete(LoginSession).where(LoginSession.token_hash == _hash_token(token)))


def user_of_token(session: Session, token: str) -> User | None:
    """The signed-in user of a cookie, or None when it is unknown, expired or the user inactive."""
    return session.scalar(
        select(User)
        .join(LoginSession, LoginSession.user_id == User.id)
        .where(
            LoginSession.token_hash == _hash_token(token),
            LoginSession.expires_at > func.now(),
            User.active,
        )
    )


def add_member(session: Session, study: Study, user: User, role: Role) -> Membership:
    """Give a user a role in a study. Raises Conflict if they have another, Invalid if not allowed.

    Simulated labelers join rehearsals only: nowhere else may their labels count.
    """
    if user.simulated and not study.rehearsal:
        raise Invalid(f"{study.name} is not a rehearsal: simulated labelers cannot join it.")
    existing = session.get(Membership, (study.id, user.id))
    if existing is not None:
        if existing.role is role:
            return existing
        raise Conflict(f"{user.username} is already in {study.name} as {existing.role.value}.")
    membership = Membership(
        study_id=study.id, user_id=user.id, role=role, pool=POOL_OF_ROLE.get(role)
    )
    session.add(membership)
    session.flush()
    return membership


def memberships_of(session: Session, user: User) -> list[Membership]:
    """The user's memberships with their studies, by study name."""
    return list(
        session.scalars(
            select(Membership)
            .join(Membership.study)
            .where(Membership.user_id == user.id)
            .options(joinedload(Membership.study))
            .order_by(Study.name)
        )
    )
