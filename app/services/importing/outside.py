"""The policies that a file names: systems of others, made where the study has none of the name."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.models import Policy, PolicyKind, Study


class OutsidePolicies:
    """The study's external policies by name; `own` are the names that its checkpoints have."""

    def __init__(self, session: Session, study: Study) -> None:
        self._session = session
        self._study = study
        policies = session.execute(
            select(Policy.name, Policy.id, Policy.kind).where(Policy.study_id == study.id)
        ).all()
        self.ids = {name: key for name, key, kind in policies if kind is PolicyKind.external}
        self.own = {name for name, _, kind in policies if kind is PolicyKind.checkpoint}

    def make(self, names: Collection[str]) -> None:
        """Put these names into `ids`, making the policies that are missing."""
        fresh = [name for name in names if name not in self.ids]
        if not fresh:
            return
        made = self._session.scalars(
            insert(Policy).returning(Policy.id, sort_by_parameter_order=True),
            [
                {
                    "study_id": self._study.id,
                    "name": name,
                    "label": name,
                    "kind": PolicyKind.external,
                }
                for name in fresh
            ],
        )
        self.ids.update(zip(fresh, made, strict=True))
