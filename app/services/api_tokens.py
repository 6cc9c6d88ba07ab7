"""Tokens of the API: each is one researcher's right to one study, for a program."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Final

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session, joinedload

from app.errors import Invalid, NotFound
from app.models import ApiToken, Membership, Role, Study, TokenScope, User

PREFIX: Final = "plumb_"  # so that a token is known for one where it lies about
MAX_NAME: Final = 80
MAX_DAYS: Final = 3_650
USE_NOTED_EVERY: Final = timedelta(minutes=1)


def make_token(
    session: Session,
    study: Study,
    user: User,
    *,
    name: str,
    scope: TokenScope,
    days: int | None,
) -> tuple[ApiToken, str]:
    """A new token, and what the program sends: that is shown once, and kept only as a hash.

    `days` is how long it is good for; None: until it is revoked. Raises Invalid.
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME:
        raise Invalid(f"Name the program that will use it, in 1–{MAX_NAME} characters.")
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise Invalid(f"A token is good for 1–{MAX_DAYS:,} days, or until it is revoked.")
    plain = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        study_id=study.id,
        user_id=user.id,
        name=name,
        scope=scope,
        token_hash=_hash(plain),
        hint=plain[: len(PREFIX) + 4],
        expires_at=None if days is None else func.now() + timedelta(days=days),
    )
    session.add(token)
    session.flush()
    return token, plain


def _hash(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()


def use_token(session: Session, plain: str) -> tuple[ApiToken, Study] | None:
    """The token and its study; None for one that is unknown, expired or revoked.

    It is as good as its maker: not of a user who is inactive, or leads the study no more.
    """
    row = session.execute(
        select(ApiToken, Study)
        .join(Study, Study.id == ApiToken.study_id)
        .join(User, User.id == ApiToken.user_id)
        .outerjoin(
            Membership,
            (Membership.user_id == ApiToken.user_id) & (Membership.study_id == ApiToken.study_id),
        )
        .where(
            ApiToken.token_hash == _hash(plain),
            ApiToken.revoked_at.is_(None),
            or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > func.now()),
            User.active,
            or_(User.administrator, Membership.role == Role.researcher),
        )
        .options(joinedload(ApiToken.user))
    ).one_or_none()
    if row is None:
        return None
    token, study = row
    # Not at each request: that would be a write a read.
    session.execute(
        update(ApiToken)
        .where(
            ApiToken.id == token.id,
            or_(
                ApiToken.last_used_at.is_(None),
                ApiToken.last_used_at < func.now() - USE_NOTED_EVERY,
            ),
        )
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False)
    )
    return token, study


def tokens_of(session: Session, study: Study) -> list[ApiToken]:
    """The study's tokens with who made them, newest first; revoked ones stay on record."""
    return list(
        session.scalars(
            select(ApiToken)
            .where(ApiToken.study_id == study.id)
            .order_by(ApiToken.id.desc())
            .options(joinedload(ApiToken.user))
        )
    )


def revoke(session: Session, study: Study, token_id: int) -> None:
    """From now on it opens nothing. Raises NotFound."""
    token = session.get(ApiToken, token_id)
    if token is None or token.study_id != study.id:
        raise NotFound("There is no such token in this study.")
    if token.revoked_at is None:
        token.revoked_at = func.now()
        session.flush()
