"""The versions of a study's guidelines: reading them, and saving a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Demonstration,
    GuidelineAcknowledgement,
    GuidelineVersion,
    Membership,
    Ranking,
    Study,
    User,
    WrittenPrompt,
)
from app.services.studies import current_guidelines

MAX_CHARACTERS = 100_000


class GuidelinesChanged(Conflict):
    """Somebody saved another version since the editor was opened."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"Version {version} was saved in the meantime. Your text is kept below: compare it "
            f"with version {version}, then save it as version {version + 1}."
        )
        self.version = version


@dataclass(frozen=True, kw_only=True)
class VersionView:
    """A version with who saved it, and how many labelers acknowledged or worked under it."""

    version: GuidelineVersion
    author: User | None
    acknowledged: int
    labels: int  # current ones that were given under it


def versions(session: Session, study: Study) -> list[VersionView]:
    """The versions of the study's guidelines, newest first, in one query."""
    labelers = (
        select(func.count())
        .select_from(GuidelineAcknowledgement)
        .join(Membership, Membership.user_id == GuidelineAcknowledgement.user_id)
        .where(
            GuidelineAcknowledgement.guideline_version_id == GuidelineVersion.id,
            Membership.study_id == study.id,
            Membership.pool.is_not(None),
        )
        .correlate(GuidelineVersion)
        .scalar_subquery()
    )
    given = [
        select(func.count())
        .where(table.guideline_version_id == GuidelineVersion.id, table.superseded_at.is_(None))
        .correlate(GuidelineVersion)
        .scalar_subquery()
        for table in (Demonstration, Ranking, WrittenPrompt)
    ]
    rows = session.execute(
        select(GuidelineVersion, User, labelers, given[0] + given[1] + given[2])
        .outerjoin(User, User.id == GuidelineVersion.created_by)
        .where(GuidelineVersion.study_id == study.id)
        .order_by(GuidelineVersion.version.desc())
    )
    return [
        VersionView(version=version, author=author, acknowledged=acknowledged, labels=labels)
        for version, author, acknowledged, labels in rows
    ]


def get_version(views: Sequence[VersionView], number: int) -> VersionView:
    """One version of `versions`. Raises NotFound."""
    for view in views:
        if view.version.version == number:
            return view
    raise NotFound("There is no such version of the guidelines.")


def labelers_of(session: Session, study: Study) -> int:
    """How many labelers the study has."""
    where = (Membership.study_id == study.id, Membership.pool.is_not(None))
    return session.scalars(select(func.count()).select_from(Membership).where(*where)).one()


def save_guidelines(
    session: Session, study: Study, markdown: str, *, based_on: int, author: User
) -> GuidelineVersion:
    """Save a new version, which labelers acknowledge before their next task.

    `based_on` is the number of the version that was edited. Raises GuidelinesChanged when it is
    not the newest any more, and Invalid for a text that is empty, too long, or the same.
    """
    text = markdown.replace("\r\n", "\n").replace("\0", "").strip() + "\n"
    if not text.strip():
        raise Invalid("A study needs guidelines for its labelers.")
    if len(text) > MAX_CHARACTERS:
        raise Invalid(
            f"Guidelines have at most {MAX_CHARACTERS:,} characters; these have {len(text):,}."
        )
    session.refresh(study, ["id"], with_for_update={"key_share": True})  # one at a time
    newest = current_guidelines(session, study)
    if newest.version != based_on:
        raise GuidelinesChanged(newest.version)
    if newest.markdown.strip() == text.strip():
        raise Invalid(f"Nothing has changed since version {newest.version}.")
    version = GuidelineVersion(
        study_id=study.id, version=newest.version + 1, markdown=text, created_by=author.id
    )
    session.add(version)
    session.flush()
    return version


def changed_lines(older: str, newer: str) -> Sequence[tuple[str, str]]:
    """Lines that differ, in order: ("-", line) of the older text, ("+", line) of the newer one.

    ("…", "") stands for lines between that are the same.
    """
    a, b = older.splitlines(), newer.splitlines()
    found: list[tuple[str, str]] = []
    for kind, a_from, a_to, b_from, b_to in SequenceMatcher(None, a, b, False).get_opcodes():
        if kind == "equal":
            found.append(("…", ""))
        else:
            found += [("-", line) for line in a[a_from:a_to]]
            found += [("+", line) for line in b[b_from:b_to]]
    return found
