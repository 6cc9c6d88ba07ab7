"""Files of labels made elsewhere: demonstrations, comparisons, rankings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy.orm import Session

from app.config import get_settings
from app.models import LabelKind, Study
from app.services.batches import MAX_K, MIN_K
from app.services.importing import columns, shapes
from app.services.importing.dialogues import listed
from app.services.importing.label_store import LabelRow, LabelStore
from app.services.importing.problems import LeftOut, RowProblem
from app.services.importing.records import Names, StoredAtOnce, json_kind
from app.services.prompts import PromptRow

PROMPT: Final[Names] = shapes.TEXT
PROMPT_ID: Final[Names] = ("prompt_id",)
USER: Final[Names] = ("user", "source_user")
LABELER: Final[Names] = ("labeler",)
COMPLETIONS: Final = "completions"
GROUPS: Final = "groups"
RANKS: Final = "ranks"
MODELS: Final = "models"


class LabelFile(StoredAtOnce, ABC):
    """What the three kinds share: the prompt of a row, and where labels go."""

    kind: str
    required: Sequence[Names]
    used: Sequence[str]
    label_kind: LabelKind

    def __init__(self, session: Session, study: Study, file_name: str) -> None:
        self._limit = get_settings().max_prompt_characters
        self._unused: set[str] = set()
        self._store = LabelStore(session, study, self.label_kind, source=source_name(file_name))
        self._policy = self._store.source_policy

    def parse(self, values: Mapping[str, Any], line: int) -> LabelRow:
        text = columns.text(values, PROMPT, limit=self._limit)
        if text is None or not text.strip():
            raise RowProblem("the prompt is empty")
        prompt = PromptRow(
            text=text,
            user=columns.short_name(values, USER),
            external_id=columns.short_name(values, PROMPT_ID),
            line=line,
        )
        # Composing characters can lengthen a text.
        if len(prompt.normalized) > self._limit:
            raise RowProblem(f"prompt has more than {self._limit:,} characters in normal form")
        named = {columns.value_of(values, names)[0] for names in (PROMPT, PROMPT_ID, USER, LABELER)}
        self._unused |= values.keys() - named - {*self.used}
        label = self._label(prompt, values)
        return replace(label, labeler=columns.short_name(values, LABELER))

    @abstractmethod
    def _label(self, prompt: PromptRow, values: Mapping[str, Any]) -> LabelRow:
        """What the row says about its prompt. Raises RowProblem, LeftOut."""

    def size(self, row: LabelRow) -> int:
        return len(row.prompt.text) + sum(map(len, row.texts))

    def store(self, rows: Sequence[LabelRow], import_id: int) -> Sequence[tuple[int, str]]:
        self._store.add(rows, import_id)
        return ()

    def counts(self) -> dict[str, Any]:
        return self._store.counts() | {"unused_columns": sorted(self._unused)}

    def _text(self, name: str, value: Any) -> str:
        found = columns.text({name: value}, (name,), limit=self._limit)
        if found is None:
            raise RowProblem(f"{name} is missing")
        return found


class DemonstrationFile(LabelFile):
    """Prompts with the completion that the assistant should give."""

    kind = "demonstrations"
    required: Sequence[Names] = ((*shapes.TEXT, *shapes.CHAT),)
    used = ("completion",)
    label_kind = LabelKind.demonstration

    def _label(self, prompt: PromptRow, values: Mapping[str, Any]) -> LabelRow:
        text = self._text("completion", values.get("completion"))
        if not text.strip():
            raise LeftOut("the completion is empty")
        return LabelRow(prompt=prompt, texts=(text,), tiers=(1,), policies=(self._policy,))


class RankingFile(LabelFile):
    """Prompts with completions in ordered tie groups, as `groups` of places or as `ranks`."""

    kind = "rankings"
    required: Sequence[Names] = (PROMPT,)
    used = (COMPLETIONS, GROUPS, RANKS, MODELS)
    label_kind = LabelKind.ranking

    def _label(self, prompt: PromptRow, values: Mapping[str, Any]) -> LabelRow:
        given = self._listed(values, COMPLETIONS)
        texts = [self._text(f"{COMPLETIONS}[{i}]", item) for i, item in enumerate(given)]
        if not MIN_K <= len(texts) <= MAX_K:
            raise LeftOut(f"a ranking holds {MIN_K} to {MAX_K} completions")
        if values.get(GROUPS) not in (None, ""):
            tiers = tiers_of_groups(self._listed(values, GROUPS), len(texts))
        else:
            tiers = tiers_of_ranks(self._listed(values, RANKS), len(texts))
        policies = self._policies(values, len(texts))
        if len(set(zip(texts, policies, strict=True))) < len(texts):
            raise LeftOut("a completion is there twice")
        return LabelRow(prompt=prompt, texts=tuple(texts), tiers=tiers, policies=policies)

    def _listed(self, values: Mapping[str, Any], name: str) -> list[Any]:
        if values.get(name) is None:
            raise RowProblem(f"{name} is missing")
        return listed(name, values[name])

    def _policies(self, values: Mapping[str, Any], count: int) -> tuple[str, ...]:
        if values.get(MODELS) in (None, ""):
            return (self._policy,) * count
        models = self._listed(values, MODELS)
        if len(models) != count:
            raise RowProblem(f"{MODELS} has {len(models)} names for {count} completions")
        names = [columns.short_name({MODELS: name}, (MODELS,)) for name in models]
        for name in names:
            if name and self._store.is_ours(name):
                raise RowProblem(f'"{name}" is a policy of this study; give it another name')
        return tuple(name or self._policy for name in names)


class ComparisonFile(RankingFile):
    """Pairs: a chosen and a rejected completion. Each is a ranking of two."""

    kind = "comparisons"
    required: Sequence[Names] = (("chosen",), ("rejected",))


def source_name(file_name: str) -> str:
    """The name of the policy that stands for a file's completions whose system it does not say."""
    name = columns.plain_file_name(file_name)
    for suffix in (".gz", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"):
        name = name.removesuffix(suffix)
    return name[: columns.MAX_NAME - 20] or "file"


def tiers_of_groups(groups: Sequence[Any], count: int) -> tuple[int, ...]:
    """The tier of each of `count` completions; `groups` holds places, best first.

    Raises RowProblem where a place is missing, named twice, or is none.
    """
    tiers: dict[int, int] = {}
    for tier, group in enumerate(groups, 1):
        if not isinstance(group, list) or not group:
            raise RowProblem(f"{GROUPS} must be lists of places, not {json_kind(group)}")
        for place in group:
            if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < count:
                raise RowProblem(f"{GROUPS} has the place {str(place)[:40]!r} of 0 to {count - 1}")
            if place in tiers:
                raise RowProblem(f"{GROUPS} has the place {place} twice")
            tiers[place] = tier
    if len(tiers) < count:
        raise RowProblem(f"{GROUPS} leaves out {count - len(tiers)} of {count} completions")
    return tuple(tiers[place] for place in range(count))


def tiers_of_ranks(ranks: Sequence[Any], count: int) -> tuple[int, ...]:
    """The tier of each completion by its rank: the smallest is best, equal ones tie, no gaps.

    Raises RowProblem.
    """
    if len(ranks) != count:
        raise RowProblem(f"{RANKS} has {len(ranks)} numbers for {count} completions")
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int | float) or not math.isfinite(rank):
            raise RowProblem(f"{RANKS} has {str(rank)[:40]!r}, which is no number")
    tier_of = {rank: tier for tier, rank in enumerate(sorted(set(ranks)), 1)}
    return tuple(tier_of[rank] for rank in ranks)
