"""Files on their way in."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, CreatedAt, HasId
from app.models.kinds import UploadState, enum_column


class Upload(HasId, Base):
    """A file to import. The row is the queue entry, the lease and the record of it.

    A worker claims it by raising `attempt`, its fencing token; see Run.
    """

    __tablename__ = "uploads"
    __table_args__ = (
        Index(
            "ix_uploads_due", "state", "id", postgresql_where=text("state IN ('queued', 'running')")
        ),
        CheckConstraint(
            "(state IN ('imported', 'refused')) = (result IS NOT NULL)", name="result_at_the_end"
        ),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    kind: Mapped[str]  # of services.imports.IMPORTERS
    file_name: Mapped[str]
    uri: Mapped[str]  # where the file is until the end
    size: Mapped[int] = mapped_column(BigInteger)
    mapping: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{}'"))
    state: Mapped[UploadState] = enum_column(UploadState, server_default="waiting")
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    lease_until: Mapped[datetime | None]
    bytes_done: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    rows_done: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    # Imported: {"sentences": […]}. Refused: {"problems": […], "more": n}.
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    import_id: Mapped[int | None] = mapped_column(ForeignKey("imports.id"))
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]
