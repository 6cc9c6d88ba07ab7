"""Deciding about prompts that come: which are stored, and what stands for the others.

In this order, and the first that holds counts:

1. over_length: more tokens than the study takes. Left out.
2. prefix, near: begins for long like a prompt that is here, or is nearly the same. The first one
   seen stands for all, or all are kept as one group, as the study has it.
3. other_side: as 2, but the source user belongs to another split than the prompt that is here. It
   is never stored: no two splits hold nearly the same prompt, whatever arrives later and in
   whatever order. Which split gets it was decided by who came first.
4. over_cap: the source user has as many prompts as the study takes. Left out.

What is not stored is written down with its line, its reason and the prompt that stands for it
(FoldedPrompt), so that nothing is lost in silence. What is stored is searched for PII last.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.models import (
    DuplicateGroup,
    FoldReason,
    Prompt,
    PromptSketch,
    SourceUser,
    Split,
    Study,
)
from app.services.bulk import among, copy_rows, next_ids
from app.services.preparation.findings import Asked, Examiner, Findings
from app.services.preparation.near_index import NearIndex
from app.services.preparation.settings import PreparationSettings, check_tokenizer, settings_of
from app.services.preparation.sketches import bands, jaccard, shingles
from app.services.preparation.texts import comparison_form, prefix_hash
from app.services.preparation.use_cases import train_on_study

if TYPE_CHECKING:
    from app.services.prompts import PromptRow

LOOKED_AT = 8  # candidates whose texts are compared in full, those of the most common bands first
USERS = 50_000  # whose prompts are counted in memory
GROUPS = 100  # ids of groups that are drawn at a time
READ = 5_000  # stored sketches or texts that are read at a time


@dataclass(kw_only=True)
class Prepared:
    """A prompt to store, with what was found out about it."""

    row: PromptRow
    split: Split
    found: Findings
    group: int | None = None

    @cached_property
    def shingles(self) -> Set[int]:
        return shingles(comparison_form(self.row.text))


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A prompt that is not stored, and the one that stands for it if any does."""

    row: PromptRow
    reason: FoldReason
    stands: int | Prepared | None = None
    similarity: float | None = None


@dataclass
class _Known:
    """A prompt that is stored already. Its group is set when it gets one."""

    id: int
    split: Split
    group: int | None
    prefix: int | None
    shingles: Set[int]


# What repeats, how, and for near-duplicates how much.
_Match = tuple[_Known | Prepared, FoldReason, float | None]


@dataclass
class _Seen:
    """What rows are compared with while a chunk is sifted."""

    stored: Mapping[int, _Known]
    by_prefix: dict[int, _Known | Prepared]
    pending: dict[int, list[Prepared]] = field(default_factory=dict)  # by band


class Preparation:
    """Sifts the prompts of one import, chunk by chunk. Call `sift`, store, then `remember`.

    Holds the sketches of all the study's prompts (NearIndex says how much memory that takes), or
    for `few` prompts asks the database, which reads all the study's sketches for each.
    """

    def __init__(
        self,
        session: Session,
        study: Study,
        settings: PreparationSettings | None = None,
        *,
        few: bool = False,
    ) -> None:
        self._session = session
        self._study = study
        self.settings = settings or settings_of(study)
        if self.settings.tokenizer is not None:
            check_tokenizer(self.settings.tokenizer)  # it was there when it was set
        self._index = None if few or not self.settings.near_similarity else NearIndex()
        self._ids = array("q")  # prompt id by number in the index
        self._prompts_of: dict[str, int] = {}  # by source user: of those met lately
        self._group_ids: list[int] = []  # drawn and not given yet
        self._groups: list[tuple[int, int, str]] = []  # that are not written yet
        self._joined: dict[int, int] = {}  # the same of stored prompts, with their groups
        self.examiner = Examiner(
            max_tokens=self.settings.max_tokens,
            tokenizer=self.settings.tokenizer,
            prefix_characters=self.settings.prefix_characters,
            pii=self.settings.pii,
            classifier=train_on_study(session, study),
        )
        if self.settings.near_similarity or self.settings.prefix_characters:
            self._sketch_missing()
        if self._index is not None:
            self._load(self._index)

    def sift(
        self,
        rows: Sequence[PromptRow],
        sides: Mapping[str, Split],
        found: Sequence[Findings] | None = None,
    ) -> list[Prepared | Folded]:
        """A decision a row, in the order of the rows. `sides` has the split of each source, `found`
        what the examiner says of each row where that is known already."""
        if found is None:
            found = self.examiner(asked_of(rows))
        near = [self._candidates(one) for one in found]
        seen = self._seen(found, {prompt_id for ids in near for prompt_id in ids})
        taken = self._taken({row.user for row in rows if row.user is not None})
        decisions: list[Prepared | Folded] = []
        for row, one, ids in zip(rows, found, near, strict=True):
            decision = self._decide(row, one, sides[row.source], ids, seen, taken)
            if isinstance(decision, Prepared):
                self._take(decision, seen)
            decisions.append(decision)
        self._write_groups()
        return decisions

    def remember(self, stored: Sequence[tuple[Prepared, int]]) -> None:
        """Keep the sketches of what was stored, with the ids that it has now."""
        if self._index is not None:
            for prepared, prompt_id in stored:
                self._index.add(prepared.found.bands)
                self._ids.append(prompt_id)
        copy_rows(
            self._session,
            PromptSketch,
            ["prompt_id", "study_id", "prefix", "bands"],
            (
                (key, self._study.id, made.found.prefix, _array(made.found.bands))
                for made, key in stored
            ),
        )

    def _candidates(self, found: Findings) -> list[int]:
        """Ids of stored prompts that may be near."""
        if not self.settings.near_similarity or not found.bands:
            return []
        if self._index is not None:
            return [self._ids[number] for number in self._index.near(found.bands)[:LOOKED_AT]]
        return list(
            self._session.scalars(
                select(PromptSketch.prompt_id)
                .where(
                    PromptSketch.study_id == self._study.id,
                    PromptSketch.bands.overlap(list(found.bands)),
                )
                .order_by(PromptSketch.prompt_id)
                .limit(LOOKED_AT)
            )
        )

    def _seen(self, found: Sequence[Findings], wanted: set[int]) -> _Seen:
        """The stored prompts that the chunk may repeat, in two queries."""
        prefixes = {one.prefix for one in found if one.prefix is not None}
        if prefixes:
            wanted.update(
                self._session.scalars(
                    select(func.min(PromptSketch.prompt_id))
                    .where(
                        PromptSketch.study_id == self._study.id,
                        among(PromptSketch.prefix, prefixes),
                    )
                    .group_by(PromptSketch.prefix)
                )
            )
        stored: dict[int, _Known] = {}
        by_prefix: dict[int, _Known | Prepared] = {}
        rows = self._session.execute(
            select(
                Prompt.id,
                Prompt.split,
                Prompt.duplicate_group,
                func.coalesce(Prompt.original["text"].astext, Prompt.text),
            )
            .where(among(Prompt.id, wanted))
            .order_by(Prompt.id)
        )
        for prompt_id, split, group, text in rows:
            form = comparison_form(text)
            prefix = prefix_hash(form, self.settings.prefix_characters)
            known = _Known(prompt_id, split, group, prefix, shingles(form))
            stored[prompt_id] = known
            if prefix is not None:
                by_prefix.setdefault(prefix, known)
        return _Seen(stored, by_prefix)

    def _taken(self, users: Set[str]) -> dict[str, int]:
        """How many prompts each of the source users has; counted on as rows are decided."""
        if not self.settings.cap:
            return {}
        if len(self._prompts_of) > USERS:
            self._prompts_of.clear()
        fresh = users - self._prompts_of.keys()
        rows = self._session.execute(
            select(SourceUser.name, func.count(Prompt.id))
            .join(Prompt, Prompt.source_user_id == SourceUser.id)
            .where(SourceUser.study_id == self._study.id, among(SourceUser.name, fresh))
            .group_by(SourceUser.name)
        )
        self._prompts_of |= dict.fromkeys(fresh, 0) | dict(iter(rows))
        return self._prompts_of

    def _decide(
        self,
        row: PromptRow,
        found: Findings,
        side: Split,
        ids: Sequence[int],
        seen: _Seen,
        taken: dict[str, int],
    ) -> Prepared | Folded:
        settings = self.settings
        if found.tokens > settings.max_tokens:
            return Folded(row=row, reason=FoldReason.over_length)
        matches = self._matches(row, found, ids, seen)
        stands = next((match for match in matches if match[0].split != side), None)
        reason = FoldReason.other_side
        if stands is None and matches and settings.near_duplicates == "fold":
            stands, reason = matches[0], matches[0][1]
        if stands is not None:
            match, _, similarity = stands
            key = match.id if isinstance(match, _Known) else match
            return Folded(row=row, reason=reason, stands=key, similarity=similarity)
        if row.user is not None and settings.cap:
            if taken[row.user] >= settings.cap:
                return Folded(row=row, reason=FoldReason.over_cap)
            taken[row.user] += 1
        group = self._join(matches[0][0], side) if matches else None
        return Prepared(row=row, split=side, found=found, group=group)

    def _matches(
        self, row: PromptRow, found: Findings, ids: Sequence[int], seen: _Seen
    ) -> list[_Match]:
        """The prompts that this one repeats, the one of the same prefix first, then the nearest."""
        matches: list[_Match] = []
        if found.prefix is not None and found.prefix in seen.by_prefix:
            matches.append((seen.by_prefix[found.prefix], FoldReason.prefix, None))
        if not self.settings.near_similarity:
            return matches
        others: list[_Known | Prepared] = [seen.stored[key] for key in ids]
        pending = [seen.pending[band] for band in found.bands if band in seen.pending]
        if pending:
            few = (prepared for some in pending for prepared in some[:LOOKED_AT])
            others += {id(prepared): prepared for prepared in few}.values()
        if not others:  # most often
            return matches
        mine = shingles(comparison_form(row.text))
        alike = [(jaccard(mine, other.shingles), other) for other in others]
        alike = [match for match in alike if match[0] >= self.settings.near_similarity]
        alike.sort(key=lambda match: -match[0])
        return matches + [(other, FoldReason.near, round(value, 3)) for value, other in alike]

    def _take(self, prepared: Prepared, seen: _Seen) -> None:
        """From here on later rows of the chunk are compared with this one too."""
        for band in prepared.found.bands:
            seen.pending.setdefault(band, []).append(prepared)
        if prepared.found.prefix is not None:
            seen.by_prefix.setdefault(prepared.found.prefix, prepared)

    def _join(self, match: _Known | Prepared, side: Split) -> int:
        """The group of a prompt; made if it has none."""
        if match.group is None:
            match.group = self._new_group(side)
            if isinstance(match, _Known):
                self._joined[match.id] = match.group
        return match.group

    def _new_group(self, side: Split) -> int:
        if not self._group_ids:
            self._group_ids = next_ids(self._session, DuplicateGroup, GROUPS)[::-1]
        group = self._group_ids.pop()
        self._groups.append((group, self._study.id, side.value))
        return group

    def _write_groups(self) -> None:
        """The groups that a chunk made, and the stored prompts that are in them now."""
        if not self._groups:
            return
        copy_rows(self._session, DuplicateGroup, ["id", "study_id", "split"], self._groups)
        if self._joined:
            self._session.execute(
                update(Prompt).execution_options(synchronize_session=False),
                [{"id": key, "duplicate_group": group} for key, group in self._joined.items()],
            )
        self._groups, self._joined = [], {}

    def _load(self, index: NearIndex) -> None:
        rows = self._session.execute(
            select(PromptSketch.prompt_id, PromptSketch.bands)
            .where(PromptSketch.study_id == self._study.id)
            .order_by(PromptSketch.prompt_id)
            .execution_options(yield_per=READ)
        )
        for prompt_id, found in rows:
            index.add(found)
            self._ids.append(prompt_id)

    def _sketch_missing(self) -> None:
        """Sketch the prompts that came another way than by a file."""
        missing = (
            select(Prompt.id, func.coalesce(Prompt.original["text"].astext, Prompt.text))
            .where(
                Prompt.study_id == self._study.id,
                ~select(PromptSketch).where(PromptSketch.prompt_id == Prompt.id).exists(),
            )
            .order_by(Prompt.id)
            .limit(READ)
        )
        while rows := self._session.execute(missing).all():
            made = []
            for prompt_id, text in rows:
                form = comparison_form(text)
                prefix = prefix_hash(form, self.settings.prefix_characters)
                made.append((prompt_id, self._study.id, prefix, _array(bands(shingles(form)))))
            columns = ["prompt_id", "study_id", "prefix", "bands"]
            copy_rows(self._session, PromptSketch, columns, made)


def asked_of(rows: Sequence[PromptRow]) -> list[Asked]:
    """What the examiner is asked about them."""
    return [Asked(row.text, row.use_case is None) for row in rows]


def _array(numbers: Sequence[int]) -> str:
    """As COPY takes it: much faster than the driver's own."""
    return "{" + ",".join(map(str, numbers)) + "}"
