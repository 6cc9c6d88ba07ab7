"""Prompts: content-addressed, and split by whose they were."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.config import get_settings
from app.errors import Conflict, Invalid
from app.models import Prompt, SourceUser, Split, Study, UseCase
from app.services.bulk import among
from app.services.few_shot import FewShot

# The paper does not give its shares; these leave a tenth of the users to tune on and to judge on.
DEFAULT_SHARES: Mapping[Split, float] = {Split.train: 0.8, Split.valid: 0.1, Split.test: 0.1}

OTHER_IDS = "other_ids"  # in Prompt.details: what files call the prompt, beside external_id


def normalize(text: str) -> str:
    """What is stored and hashed: NFC, line feeds, no trailing white space."""
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

    @cached_property
    def normalized(self) -> str:
        return normalize(self.text)

    @cached_property
    def sha256(self) -> str:
        return text_sha256(self.normalized)

    @property
    def source(self) -> str:
        return self.user if self.user is not None else f"prompt:{self.sha256}"


@dataclass(frozen=True, kw_only=True)
class AddedPrompts:
    """`prompt_ids` has one id a row, in the order of the rows; duplicates share theirs."""

    stored: int
    duplicates: int
    own_users: int  # stored prompts that came without a user
    prompt_ids: Sequence[int]


class PromptIndex:
    """The study's prompts by content and by the names that files give them, in memory.

    With `among_texts`, hashes of texts, only those: enough for rows that bring no names.
    """

    def __init__(
        self, session: Session, study: Study, *, among_texts: Sequence[str] | None = None
    ) -> None:
        self.by_text: dict[str, int] = {}  # prompt id by text_sha256
        self.text_of: dict[str, str] = {}  # text_sha256 by external id
        self.stored_names: set[str] = set()
        rows = select(
            Prompt.id, Prompt.text_sha256, Prompt.external_id, Prompt.details[OTHER_IDS]
        ).where(Prompt.study_id == study.id)
        if among_texts is not None:
            rows = rows.where(among(Prompt.text_sha256, among_texts))
        for prompt_id, sha256, external_id, others in session.execute(rows):
            self.by_text[sha256] = prompt_id
            for name in (external_id, *(others or ())):
                if name is not None:
                    self.text_of[name] = sha256
                    self.stored_names.add(name)

    def claim(self, row: PromptRow) -> str | None:
        """Take the row's external id for its text; the reason if another text has it already."""
        if row.external_id is None:
            return None
        taken = self.text_of.setdefault(row.external_id, row.sha256)
        if taken == row.sha256:
            return None
        return f'prompt_id "{row.external_id}" already stands for another text'

    def by_external_id(self, external_id: str) -> int | None:
        sha256 = self.text_of.get(external_id)
        return None if sha256 is None else self.by_text.get(sha256)


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
    index: PromptIndex | None = None,
) -> AddedPrompts:
    """Store what is new; rows whose text the study already has are counted as duplicates.

    A source user's split is drawn at first sight and kept for good, whatever `shares` are later.
    Raises Invalid for an empty or too long text, Conflict for an external id of another text.
    `index` saves reading the study's prompts again for each of many calls.
    """
    session.refresh(study, ["split_key"], with_for_update={"key_share": True})  # one at a time
    rows = list(rows)
    index = index or PromptIndex(session, study)
    fresh: dict[str, PromptRow] = {}
    aliases: dict[str, str] = {}  # text_sha256 by further external id
    for row in rows:
        _check(row)
        if reason := index.claim(row):
            raise Conflict(f"{reason[0].upper()}{reason[1:]}.")
        if row.sha256 not in index.by_text and row.sha256 not in fresh:
            fresh[row.sha256] = row
        elif row.external_id is not None and row.external_id not in index.stored_names:
            aliases[row.external_id] = row.sha256
        if row.external_id is not None:
            index.stored_names.add(row.external_id)
    _store(session, study, list(fresh.values()), index, import_id, shares)
    for name, sha256 in aliases.items():
        _add_name(session, index.by_text[sha256], name)
    return AddedPrompts(
        stored=len(fresh),
        duplicates=len(rows) - len(fresh),
        own_users=sum(row.user is None for row in fresh.values()),
        prompt_ids=[index.by_text[row.sha256] for row in rows],
    )


def _check(row: PromptRow) -> None:
    limit = get_settings().max_prompt_characters
    if not row.normalized:
        raise Invalid("A prompt is empty.")
    if len(row.normalized) > limit:
        raise Invalid(f"A prompt has {len(row.normalized):,} characters; at most {limit:,} go.")


def _store(
    session: Session,
    study: Study,
    rows: Sequence[PromptRow],
    index: PromptIndex,
    import_id: int | None,
    shares: Mapping[Split, float],
) -> None:
    if not rows:
        return
    users = _source_users(session, study, {row.source for row in rows}, shares)
    values = []
    for row in rows:
        source_user_id, split = users[row.source]
        values.append(
            {
                "study_id": study.id,
                "source_user_id": source_user_id,
                "split": split,
                "text": row.normalized,
                "text_sha256": row.sha256,
                "external_id": row.external_id,
                "use_case": row.use_case,
                "closed_domain": row.closed_domain,
                "constraint_text": row.constraint_text,
                "few_shot": row.few_shot.to_json() if row.few_shot else None,
                "details": dict(row.details),
                "import_id": import_id,
            }
        )
    ids = session.scalars(insert(Prompt).returning(Prompt.id, sort_by_parameter_order=True), values)
    index.by_text.update(zip((row.sha256 for row in rows), ids, strict=True))


def _source_users(
    session: Session, study: Study, names: set[str], shares: Mapping[Split, float]
) -> dict[str, tuple[int, Split]]:
    """Id and split by name; the split of a name that is known stays what it was."""
    session.execute(
        upsert(SourceUser).on_conflict_do_nothing(),
        [
            {"study_id": study.id, "name": name, "split": split_of(study, name, shares)}
            for name in sorted(names)
        ],
    )
    known = session.execute(
        select(SourceUser.name, SourceUser.id, SourceUser.split).where(
            SourceUser.study_id == study.id, among(SourceUser.name, names)
        )
    )
    return {name: (source_user_id, split) for name, source_user_id, split in known}


def _add_name(session: Session, prompt_id: int, name: str) -> None:
    """Remember a further external id of a text that is stored once."""
    prompt = session.get_one(Prompt, prompt_id, populate_existing=True)
    others = prompt.details.get(OTHER_IDS, [])
    prompt.details = {**prompt.details, OTHER_IDS: [*others, name]}
    session.flush()
