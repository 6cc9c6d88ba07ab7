"""Studies: making one, its guidelines, and the figures on its first page."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, ScalarSelect, exists, func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Demonstration,
    GuidelineVersion,
    LabelTask,
    LabelTaskState,
    Membership,
    Pool,
    Prompt,
    Ranking,
    Role,
    Split,
    Study,
    User,
)
from app.services import people
from app.services.guidelines import DEFAULT_GUIDELINES as DEFAULT_GUIDELINES

SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MAX_NAME = 120
MAX_SLUG = 60
MAX_CORRECTION_MINUTES = 43_200
RESERVED_SLUGS = frozenset({"new"})  # the address of a page


@dataclass(frozen=True, kw_only=True)
class StudyCounts:
    """What a study holds. Labels count in their current revision only."""

    prompts: Mapping[Split, int]
    labelers: Mapping[Pool, int]
    demonstrations: int
    rankings: int
    open_label_tasks: int

    @property
    def all_prompts(self) -> int:
        return sum(self.prompts.values())

    @property
    def all_labelers(self) -> int:
        return sum(self.labelers.values())


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """A line of the list of studies."""

    study: Study
    prompts: int
    labels: int
    labelers: int


def create_study(
    session: Session,
    *,
    name: str,
    slug: str | None = None,
    rehearsal: bool = False,
    description: str = "",
    guidelines: str = DEFAULT_GUIDELINES,
    created_by: User | None,
) -> Study:
    """A new study with version 1 of its guidelines; its creator joins as a researcher.

    The slug is made from the name when none is given. Raises Invalid for a bad name or slug and
    Conflict for a slug that is taken.
    """
    name = _checked_name(name)
    if not guidelines.strip():
        raise Invalid("A study needs guidelines for its labelers.")
    study = Study(
        slug=_free_slug(session, name) if slug is None else _checked_slug(session, slug),
        name=name,
        description=description.strip(),
        rehearsal=rehearsal,
    )
    session.add(study)
    session.flush()
    session.add(
        GuidelineVersion(
            study_id=study.id,
            version=1,
            markdown=guidelines,
            created_by=created_by.id if created_by else None,
        )
    )
    if created_by is not None:
        people.add_member(session, study, created_by, Role.researcher)
    session.flush()
    return study


def change_study(
    session: Session, study: Study, *, name: str, description: str, correction_minutes: int
) -> None:
    """Change what may change of a study; its address stays. Raises Invalid."""
    if not 0 <= correction_minutes <= MAX_CORRECTION_MINUTES:
        raise Invalid(
            f"Time for corrections: 0 to {MAX_CORRECTION_MINUTES:,} minutes, which is 30 days."
        )
    study.name = _checked_name(name)
    study.description = description.replace("\0", "").strip()
    study.correction_minutes = correction_minutes
    session.flush()


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise Invalid(f"A study's name has 1 to {MAX_NAME} characters on one line.")
    return name


def find_study(session: Session, slug: str) -> Study:
    """The study of this slug. Raises NotFound."""
    study = session.scalar(select(Study).where(Study.slug == slug))
    if study is None:
        raise NotFound(f"There is no study {slug}.")
    return study


def current_guidelines(session: Session, study: Study) -> GuidelineVersion:
    """The newest version of the study's guidelines, the one new labels name."""
    return session.scalars(
        select(GuidelineVersion)
        .where(GuidelineVersion.study_id == study.id)
        .order_by(GuidelineVersion.version.desc())
        .limit(1)
    ).one()


def studies_of(session: Session, user: User) -> list[Study]:
    """The studies that the user may lead, by name: all of them for an administrator."""
    statement = select(Study).order_by(Study.name, Study.id)
    if not user.administrator:
        statement = statement.join(Membership, Membership.study_id == Study.id).where(
            Membership.user_id == user.id, Membership.role == Role.researcher
        )
    return list(session.scalars(statement))


def study_summaries(session: Session, user: User) -> list[StudySummary]:
    """`studies_of` with their counts, in two queries."""
    studies = studies_of(session, user)

    def count(column: ColumnElement[int], *where: ColumnElement[bool]) -> ScalarSelect[int]:
        return select(func.count()).where(column == Study.id, *where).scalar_subquery()

    labels: ColumnElement[int] = count(
        Demonstration.study_id.expression, Demonstration.superseded_at.is_(None)
    ) + count(Ranking.study_id.expression, Ranking.superseded_at.is_(None))
    rows = session.execute(
        select(
            Study.id,
            count(Prompt.study_id.expression),
            labels,
            count(Membership.study_id.expression, Membership.pool.is_not(None)),
        ).where(Study.id.in_([study.id for study in studies]))
    )
    counts = {row[0]: row for row in rows}
    return [
        StudySummary(study=study, prompts=prompts, labels=labels_, labelers=labelers)
        for study in studies
        for _, prompts, labels_, labelers in (counts[study.id],)
    ]


def may_create_studies(session: Session, user: User) -> bool:
    """Administrators and whoever already leads a study."""
    leads = exists().where(Membership.user_id == user.id, Membership.role == Role.researcher)
    return user.administrator or bool(session.scalar(select(leads)))


def study_counts(session: Session, study: Study) -> StudyCounts:
    """The figures of a study's first page, in three queries."""
    by_split = dict.fromkeys(Split, 0)
    for split, count in session.execute(
        select(Prompt.split, func.count()).where(Prompt.study_id == study.id).group_by(Prompt.split)
    ):
        by_split[split] = count
    by_pool = dict.fromkeys(Pool, 0)
    for pool, count in session.execute(
        select(Membership.pool, func.count())
        .where(Membership.study_id == study.id)
        .group_by(Membership.pool)
    ):
        if pool is not None:
            by_pool[pool] = count
    demonstrations, rankings, open_tasks = session.execute(
        select(
            select(func.count())
            .where(Demonstration.study_id == study.id, Demonstration.superseded_at.is_(None))
            .scalar_subquery(),
            select(func.count())
            .where(Ranking.study_id == study.id, Ranking.superseded_at.is_(None))
            .scalar_subquery(),
            select(func.count())
            .where(LabelTask.study_id == study.id, LabelTask.state == LabelTaskState.open)
            .scalar_subquery(),
        )
    ).one()
    return StudyCounts(
        prompts=by_split,
        labelers=by_pool,
        demonstrations=demonstrations,
        rankings=rankings,
        open_label_tasks=open_tasks,
    )


def _slug_taken(session: Session, slug: str) -> bool:
    return slug in RESERVED_SLUGS or bool(
        session.scalar(select(exists().where(Study.slug == slug)))
    )


def _checked_slug(session: Session, slug: str) -> str:
    if len(slug) > MAX_SLUG or not SLUG.fullmatch(slug):
        raise Invalid(
            f"A study's address is 1 to {MAX_SLUG} small letters and digits, in words joined by -."
        )
    if _slug_taken(session, slug):
        raise Conflict(f"The address {slug} is taken.")
    return slug


def _free_slug(session: Session, name: str) -> str:
    """The name in small ASCII letters, with a number behind it where that is taken."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[: MAX_SLUG - 6].strip("-") or "study"
    slug, number = base, 1
    while _slug_taken(session, slug):
        number += 1
        slug = f"{base}-{number}"
    return slug
