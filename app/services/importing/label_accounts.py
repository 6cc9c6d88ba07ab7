"""Whose imported labels are: accounts of the training pool that nobody ever signs in to.

Each value of a file's `labeler` column has one in the study, under a pseudonym that the study's key
gives; the value itself is not kept. Labels of nobody in particular share one.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import Membership, Role, Study, User
from app.services.bulk import among, copy_rows, next_ids
from app.services.people import POOL_OF_ROLE

NO_PASSWORD = "!"  # fits none: it is no hash
ROLE = Role.labeler


def account_name(study: Study, labeler: str | None) -> str:
    """The user name that stands for a labeler of the study's files; None: nobody was named."""
    name = f"imported.{study.id}"
    if labeler is None:
        return name
    digest = hmac.digest(study.split_key.encode(), f"imported labeler {labeler}".encode(), "sha256")
    return f"{name}.{digest.hex()[:12]}"


class Accounts:
    """Ids of accounts by the names in files; made at first sight, members of the study."""

    def __init__(self, session: Session, study: Study) -> None:
        self._session = session
        self._study = study
        self._ids: dict[str | None, int] = {}

    def ids(self, labelers: Collection[str | None]) -> dict[str | None, int]:
        """Raises Invalid when one of the user names is a person's."""
        fresh = {labeler for labeler in labelers if labeler not in self._ids}
        if fresh:
            names = {account_name(self._study, labeler): labeler for labeler in fresh}
            ids = self._made(names)
            self._join(list(ids.values()))
            self._ids |= {labeler: ids[name] for name, labeler in names.items()}
        return {labeler: self._ids[labeler] for labeler in labelers}

    def nobody(self) -> int | None:
        """The account of labels that name no labeler, if there is one."""
        name = account_name(self._study, None)
        return self._session.scalar(select(User.id).where(func.lower(User.username) == name))

    def _made(self, names: Collection[str]) -> dict[str, int]:
        found = self._session.execute(
            select(func.lower(User.username), User.id, User.active).where(
                func.lower(User.username).in_(names)
            )
        ).all()
        if taken := next((name for name, _, active in found if active), None):
            raise Invalid(f"The account {taken} is a person's: imported labels need it.")
        ids = {name: key for name, key, _ in found}
        fresh = sorted(set(names) - ids.keys())
        made = dict(zip(fresh, next_ids(self._session, User, len(fresh)), strict=True))
        copy_rows(
            self._session,
            User,
            ["id", "username", "display_name", "password_hash", "active"],
            ((key, name, "Imported labels", NO_PASSWORD, False) for name, key in made.items()),
        )
        return ids | made

    def _join(self, user_ids: Collection[int]) -> None:
        found = select(Membership.user_id).where(
            Membership.study_id == self._study.id,
            Membership.role == ROLE,
            among(Membership.user_id, user_ids),
        )
        members = set(self._session.scalars(found))
        pool = POOL_OF_ROLE[ROLE]
        copy_rows(
            self._session,
            Membership,
            ["study_id", "user_id", "role", "pool"],
            (
                (self._study.id, key, ROLE.value, pool.value)
                for key in user_ids
                if key not in members
            ),
        )
