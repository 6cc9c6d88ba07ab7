"""A file of completions that systems outside gave to prompts of the study."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.config import get_settings
from app.models import Completion, FoldedPrompt, Policy, PolicyKind, Prompt, Study
from app.services import prompts
from app.services.bulk import among, copy_rows, next_ids
from app.services.importing import columns
from app.services.importing.outside import OutsidePolicies
from app.services.importing.problems import RowProblem, RowProblems
from app.services.importing.records import Names, StoredAtOnce

COMPLETION: Final[Names] = ("completion", "output", "text")
MODEL: Final[Names] = ("model", "policy", "system")
PROMPT_ID: Final[Names] = ("prompt_id",)
PROMPT: Final[Names] = ("prompt", "instruction")
SCORE: Final[Names] = ("score",)
COLUMNS: Final = (COMPLETION, MODEL, PROMPT_ID, PROMPT, SCORE)

NOT_TAKEN = "completions of prompts that the study did not take"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRow:
    """A completion, and its prompt by name, by text, or both."""

    line: int
    external_id: str | None
    prompt: str | None  # its beginning, for who reads that it is not here
    sha256: str | None  # of the prompt's normal form
    model: str
    text: str
    score: float | None


@dataclass(frozen=True)
class _Prompts:
    """Those that the rows of a chunk ask for."""

    text_of: Mapping[str, str]  # text_sha256 by external id, of left out ones too
    by_text: Mapping[str, int]  # prompt id by text_sha256
    left_out: Collection[str]  # text_sha256 of prompts that came and were not stored

    def find(self, row: CompletionRow) -> int | None:
        """The id of the row's prompt; None for one that was left out. Raises RowProblem."""
        if row.external_id is None:
            assert row.sha256 is not None
            if row.sha256 not in self.by_text and row.sha256 not in self.left_out:
                raise RowProblem(f"no such prompt in this study: {row.prompt!r}")
            return self.by_text.get(row.sha256)
        named = self.text_of.get(row.external_id)
        if named is None:
            name = row.external_id
            raise RowProblem(f'no prompt "{name}" in this study; import its prompts first')
        if row.sha256 is not None and row.sha256 != named:
            raise RowProblem(f'the prompt\'s text is not that of "{row.external_id}" in this study')
        return self.by_text.get(named)


class CompletionFile(StoredAtOnce):
    """Turns records into completions of external policies, which are made at first sight.

    A system's second text for a prompt is a further sample; the same text again is a duplicate.
    What the study has is asked for by the chunk: nothing of it stays in memory.
    """

    kind = "completions"
    required: Sequence[Names] = (COMPLETION, MODEL, (*PROMPT_ID, *PROMPT))

    def __init__(self, session: Session, study: Study) -> None:
        self._session = session
        self._study = study
        self._limit = get_settings().max_prompt_characters
        self._policies = OutsidePolicies(session, study)
        self._stored: Counter[str] = Counter()
        self._empty = 0
        self._unused: set[str] = set()

    def parse(self, values: Mapping[str, Any], line: int) -> CompletionRow:
        text = columns.text(values, COMPLETION, limit=self._limit)
        if text is None:
            raise RowProblem("the completion is missing")
        model = columns.short_name(values, MODEL)
        if model is None:
            raise RowProblem("the model is missing")
        if model in self._policies.own:
            raise RowProblem(f'"{model}" is a policy of this study; give the system another name')
        external_id = columns.short_name(values, PROMPT_ID)
        prompt = columns.text(values, PROMPT, limit=self._limit) or None
        if external_id is None and prompt is None:
            raise RowProblem("the prompt_id is missing")
        score = columns.number(values, SCORE)
        self._unused |= values.keys() - {columns.value_of(values, names)[0] for names in COLUMNS}
        return CompletionRow(
            line=line,
            external_id=external_id,
            prompt=None if prompt is None else prompt[:60],
            sha256=None if prompt is None else prompts.text_sha256(prompts.normalize(prompt)),
            model=model,
            text=text,
            score=score,
        )

    def size(self, row: CompletionRow) -> int:
        return len(row.text)

    def store(self, rows: Sequence[CompletionRow], import_id: int) -> list[tuple[int, str]]:
        known = self._prompts(rows)
        left_out: list[tuple[int, str]] = []
        problems: list[tuple[int | None, str]] = []
        found: list[tuple[int, CompletionRow]] = []
        for row in rows:
            try:
                prompt_id = known.find(row)
            except RowProblem as problem:
                problems.append((row.line, str(problem)))
                continue
            if prompt_id is None:
                left_out.append((row.line, NOT_TAKEN))
            else:
                found.append((prompt_id, row))
        samples = self._samples({prompt_id for prompt_id, _ in found})
        fresh: list[tuple[int, CompletionRow, int]] = []  # with the number of the sample
        for prompt_id, row in found:
            scores = samples.setdefault((prompt_id, row.model), {})
            digest = hashlib.sha256(row.text.encode()).digest()
            if digest not in scores:
                fresh.append((prompt_id, row, len(scores)))
                scores[digest] = row.score
            elif row.score is not None and scores[digest] != row.score:
                has = f"this completion is already known with {scores[digest]}"
                problems.append((row.line, f"score {row.score}, but {has}"))
        if problems:
            raise RowProblems(problems)
        self._write(fresh, import_id)
        return left_out

    def _prompts(self, rows: Sequence[CompletionRow]) -> _Prompts:
        names = {row.external_id for row in rows if row.external_id is not None}
        text_of: dict[str, str] = {}
        for table in (Prompt, FoldedPrompt):
            named = select(table.external_id, table.text_sha256).where(
                table.study_id == self._study.id, among(table.external_id, names)
            )
            text_of.update((name, sha256) for name, sha256 in self._session.execute(named) if name)
        texts = {*text_of.values(), *(row.sha256 for row in rows if row.sha256 is not None)}
        stored = select(Prompt.text_sha256, Prompt.id).where(
            Prompt.study_id == self._study.id, among(Prompt.text_sha256, texts)
        )
        by_text = dict(iter(self._session.execute(stored)))
        came = select(FoldedPrompt.text_sha256).where(
            FoldedPrompt.study_id == self._study.id,
            among(FoldedPrompt.text_sha256, texts - by_text.keys()),
        )
        return _Prompts(text_of, by_text, set(self._session.scalars(came)))

    def _samples(
        self, prompt_ids: Collection[int]
    ) -> dict[tuple[int, str], dict[bytes, float | None]]:
        """Of these prompts, by prompt and model: the SHA-256 of each text with its score."""
        rows = self._session.execute(
            select(
                Completion.prompt_id,
                Policy.name,
                func.sha256(func.convert_to(Completion.text, "UTF8")),
                Completion.external_score,
            )
            .join(Completion.policy)
            .where(
                Completion.study_id == self._study.id,
                among(Completion.prompt_id, prompt_ids),
                Policy.kind == PolicyKind.external,
            )
        )
        known: dict[tuple[int, str], dict[bytes, float | None]] = {}
        for prompt_id, model, digest, score in rows:
            known.setdefault((prompt_id, model), {})[digest] = score
        return known

    def _write(self, rows: Sequence[tuple[int, CompletionRow, int]], import_id: int) -> None:
        self._policies.make(dict.fromkeys(row.model for _, row, _ in rows))
        columns = "id study_id prompt_id policy_id text sample_index external_score import_id"
        ids = next_ids(self._session, Completion, len(rows))
        copy_rows(
            self._session,
            Completion,
            columns.split(),
            (
                (
                    key,
                    self._study.id,
                    prompt_id,
                    self._policies.ids[row.model],
                    row.text,
                    sample,
                    row.score,
                    import_id,
                )
                for key, (prompt_id, row, sample) in zip(ids, rows, strict=True)
            ),
        )
        self._stored.update(row.model for _, row, _ in rows)
        self._empty += sum(not row.text.strip() for _, row, _ in rows)

    def counts(self) -> dict[str, Any]:
        return {
            "stored": self._stored.total(),
            "policies": dict(self._stored),
            "empty": self._empty,
            "unused_columns": sorted(self._unused),
        }
