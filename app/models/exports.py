"""What leaves a study: exports, the tokens of its API, and its webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, CreatedAt, HasId
from app.models.kinds import (
    DeliveryState,
    ExportKind,
    ExportState,
    TokenScope,
    enum_column,
)
from app.models.people import User
from app.models.training import Snapshot


class Export(HasId, Base):
    """A dataset to download. The row is the queue entry, the lease and the record of it.

    A worker claims it by raising `attempt`, its fencing token; see Run.
    """

    __tablename__ = "exports"
    __table_args__ = (
        ForeignKeyConstraint(["snapshot_id", "study_id"], ["snapshots.id", "snapshots.study_id"]),
        Index(
            "ix_exports_due", "state", "id", postgresql_where=text("state IN ('queued', 'running')")
        ),
        CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="failed_says_why"),
        CheckConstraint(
            "(state = 'ready') = (manifest IS NOT NULL AND uri IS NOT NULL)", name="ready_is_there"
        ),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    kind: Mapped[ExportKind] = enum_column(ExportKind)
    query: Mapped[dict[str, Any]] = mapped_column(JSONB)  # services.exporting.query.ExportQuery
    freeze: Mapped[bool] = mapped_column(server_default=text("false"))  # make a snapshot first
    snapshot_id: Mapped[int | None] = mapped_column(index=True)  # what it was made from
    state: Mapped[ExportState] = enum_column(ExportState, server_default="queued")
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    lease_until: Mapped[datetime | None]
    rows_done: Mapped[int] = mapped_column(server_default=text("0"))
    error: Mapped[str | None]
    manifest: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    uri: Mapped[str | None]  # the folder of its files
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]

    snapshot: Mapped[Snapshot | None] = relationship(
        lazy="raise_on_sql",
        foreign_keys="Export.snapshot_id",
        primaryjoin="Snapshot.id == Export.snapshot_id",
    )


class ApiToken(HasId, Base):
    """A program's right to a study's API. It holds a random token, this row only its SHA-256."""

    __tablename__ = "api_tokens"

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)  # who made it
    name: Mapped[str]
    scope: Mapped[TokenScope] = enum_column(TokenScope)
    token_hash: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]  # its first characters, to tell tokens apart
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="raise_on_sql")


class Webhook(HasId, Base):
    """An address that is told what happens in a study."""

    __tablename__ = "webhooks"
    __table_args__ = (CheckConstraint("url ~ '^https?://'", name="url"),)

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    url: Mapped[str]
    secret: Mapped[str]  # signs what is sent: shown to whoever made it
    events: Mapped[list[str]] = mapped_column(JSONB)  # of WebhookEvent
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]


class WebhookDelivery(HasId, Base):
    """One message to one webhook: sent, and sent again, until it is taken or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_due", "next_at", postgresql_where=text("state = 'queued'")),
    )

    webhook_id: Mapped[int] = mapped_column(
        ForeignKey("webhooks.id", ondelete="CASCADE"), index=True
    )
    event: Mapped[str]  # of WebhookEvent
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[DeliveryState] = enum_column(DeliveryState, server_default="queued")
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_at: Mapped[CreatedAt]
    status: Mapped[int | None]  # the receiver's last answer
    error: Mapped[str | None]  # or why there was none
    created_at: Mapped[CreatedAt]
    delivered_at: Mapped[datetime | None]

    webhook: Mapped[Webhook] = relationship(lazy="raise_on_sql")
