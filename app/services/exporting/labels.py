"""Datasets of labels: demonstrations, and all that is made of rankings.

Completions of a ranking stand in the order in which its labeler saw them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import (
    Demonstration,
    ExportShape,
    Policy,
    PromptRating,
    Ranking,
    Rating,
    Study,
)
from app.services.bulk import among
from app.services.exporting.columns import Chunk, Column, Fields, Indexed, Messages, Type
from app.services.exporting.query import ExportQuery
from app.services.exporting.selection import label_rows
from app.services.exporting.tally import ORIGINS, Tally
from app.services.ranked import ranked_items, tie_groups
from app.services.snapshots import pseudonym

Rows = Sequence[Any]  # of the columns that label_rows or ranked_items names

OF_PROMPT: Fields = {
    "split": Type.text,
    "prompt_id": Type.integer,
    "origin": Type.text,
    "use_case": Type.text,
}
OF_LABEL: Fields = {
    **OF_PROMPT,
    "labeler": Type.text,
    "guideline_version": Type.integer,
    "pool": Type.text,
    "simulated": Type.flag,
}
RATED = [c.key for c in Rating.__table__.columns if c.key not in {"ranking_id", "completion_id"}]
RATED_PROMPT = [c.key for c in PromptRating.__table__.columns if c.key != "ranking_id"]


@dataclass
class LabelReader:
    """Reads the labels of an export and turns them into chunks, one split at a time."""

    session: Session
    study: Study
    query: ExportQuery
    tally: Tally

    @cached_property
    def _policies(self) -> dict[int, str]:
        policies = select(Policy).where(Policy.study_id == self.study.id)
        return {policy.id: policy.name for policy in self.session.scalars(policies)}

    def _labeler(self, row: Any) -> str:
        return self._pseudonyms[row.user_id]

    @cached_property
    def _pseudonyms(self) -> _Pseudonyms:
        return _Pseudonyms(self.study)

    def _columns(self, rows: Rows, places: Sequence[int]) -> dict[str, Column]:
        """OF_LABEL for output rows, each made of the label at its place."""
        return {
            **_prompt_columns(rows, places),
            "labeler": Indexed([self._labeler(row) for row in rows], places),
            "guideline_version": Indexed([row.version for row in rows], places),
            "pool": Indexed([row.pool.value for row in rows], places),
            "simulated": Indexed([row.simulated for row in rows], places),
        }

    def demonstrations(self) -> Iterator[tuple[str, Chunk]]:
        found = label_rows(self.session, self.study, self.query, Demonstration, Demonstration.text)
        for rows in found:
            for split, mine in _by_split(rows):
                for row in mine:
                    self.tally.add(row, 1, self._labeler(row))
                places = range(len(mine))
                prompts = Indexed([row.prompt for row in mine], places)
                texts = Indexed([row.text for row in mine], places)
                pair: dict[str, Column] = {"prompt": prompts, "completion": texts}
                if self.query.shape is ExportShape.messages:
                    pair = {"messages": Messages([("user", prompts), ("assistant", texts)])}
                yield (
                    split,
                    {
                        **pair,
                        **self._columns(mine, places),
                        "demonstration_id": [row.id for row in mine],
                    },
                )

    def _rankings(self) -> Iterator[tuple[str, Rows, Mapping[int, Rows]]]:
        """Labels of one split with their items in the order shown, by ranking."""
        for rows in label_rows(self.session, self.study, self.query, Ranking):
            items = ranked_items(self.session, [row.id for row in rows])
            for split, mine in _by_split(rows):
                yield split, mine, items

    def rankings(self) -> Iterator[tuple[str, Chunk]]:
        for split, rows, items in self._rankings():
            for row in rows:
                self.tally.add(row, 1, self._labeler(row))
            places = range(len(rows))
            shown = [items[row.id] for row in rows]
            yield (
                split,
                {
                    "prompt": Indexed([row.prompt for row in rows], places),
                    "completions": [[item.text for item in of] for of in shown],
                    "groups": [tie_groups([item.tier for item in of]) for of in shown],
                    "policies": [[self._policies[item.policy_id] for item in of] for of in shown],
                    **self._columns(rows, places),
                    "ranking_id": [row.id for row in rows],
                },
            )

    def comparisons(self) -> Iterator[tuple[str, Chunk]]:
        """Every pair of different tiers; ties are no comparison."""
        for split, rows, items in self._rankings():
            places: list[int] = []
            chosen: list[int] = []
            rejected: list[int] = []
            apart: list[int] = []
            shown: list[Any] = []
            for place, row in enumerate(rows):
                of, first = items[row.id], len(shown)
                shown.extend(of)
                tiers = [item.tier for item in of]
                before = len(places)
                for better, tier in enumerate(tiers, first):
                    worse = [w for w, other in enumerate(tiers, first) if other > tier]
                    chosen += [better] * len(worse)
                    rejected += worse
                    apart += [tiers[w - first] - tier for w in worse]
                    places += [place] * len(worse)
                self.tally.add(row, len(places) - before, self._labeler(row))
            texts = [item.text for item in shown]
            policies = [self._policies[item.policy_id] for item in shown]
            triple = {
                "prompt": ("user", Indexed([row.prompt for row in rows], places)),
                "chosen": ("assistant", Indexed(texts, chosen)),
                "rejected": ("assistant", Indexed(texts, rejected)),
            }
            messages = self.query.shape is ExportShape.messages
            yield (
                split,
                {
                    **{
                        name: Messages([(role, column)]) if messages else column
                        for name, (role, column) in triple.items()
                    },
                    "chosen_policy": Indexed(policies, chosen),
                    "rejected_policy": Indexed(policies, rejected),
                    "tiers_apart": Indexed(range(max(apart, default=0) + 1), apart),
                    **self._columns(rows, places),
                    "ranking_id": Indexed([row.id for row in rows], places),
                },
            )

    def preferences(self) -> Iterator[tuple[str, Chunk]]:
        """Each pair of a prompt's completions with what every labeler of it preferred."""
        for split, rows, items in self._rankings():
            found: dict[str, list[Any]] = {name: [] for name in PREFERENCE_FIELDS}
            heads: list[Any] = []
            places: list[int] = []
            for _, group in groupby(rows, key=lambda row: row.prompt_id):
                labels = list(group)
                pairs = self._pairs(labels, items)
                heads.append(labels[0])
                places += [len(heads) - 1] * len(pairs)
                for place, label in enumerate(labels):
                    self.tally.add(label, len(pairs) if place == 0 else 0)
                for pair in pairs:
                    for name, value in pair.items():
                        found[name].append(value)
            yield (
                split,
                {
                    "prompt": Indexed([row.prompt for row in heads], places),
                    **found,
                    **_prompt_columns(heads, places),
                },
            )

    def _pairs(self, labels: Rows, items: Mapping[int, Rows]) -> list[dict[str, Any]]:
        shown: dict[int, Any] = {}
        said: dict[tuple[int, int], list[tuple[str, float]]] = defaultdict(list)
        for label in labels:
            labeler = self._labeler(label)
            of = sorted(items[label.id], key=lambda item: item.completion_id)
            self.tally.labelers[labeler] += 1
            self.tally.guidelines[label.version] += 1
            for place, a in enumerate(of):
                shown[a.completion_id] = a
                for b in of[place + 1 :]:
                    preference = 0.5 if a.tier == b.tier else float(a.tier < b.tier)
                    said[a.completion_id, b.completion_id].append((labeler, preference))
        return [
            {
                "completion_a": shown[a].text,
                "completion_b": shown[b].text,
                "policy_a": self._policies[shown[a].policy_id],
                "policy_b": self._policies[shown[b].policy_id],
                "completion_a_id": a,
                "completion_b_id": b,
                "labelers": [labeler for labeler, _ in preferences],
                "preferences": [preference for _, preference in preferences],
                "soft_label": sum(p for _, p in preferences) / len(preferences),
            }
            for (a, b), preferences in sorted(said.items())
        ]

    def ratings(self) -> Iterator[tuple[str, Chunk]]:
        for split, rows, items in self._rankings():
            ids = [row.id for row in rows]
            of_completion = _ratings(self.session, ids)
            of_prompt = _prompt_ratings(self.session, ids)
            places: list[int] = []
            rated: list[tuple[Any, Any]] = []
            for place, row in enumerate(rows):
                mine = [
                    (item, of_completion[row.id, item.completion_id])
                    for item in items[row.id]
                    if (row.id, item.completion_id) in of_completion
                ]
                rated += mine
                places += [place] * len(mine)
                self.tally.add(row, len(mine), self._labeler(row))
            about = [of_prompt.get(row.id, {}) for row in rows]
            yield (
                split,
                {
                    "prompt": Indexed([row.prompt for row in rows], places),
                    "completion": [item.text for item, _ in rated],
                    "policy": [self._policies[item.policy_id] for item, _ in rated],
                    "tier": [item.tier for item, _ in rated],
                    **{name: [rating[name] for _, rating in rated] for name in RATED},
                    **{
                        f"prompt_{name}": Indexed([of.get(name) for of in about], places)
                        for name in RATED_PROMPT
                    },
                    **self._columns(rows, places),
                    "ranking_id": Indexed(ids, places),
                },
            )


PREFERENCE_FIELDS: Fields = {
    "completion_a": Type.text,
    "completion_b": Type.text,
    "policy_a": Type.text,
    "policy_b": Type.text,
    "completion_a_id": Type.integer,
    "completion_b_id": Type.integer,
    "labelers": Type.texts,
    "preferences": Type.numbers,  # of completion a: 1 better, 0.5 tied, 0 worse
    "soft_label": Type.number,  # their mean
}


class _Pseudonyms(dict[int, str]):
    def __init__(self, study: Study) -> None:
        super().__init__()
        self._study = study

    def __missing__(self, user_id: int) -> str:
        self[user_id] = pseudonym(self._study, user_id)
        return self[user_id]


def _prompt_columns(rows: Rows, places: Sequence[int]) -> dict[str, Column]:
    of: dict[str, Callable[[Any], Any]] = {
        "split": lambda row: row.split.value,
        "prompt_id": lambda row: row.prompt_id,
        "origin": lambda row: ORIGINS[row.written],
        "use_case": lambda row: row.use_case.value if row.use_case else None,
    }
    return {name: Indexed([value(row) for row in rows], places) for name, value in of.items()}


def _by_split(rows: Rows) -> Iterator[tuple[str, Rows]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.split.value, []).append(row)
    yield from found.items()


def _ratings(session: Session, ranking_ids: Sequence[int]) -> dict[tuple[int, int], Any]:
    rows = session.execute(
        select(Rating.__table__).where(among(Rating.ranking_id, ranking_ids))
    ).mappings()
    return {(row["ranking_id"], row["completion_id"]): row for row in rows}


def _prompt_ratings(session: Session, ranking_ids: Sequence[int]) -> dict[int, Any]:
    rows = session.execute(
        select(PromptRating.__table__).where(among(PromptRating.ranking_id, ranking_ids))
    ).mappings()
    return {row["ranking_id"]: row for row in rows}
