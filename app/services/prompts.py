"""Prompts: content-addressed, and split by whose they were.

A prompt is stored as it was typed and addressed by its normal form. What a study makes of the
prompts that come (services.preparation) is asked for by who adds them: files are prepared.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.config import get_settings
from app.errors import Conflict, Invalid
from app.models import (
    FoldedPrompt,
    FoldReason,
    Prompt,
    SourceUser,
    Split,
    Study,
    UseCase,
)
from app.services.bulk import among, copy_rows, next_ids
from app.services.few_shot import FewShot
from app.services.preparation.findings import Findings
from app.services.preparation.sifting import Folded, Preparation, Prepared
from app.services.prompt_store import store_prompts, write_down

# The paper does not give its shares; these leave a tenth of the users to tune on and to judge on.
DEFAULT_SHARES: Mapping[Split, float] = {Split.train: 0.8, Split.valid: 0.1, Split.test: 0.1}

CHUNK = 2_000  # rows that are looked up and stored at a time


def normalize(text: str) -> str:
    """What is hashed, so that it finds the text again: NFC, line feeds, no trailing white space."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n")).rstrip()


def text_sha256(normalized: str) -> str:
    return hashlib.sha256(normalized.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A prompt on its way in. Without a `user` it is its own source user."""

    text: str
    user: str | None = None
    external_id: str | None = None
    use_case: UseCase | None = None
    closed_domain: bool | None = None
    constraint_text: str | None = None
    few_shot: FewShot | None = None  # its parts, where `text` was made of some
    details: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = None  # of the file that it came in

    @cached_property
    def normalized(self) -> str:
        return normalize(self.text)

    @cached_property
    def sha256(self) -> str:
        return text_sha256(self.normalized)

    @property
    def source(self) -> str:
        return self.user if self.user is not None else f"prompt:{self.sha256}"


@dataclass(kw_only=True)
class AddedPrompts:
    """What became of the rows. `prompt_ids` has an id a row, in their order: the prompt's own, or
    that of the one which stands for it; None for what was left out."""

    stored: int = 0
    own_users: int = 0  # stored prompts that came without a user
    held: int = 0  # stored prompts that wait for a researcher because of PII
    folded: Counter[FoldReason] = field(default_factory=Counter)
    lines: dict[FoldReason, list[int]] = field(default_factory=dict)  # the first LINES of each
    prompt_ids: list[int | None] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        return sum(self.folded[reason] for reason in DUPLICATES)

    def add(self, more: AddedPrompts) -> None:
        """Take over the counts of further rows, without their ids."""
        self.stored += more.stored
        self.own_users += more.own_users
        self.held += more.held
        self.folded.update(more.folded)
        for reason, lines in more.lines.items():
            listed = self.lines.setdefault(reason, [])
            listed += lines[: LINES - len(listed)]

    def fold(self, reason: FoldReason, line: int | None) -> None:
        self.folded[reason] += 1
        listed = self.lines.setdefault(reason, [])
        if line is not None and len(listed) < LINES:
            listed.append(line)


LINES = 20
DUPLICATES = (FoldReason.exact, FoldReason.prefix, FoldReason.near, FoldReason.other_side)


class NameTaken(Conflict):
    """External ids that stand for another text already; `rows` are those that claim them."""

    def __init__(self, rows: Sequence[PromptRow]) -> None:
        self.rows = rows
        super().__init__(f"{self.reason(rows[0])[0].upper()}{self.reason(rows[0])[1:]}.")

    @staticmethod
    def reason(row: PromptRow) -> str:
        return f'prompt_id "{row.external_id}" already stands for another text'


def split_of(study: Study, source: str, shares: Mapping[Split, float] = DEFAULT_SHARES) -> Split:
    """The split of a source user: HMAC-SHA256 under the study's key, as a fraction of 2**64.

    Keyed, so that nobody outside can choose a name that lands in the test split.
    """
    digest = hmac.digest(study.split_key.encode(), source.encode(), "sha256")
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares.values())
    for split, share in shares.items():
        point -= share
        if point < 0:
            return split
    return split


def add_prompts(
    session: Session,
    study: Study,
    rows: Iterable[PromptRow],
    *,
    import_id: int | None = None,
    shares: Mapping[Split, float] = DEFAULT_SHARES,
    preparation: Preparation | None = None,
    found: Mapping[str, Findings] | None = None,
) -> AddedPrompts:
    """Store what is new; a row whose text the study already has is an exact duplicate.

    A source user's split is drawn at first sight and kept for good, whatever `shares` are later.
    With `preparation` its steps decide too, else nothing but the text does; `found` holds what its
    examiner says of the rows, by text_sha256, where it was asked before. Raises Invalid for an
    empty or too long text, NameTaken for an external id of another text.
    """
    session.refresh(study, ["split_key"], with_for_update={"key_share": True})  # one at a time
    rows = list(rows)
    added = AddedPrompts()
    for start in range(0, len(rows), CHUNK):
        _add_chunk(
            session,
            study,
            rows[start : start + CHUNK],
            added,
            import_id,
            shares,
            preparation,
            found,
        )
    return added


def _add_chunk(
    session: Session,
    study: Study,
    rows: Sequence[PromptRow],
    added: AddedPrompts,
    import_id: int | None,
    shares: Mapping[Split, float],
    preparation: Preparation | None,
    found: Mapping[str, Findings] | None,
) -> None:
    for row in rows:
        _check(row)
    names = _check_names(session, study, rows)
    stored = _stored_texts(session, study, rows)  # prompt id by text_sha256, and grows
    fresh: dict[str, PromptRow] = {}
    for row in rows:
        if row.sha256 not in stored:
            fresh.setdefault(row.sha256, row)
    sources = {row.source for row in fresh.values()}
    users = _source_users(session, study, sources, shares) if sources else {}
    folded: list[Folded] = []
    if preparation is None:
        chosen: list[tuple[PromptRow, Prepared | None]] = [(row, None) for row in fresh.values()]
    else:
        chosen = []
        sides = {name: split for name, (_, split) in users.items()}
        known = None if found is None else [found[sha256] for sha256 in fresh]
        for decision in preparation.sift(list(fresh.values()), sides, known):
            if isinstance(decision, Folded):
                folded.append(decision)
            else:
                chosen.append((decision.row, decision))
    ids = store_prompts(session, study, chosen, users, import_id)
    stored.update(zip((row.sha256 for row, _ in chosen), ids, strict=True))
    if preparation is not None:
        made = [(one, key) for (_, one), key in zip(chosen, ids, strict=True) if one]
        preparation.remember(made)
    added.stored += len(chosen)
    added.own_users += sum(row.user is None for row, _ in chosen)
    added.held += sum(bool(one and one.found.spans) for _, one in chosen)
    write_down(
        session,
        study,
        rows,
        {id(row) for row, _ in chosen},
        folded,
        stored,
        names,
        added,
        import_id,
    )


def _check(row: PromptRow) -> None:
    limit = get_settings().max_prompt_characters
    if not row.normalized:
        raise Invalid("A prompt is empty.")
    if len(row.normalized) > limit:
        raise Invalid(f"A prompt has {len(row.normalized):,} characters; at most {limit:,} go.")


def _check_names(session: Session, study: Study, rows: Sequence[PromptRow]) -> set[str]:
    """The rows' external ids that are stored already. Raises NameTaken."""
    asked = {row.external_id for row in rows if row.external_id is not None}
    if not asked:
        return set()
    text_of: dict[str, str] = {}
    for table in (Prompt, FoldedPrompt):
        found = select(table.external_id, table.text_sha256).where(
            table.study_id == study.id, among(table.external_id, asked)
        )
        text_of.update((name, sha256) for name, sha256 in session.execute(found) if name)
    stored = set(text_of)
    taken = [
        row
        for row in rows
        if row.external_id is not None
        and text_of.setdefault(row.external_id, row.sha256) != row.sha256
    ]
    if taken:
        raise NameTaken(taken)
    return stored


def _stored_texts(session: Session, study: Study, rows: Sequence[PromptRow]) -> dict[str, int]:
    found = select(Prompt.text_sha256, Prompt.id).where(
        Prompt.study_id == study.id, among(Prompt.text_sha256, {row.sha256 for row in rows})
    )
    return dict(iter(session.execute(found)))


def _source_users(
    session: Session, study: Study, names: set[str], shares: Mapping[Split, float]
) -> dict[str, tuple[int, Split]]:
    """Id and split by name; the split of a name that is known stays what it was.

    The study's lock keeps others from adding names meanwhile.
    """
    known = session.execute(
        select(SourceUser.name, SourceUser.id, SourceUser.split).where(
            SourceUser.study_id == study.id, among(SourceUser.name, names)
        )
    )
    users = {name: (source_user_id, split) for name, source_user_id, split in known}
    fresh = sorted(names - users.keys())
    if fresh:
        ids = next_ids(session, SourceUser, len(fresh))
        made = {
            name: (key, split_of(study, name, shares)) for key, name in zip(ids, fresh, strict=True)
        }
        copy_rows(
            session,
            SourceUser,
            ["id", "study_id", "name", "split"],
            ((key, study.id, name, split.value) for name, (key, split) in made.items()),
        )
        users |= made
    return users
