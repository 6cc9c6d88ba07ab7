"""What an import did, as it is stored, printed and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """Counts of one file. Everything read was stored or is a duplicate of something stored."""

    kind: str  # "prompts" or "completions"
    file_name: str
    sha256: str
    read: int
    stored: int
    duplicates: int
    seconds: float
    own_users: int = 0  # stored prompts without a user: each is its own source user
    empty: int = 0  # stored completions without a character: systems do answer with nothing
    policies: Mapping[str, int] = field(default_factory=dict)  # stored completions by policy
    unused_columns: Sequence[str] = ()
    imported_before: datetime | None = None  # when this very file was first imported

    def to_json(self) -> dict[str, Any]:
        before = self.imported_before
        return asdict(self) | {"imported_before": before.isoformat() if before else None}

    def sentences(self) -> list[str]:
        """The report in words, one fact a sentence."""
        said = [
            f"{self.read:,} {self.kind} read, {self.stored:,} stored, "
            f"{self.duplicates:,} duplicates, in {self.seconds:.1f} s."
        ]
        if self.stored == 0:
            said.append("Nothing new: all of it was here already.")
        if self.imported_before:
            said.append(f"This very file was imported on {self.imported_before:%Y-%m-%d %H:%M}.")
        if self.own_users:
            said.append(
                f"{self.own_users:,} prompts came without a user: each counts as its own user."
            )
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
