"""A file of prompts."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from sqlalchemy.orm import Session

from app.config import get_settings
from app.models import Study
from app.services.importing import columns
from app.services.importing.problems import RowProblem, RowProblems
from app.services.importing.records import Names
from app.services.preparation.findings import Findings
from app.services.preparation.helpers import Helpers
from app.services.preparation.sifting import Preparation, asked_of
from app.services.prompts import AddedPrompts, NameTaken, PromptRow, add_prompts

PROMPT: Final[Names] = ("prompt", "text", "instruction")
PROMPT_ID: Final[Names] = ("prompt_id",)
USER: Final[Names] = ("user", "source_user")  # not "source": data sets put their name there
USE_CASE: Final[Names] = ("use_case",)
CLOSED_DOMAIN: Final[Names] = ("closed_domain",)
CONSTRAINT: Final[Names] = ("constraint",)
FEW_SHOT: Final[Names] = ("few_shot",)  # stands in for the prompt, which is then made of its parts
USED: Final = {
    *PROMPT_ID,
    *USER,
    *USE_CASE,
    *CLOSED_DOMAIN,
    *CONSTRAINT,
    *FEW_SHOT,
}


# A chunk, and what the helpers find out about it; None while there are none.
_Waiting = tuple[Sequence[PromptRow], Future[list[Findings]] | None]


class PromptFile:
    """Turns records into prompts. What it has no column for stays in the prompt's details.

    From the second chunk on other processes look at the texts of the next ones while this one
    decides and stores. The chunks are stored in their order, so it makes no difference otherwise.
    """

    kind = "prompts"
    required: Sequence[Names] = ((*PROMPT, *FEW_SHOT),)

    def __init__(self, session: Session, study: Study) -> None:
        self._session = session
        self._study = study
        self._preparation = Preparation(session, study)
        self._limit = get_settings().max_prompt_characters
        self._processes = get_settings().import_processes
        self._added = AddedPrompts()
        self._unused: dict[str, None] = {}
        self._helpers: Helpers | None = None
        self._waiting: deque[_Waiting] = deque()

    def parse(self, values: Mapping[str, Any], line: int) -> PromptRow:
        few_shot = columns.few_shot(values, FEW_SHOT)
        text = columns.text(values, PROMPT, limit=self._limit)
        if (text is None or not text.strip()) and few_shot is not None:
            text = few_shot.rendered()
        if text is None or not text.strip():
            raise RowProblem("the prompt is empty")
        row = PromptRow(
            text=text,
            user=columns.short_name(values, USER),
            external_id=columns.short_name(values, PROMPT_ID),
            use_case=columns.use_case(values, USE_CASE),
            closed_domain=columns.flag(values, CLOSED_DOMAIN),
            constraint_text=columns.text(values, CONSTRAINT, limit=self._limit) or None,
            few_shot=few_shot,
            details=columns.others(values, {*USED, columns.value_of(values, PROMPT)[0]}),
            line=line,
        )
        # Composing characters can lengthen a text, and a few-shot prompt is made of many.
        if len(row.normalized) > self._limit:
            raise RowProblem(f"prompt has more than {self._limit:,} characters in normal form")
        self._unused.update(dict.fromkeys(row.details))
        return row

    def size(self, row: PromptRow) -> int:
        return len(row.text)

    def store(self, rows: Sequence[PromptRow], import_id: int) -> Sequence[tuple[int, str]]:
        if self._waiting and self._helpers is None and self._processes:
            # There is a second chunk: other processes are worth their start.
            self._helpers = Helpers(self._preparation.examiner, self._processes)
            # What is here by now stays. Searching all of it for garbage took a fifth of the time.
            gc.collect()
            gc.freeze()
            self._waiting = deque((first, self._look(first)) for first, _ in self._waiting)
        self._waiting.append((rows, self._look(rows)))
        if len(self._waiting) > max(1, self._processes):
            self._store(*self._waiting.popleft(), import_id)
        return ()

    def finish(self, import_id: int) -> None:
        while self._waiting:
            self._store(*self._waiting.popleft(), import_id)

    def close(self) -> None:
        if self._helpers is not None:
            self._helpers.close()
            gc.unfreeze()

    def _look(self, rows: Sequence[PromptRow]) -> Future[list[Findings]] | None:
        return None if self._helpers is None else self._helpers.look(asked_of(rows))

    def _store(
        self,
        rows: Sequence[PromptRow],
        looked_at: Future[list[Findings]] | None,
        import_id: int,
    ) -> None:
        found: dict[str, Findings] | None = None
        if looked_at is not None:
            found = {}
            for row, one in zip(rows, looked_at.result(), strict=True):
                found.setdefault(row.sha256, one)  # of texts that are one, the first is taken
        try:
            added = add_prompts(
                self._session,
                self._study,
                rows,
                import_id=import_id,
                preparation=self._preparation,
                found=found,
            )
        except NameTaken as taken:
            raise RowProblems([(row.line, taken.reason(row)) for row in taken.rows]) from None
        self._added.add(added)

    def counts(self) -> dict[str, Any]:
        added = self._added
        return {
            "stored": added.stored,
            "own_users": added.own_users,
            "duplicates": added.duplicates,
            "held": added.held,
            "folded": {reason.value: count for reason, count in added.folded.items()},
            "folded_lines": {reason.value: lines for reason, lines in added.lines.items()},
            "unused_columns": list(self._unused),
        }
