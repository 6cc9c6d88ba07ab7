"""What went into an export, counted while it is written: the paper's Table 6, and who and when."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

ORIGINS = {True: "labeler", False: "customer"}  # by whether a labeler wrote the prompt


@dataclass
class Tally:
    """Rows and prompts by origin and split, rows by labeler and guideline version.

    Rows come ordered by prompt: a prompt is counted when another follows it.
    """

    rows: int = 0
    prompts: int = 0
    rows_by: Counter[tuple[str, str]] = field(default_factory=Counter)
    prompts_by: Counter[tuple[str, str]] = field(default_factory=Counter)
    labelers: Counter[str] = field(default_factory=Counter)
    guidelines: Counter[int] = field(default_factory=Counter)
    _last: int | None = None

    def add(self, row: Any, rows: int, labeler: str | None = None) -> None:
        """That `row`, a label or a prompt, became so many rows."""
        cell = (ORIGINS[row.written], row.split.value)
        self.rows += rows
        self.rows_by[cell] += rows
        if row.prompt_id != self._last:
            self._last = row.prompt_id
            self.prompts += 1
            self.prompts_by[cell] += 1
        if labeler is not None:
            self.labelers[labeler] += rows
            self.guidelines[row.version] += rows

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "prompts": self.prompts,
            "rows_by_origin_and_split": _nested(self.rows_by),
            "prompts_by_origin_and_split": _nested(self.prompts_by),
            "labelers": dict(sorted(self.labelers.items())),
            "guideline_versions": {str(k): self.guidelines[k] for k in sorted(self.guidelines)},
        }


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (origin, split), count in sorted(counts.items()):
        found.setdefault(origin, {})[split] = count
    return found
