"""What an import did, as it is stored, printed and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

# What became of prompts that were not stored: by FoldReason, after their number.
FOLDED = {
    "exact": "here already, word for word",
    "prefix": "with the long beginning of another, which stands for it",
    "near": "nearly the same as another, which stands for it",
    "other_side": "left out: nearly the same as one that is here in another split",
    "over_length": "left out: more tokens than the study takes",
    "over_cap": "left out: more than the study takes of one user",
}
# Of labels, these are said of their prompts.
FOLDED_LABELS = {
    "other_side": "left out: the prompt is nearly the same as one that is here in another split",
    "over_length": "left out: the prompt has more tokens than the study takes",
}


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """Counts of one file. Everything read was stored, repeats something stored, or is left out."""

    kind: str  # of services.imports.IMPORTERS
    file_name: str
    sha256: str
    read: int
    stored: int
    duplicates: int
    seconds: float
    own_users: int = 0  # stored prompts without a user: each is its own source user
    held: int = 0  # stored prompts that wait for a researcher because of PII
    # By FoldReason: prompts that were not stored, or labels whose prompt the study does not take.
    folded: Mapping[str, int] = field(default_factory=dict)
    folded_lines: Mapping[str, Sequence[int]] = field(default_factory=dict)  # the first of each
    left_out: Mapping[str, int] = field(default_factory=dict)  # rows without use, by reason
    left_out_lines: Mapping[str, Sequence[int]] = field(default_factory=dict)  # the first of each
    new_prompts: int = 0  # that came with labels
    empty: int = 0  # stored completions without a character: systems do answer with nothing
    policies: Mapping[str, int] = field(default_factory=dict)  # stored completions by policy
    unused_columns: Sequence[str] = ()
    import_id: int | None = None  # None: the same file again, which brought nothing
    imported_before: datetime | None = None  # when this very file was first imported

    def to_json(self) -> dict[str, Any]:
        before = self.imported_before
        return asdict(self) | {"imported_before": before.isoformat() if before else None}

    def counts(self) -> dict[str, int]:
        """What became of the rows, zeros too. One refused row is all of the file, and no report."""
        return {
            "read": self.read,
            "stored": self.stored,
            "collapsed as duplicates": self.duplicates,
            "held for personal information": self.held,
            "over the length": self.folded.get("over_length", 0),
            "over a user's cap": self.folded.get("over_cap", 0),
            "refused": 0,
        }

    def sentences(self) -> list[str]:
        """The report in words, one fact a sentence."""
        said = [
            f"{self.kind.capitalize()}: {self.read:,} read, {self.stored:,} stored, "
            f"{self.duplicates:,} left out as duplicates, in {self.seconds:.1f} s."
        ]
        if self.stored == 0:
            said.append("Nothing new: all of it was here already.")
        if self.imported_before:
            said.append(f"This very file was imported on {self.imported_before:%Y-%m-%d %H:%M}.")
        if self.own_users:
            said.append(f"{self.own_users:,} without a user: each counts as a user of its own.")
        words = FOLDED if self.kind == "prompts" else FOLDED_LABELS
        for reason, text in words.items():
            if count := self.folded.get(reason, 0):
                said.append(
                    f"{count:,} {text}{_on_lines(self.folded_lines.get(reason, ()), count)}."
                )
        if self.held:
            said.append(
                f"{self.held:,} held for what may be personal information, until a researcher "
                f"clears, redacts or drops it."
            )
        if self.new_prompts:
            said.append(f"New prompts that came with them: {self.new_prompts:,}.")
        for reason, count in self.left_out.items():
            lines = _on_lines(self.left_out_lines.get(reason, ()), count)
            said.append(f"{count:,} left out: {reason}{lines}.")
        if self.policies:
            shares = ", ".join(f"{name} {count:,}" for name, count in sorted(self.policies.items()))
            said.append(f"{len(self.policies)} policies: {shares}.")
        if self.empty:
            said.append(f"{self.empty:,} of the completions are empty.")
        if self.unused_columns:
            kept = "kept with the prompt" if self.kind == "prompts" else "not used"
            said.append(
                f"Columns without a meaning here, {kept}: {', '.join(self.unused_columns)}."
            )
        return said


def _on_lines(lines: Sequence[int], count: int) -> str:
    if not lines:
        return ""
    more = " and others" if count > len(lines) else ""
    some = dict.fromkeys(lines)  # a line may hold many rows: those of a message tree
    word = "line" if len(some) == 1 and not more else "lines"
    return f" ({word} {', '.join(f'{line:,}' for line in some)}{more})"
