"""Studies and the people in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, CreatedAt, HasId
from app.models.kinds import Pool, Role, enum_column


class Study(HasId, Base):
    """The top object: prompts, pools, guidelines, rounds and checkpoints belong to one.

    `rehearsal` never changes: rows that may hold only in rehearsals refer to (id, rehearsal).
    """

    __tablename__ = "studies"
    __table_args__ = (UniqueConstraint("id", "rehearsal"),)

    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    rehearsal: Mapped[bool] = mapped_column(server_default=text("false"))
    # What rounds start from: services.rounds.RoundConfig, validated there.
    settings: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    # What happens to prompts on their way in: services.preparation.settings, validated there.
    preparation: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    # Splits are a keyed hash of the source user; the key never leaves the database.
    split_key: Mapped[str] = mapped_column(server_default=text("gen_random_uuid()::text"))
    # How long after submitting a labeler may correct a label; 0: not at all.
    correction_minutes: Mapped[int] = mapped_column(server_default=text("1440"))
    created_at: Mapped[CreatedAt]


class User(HasId, Base):
    """A person (or a simulated labeler) who can sign in."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("id", "simulated"),
        Index("uq_users_username_lower", func.lower(text("username")), unique=True),
        CheckConstraint("username ~ '^[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}$'", name="username"),
    )

    username: Mapped[str]
    display_name: Mapped[str] = mapped_column(server_default="")
    password_hash: Mapped[str]
    administrator: Mapped[bool] = mapped_column(server_default=text("false"))
    simulated: Mapped[bool] = mapped_column(server_default=text("false"))
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[CreatedAt]


class Membership(Base):
    """A user's role in a study, and the pool that their labels belong to.

    `pool` is set for labelers only and never changes once labels refer to it: assignments and
    labels carry (study_id, user_id, pool) as a foreign key to this row.
    """

    __tablename__ = "memberships"
    __table_args__ = (
        UniqueConstraint("study_id", "user_id", "pool"),
        CheckConstraint(
            "(role = 'labeler' AND pool = 'training')"
            " OR (role = 'heldout_labeler' AND pool = 'heldout')"
            " OR (role NOT IN ('labeler', 'heldout_labeler') AND pool IS NULL)",
            name="pool_fits_role",
        ),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    role: Mapped[Role] = enum_column(Role)
    pool: Mapped[Pool | None] = enum_column(Pool, nullable=True)
    created_at: Mapped[CreatedAt]
    withdrawn_at: Mapped[datetime | None]  # their labels are used no more

    study: Mapped[Study] = relationship(lazy="raise_on_sql")
    user: Mapped[User] = relationship(lazy="raise_on_sql")


class LoginSession(Base):
    """A signed-in browser. The cookie holds a random token, this row only its SHA-256."""

    __tablename__ = "login_sessions"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime]

    user: Mapped[User] = relationship(lazy="raise_on_sql")


class GuidelineVersion(HasId, Base):
    """One version of the instructions to labelers, in Markdown. Every label names its version."""

    __tablename__ = "guideline_versions"
    __table_args__ = (UniqueConstraint("study_id", "version"),)

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    version: Mapped[int]
    markdown: Mapped[str]
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]


class GuidelineAcknowledgement(Base):
    """That a labeler has read a version of the guidelines."""

    __tablename__ = "guideline_acknowledgements"

    guideline_version_id: Mapped[int] = mapped_column(
        ForeignKey("guideline_versions.id"), primary_key=True
    )
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    created_at: Mapped[CreatedAt]
