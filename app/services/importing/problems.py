"""What is wrong with a file, line by line, and the refusal that lists it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from app.errors import Invalid

LISTED = 20


class RowProblem(Exception):
    """One line cannot be taken; the message is the reason."""


class LeftOut(RowProblem):
    """One line holds nothing of use, as published files have some; the others are taken."""


class RowProblems(Exception):
    """Some lines cannot be taken, each with its reason."""

    def __init__(self, problems: Sequence[tuple[int | None, str]]) -> None:
        super().__init__()
        self.problems = problems


class ImportRefused(Invalid):
    """The file was not imported, not a line of it. `problems` are the first LISTED reasons."""

    def __init__(self, file_name: str, problems: list[str], more: int) -> None:
        self.file_name = file_name
        self.problems = problems
        self.more = more
        shown = [*problems, f"and {more:,} more"] if more else problems
        super().__init__(
            f"{file_name} was not imported, nothing of it is stored:\n" + "\n".join(shown)
        )


class Problems:
    """Collects reasons while a file is read to its end, or until there are `enough`."""

    def __init__(self, file_name: str, *, enough: int | None = None) -> None:
        self._file_name = file_name
        self._enough = enough
        self._listed: list[str] = []
        self.count = 0
        self.place = "line"  # what the numbers count; "row" in a Parquet file

    def add(self, line: int | None, reason: str) -> None:
        """Raises ImportRefused once there are enough."""
        self.count += 1
        if len(self._listed) < LISTED:
            self._listed.append(self._located(line, reason))
        if self.count == self._enough:
            self.stop(None, "what comes after was not looked at")

    def stop(self, line: int | None, reason: str) -> NoReturn:
        """Nothing after this can be read. Raises ImportRefused, which names it in any case."""
        self.count += 1
        self._listed.append(self._located(line, reason))
        raise self.refusal()

    def refusal(self) -> ImportRefused:
        return ImportRefused(self._file_name, self._listed, self.count - len(self._listed))

    def _located(self, line: int | None, reason: str) -> str:
        return reason if line is None else f"{self.place} {line:,}: {reason}"
