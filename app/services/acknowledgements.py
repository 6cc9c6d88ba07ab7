"""Guidelines that changed: a labeler reads the new version before their next task."""

from __future__ import annotations

from sqlalchemy import Select, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.errors import NotFound
from app.models import GuidelineAcknowledgement, GuidelineVersion, Membership


def unread_guidelines(session: Session, membership: Membership) -> GuidelineVersion | None:
    """The study's newest version, if it is newer than the membership and not acknowledged."""
    return session.scalar(unread_version(membership))


def unread_version(membership: Membership) -> Select[GuidelineVersion]:
    """What unread_guidelines looks for."""
    newest = (
        select(GuidelineVersion.id)
        .where(GuidelineVersion.study_id == membership.study_id)
        .order_by(GuidelineVersion.version.desc())
        .limit(1)
        .scalar_subquery()
    )
    read = exists().where(
        GuidelineAcknowledgement.guideline_version_id == GuidelineVersion.id,
        GuidelineAcknowledgement.user_id == membership.user_id,
    )
    return select(GuidelineVersion).where(
        GuidelineVersion.id == newest,
        GuidelineVersion.created_at > membership.created_at,
        ~read,
    )


def acknowledge(session: Session, membership: Membership, version: int) -> None:
    """Store that the labeler has read this version of the guidelines. Raises NotFound."""
    read = find_version(session, membership.study_id, version)
    if read is None:
        raise NotFound("There is no such version of the guidelines.")
    session.execute(
        insert(GuidelineAcknowledgement)
        .values(guideline_version_id=read.id, user_id=membership.user_id)
        .on_conflict_do_nothing()
    )


def find_version(session: Session, study_id: int, version: int) -> GuidelineVersion | None:
    return session.scalar(
        select(GuidelineVersion).where(
            GuidelineVersion.study_id == study_id, GuidelineVersion.version == version
        )
    )
