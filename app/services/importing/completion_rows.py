"""A file of completions that systems outside gave to prompts of the study."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.config import get_settings
from app.models import Completion, Policy, PolicyKind, Study
from app.services import prompts
from app.services.importing import columns
from app.services.importing.problems import LeftOut, RowProblem
from app.services.importing.records import Names, StoredAtOnce
from app.services.prompts import PromptIndex

COMPLETION: Final[Names] = ("completion", "output", "text")
MODEL: Final[Names] = ("model", "policy", "system")
PROMPT_ID: Final[Names] = ("prompt_id",)
PROMPT: Final[Names] = ("prompt", "instruction")
SCORE: Final[Names] = ("score",)
COLUMNS: Final = (COMPLETION, MODEL, PROMPT_ID, PROMPT, SCORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRow:
    prompt_id: int
    model: str
    text: str
    sample_index: int
    score: float | None


class CompletionFile(StoredAtOnce):
    """Turns records into completions of external policies, which are made at first sight.

    A system's second text for a prompt is a further sample; the same text again is a duplicate.
    """

    kind = "completions"
    required: Sequence[Names] = (COMPLETION, MODEL, (*PROMPT_ID, *PROMPT))

    def __init__(self, session: Session, study: Study) -> None:
        self._session = session
        self._study = study
        self._prompts = PromptIndex(session, study)
        self._limit = get_settings().max_prompt_characters
        policies = session.execute(
            select(Policy.name, Policy.id, Policy.kind).where(Policy.study_id == study.id)
        ).all()
        self._policy_ids = {name: key for name, key, kind in policies if kind == "external"}
        self._own = {name for name, _, kind in policies if kind == "checkpoint"}
        self._known = self._stored_completions()
        self._stored: Counter[str] = Counter()
        self._empty = 0
        self._unused: set[str] = set()

    def _stored_completions(self) -> dict[tuple[int, str], dict[bytes, float | None]]:
        """By prompt and model: the SHA-256 of each text with its score."""
        rows = self._session.execute(
            select(
                Completion.prompt_id,
                Policy.name,
                func.sha256(func.convert_to(Completion.text, "UTF8")),
                Completion.external_score,
            )
            .join(Completion.policy)
            .where(Completion.study_id == self._study.id, Policy.kind == PolicyKind.external)
        )
        known: dict[tuple[int, str], dict[bytes, float | None]] = {}
        for prompt_id, model, digest, score in rows:
            known.setdefault((prompt_id, model), {})[digest] = score
        return known

    def parse(self, values: Mapping[str, Any], line: int) -> CompletionRow | None:  # noqa: ARG002
        text = columns.text(values, COMPLETION, limit=self._limit)
        if text is None:
            raise RowProblem("the completion is missing")
        model = columns.short_name(values, MODEL)
        if model is None:
            raise RowProblem("the model is missing")
        if model in self._own:
            raise RowProblem(f'"{model}" is a policy of this study; give the system another name')
        score = columns.number(values, SCORE)
        prompt_id = self._prompt(values)
        if prompt_id is None:
            raise LeftOut("completions of prompts that the study did not take")
        self._unused |= values.keys() - {columns.value_of(values, names)[0] for names in COLUMNS}
        samples = self._known.setdefault((prompt_id, model), {})
        digest = hashlib.sha256(text.encode()).digest()
        if digest not in samples:
            samples[digest] = score
            return CompletionRow(
                prompt_id=prompt_id,
                model=model,
                text=text,
                sample_index=len(samples) - 1,
                score=score,
            )
        if score is not None and samples[digest] != score:
            raise RowProblem(
                f"score {score}, but this completion is already known with {samples[digest]}"
            )
        return None

    def _prompt(self, values: Mapping[str, Any]) -> int | None:
        """The id of the completion's prompt; None for one that came and was not stored."""
        external_id = columns.short_name(values, PROMPT_ID)
        text = columns.text(values, PROMPT, limit=self._limit) or None
        known = self._prompts
        sha256 = None if text is None else prompts.text_sha256(prompts.normalize(text))
        if external_id is None:
            if text is None or sha256 is None:
                raise RowProblem("the prompt_id is missing")
            if sha256 not in known.by_text and sha256 not in known.left_out:
                raise RowProblem(f"no such prompt in this study: {text[:60]!r}")
            return known.by_text.get(sha256)
        named = known.text_of.get(external_id)
        if named is None:
            raise RowProblem(f'no prompt "{external_id}" in this study; import its prompts first')
        if sha256 is not None and sha256 != named:
            raise RowProblem(f'the prompt\'s text is not that of "{external_id}" in this study')
        return known.by_text.get(named)

    def size(self, row: CompletionRow) -> int:
        return len(row.text)

    def store(self, rows: Sequence[CompletionRow], import_id: int) -> None:
        fresh = dict.fromkeys(row.model for row in rows if row.model not in self._policy_ids)
        if fresh:
            ids = self._session.scalars(
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
            self._policy_ids.update(zip(fresh, ids, strict=True))
        self._session.execute(
            insert(Completion),
            [
                {
                    "study_id": self._study.id,
                    "prompt_id": row.prompt_id,
                    "policy_id": self._policy_ids[row.model],
                    "text": row.text,
                    "sample_index": row.sample_index,
                    "external_score": row.score,
                    "import_id": import_id,
                }
                for row in rows
            ],
        )
        self._stored.update(row.model for row in rows)
        self._empty += sum(not row.text.strip() for row in rows)

    def counts(self) -> dict[str, Any]:
        return {
            "stored": self._stored.total(),
            "policies": dict(self._stored),
            "empty": self._empty,
            "unused_columns": sorted(self._unused),
        }
