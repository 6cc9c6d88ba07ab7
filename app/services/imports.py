"""Importing prompts, completions and labels from JSONL, CSV or Parquet: all of a file, or nothing.

A file is streamed line by line and checked to its end, so that a refusal lists every problem it
can. Every kind is content-addressed: importing a file again stores nothing new.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO, Final, Generic, Protocol, Required, TypedDict, TypeVar, Unpack

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.config import get_settings
from app.models import (
    Completion,
    Demonstration,
    FoldedPrompt,
    Import,
    Prompt,
    PromptSketch,
    Ranking,
    SourceUser,
    Study,
    User,
)
from app.services.bulk import analyze, plan_for_growth
from app.services.importing import shapes
from app.services.importing.columns import plain_file_name
from app.services.importing.completion_rows import CompletionFile
from app.services.importing.label_rows import ComparisonFile, DemonstrationFile, RankingFile
from app.services.importing.lines import Limits, check_size
from app.services.importing.problems import LISTED, LeftOut, Problems, RowProblem, RowProblems
from app.services.importing.problems import ImportRefused as ImportRefused
from app.services.importing.prompt_rows import PromptFile
from app.services.importing.records import Names, Record, read_records
from app.services.importing.report import ImportReport as ImportReport
from app.services.preparation.helpers import HelperGone

CHUNK = 2_000  # rows that are held and stored at a time, or fewer that are long
CHUNK_CHARACTERS = 4_000_000

# What an import fills and looks things up in. After so many rows, and each time there are twice as
# many, the database is told to look at how they have grown.
GROWING = (Prompt, SourceUser, PromptSketch, FoldedPrompt, Completion, Demonstration, Ranking)
ANALYZED = 10_000

PROGRESS = 500  # rows after which it is said how far the reading is

Row = TypeVar("Row")
Progress = Callable[[int, int], None]  # bytes of the file, and rows, so far


class How(TypedDict, total=False):
    """How a file is imported, the same for every kind."""

    file_name: Required[str]
    created_by: User | None
    limits: Limits | None
    mapping: Mapping[str, str] | None  # what columns are read as, by their name in the file
    progress: Progress | None


class RecordFile(Protocol[Row]):
    """One kind of file: what its records mean and where they go."""

    kind: str
    required: Sequence[Names]

    def parse(self, values: Mapping[str, Any], line: int) -> Row | None:
        """The row to store, None for a duplicate. Raises RowProblem."""

    def size(self, row: Row) -> int:
        """Characters of its texts."""

    def store(self, rows: Sequence[Row], import_id: int) -> Sequence[tuple[int, str]]:
        """Store these, at once or by the end; the lines that are left out after all, and why.

        Raises RowProblems for what shows only beside the rows that are stored, and HelperGone.
        """

    def finish(self, import_id: int) -> None:
        """Store what waits. Raises as `store`."""

    def close(self) -> None:
        """Called at the end, whatever it was."""

    def counts(self) -> dict[str, Any]:
        """The kind's own fields of ImportReport, `stored` among them."""


def import_prompts(
    session: Session,
    study: Study,
    file: BinaryIO,
    **how: Unpack[How],
) -> ImportReport:
    """Import a seekable file of prompts. Any problem raises ImportRefused, with nothing stored.

    Columns: prompt (or text, instruction); where there are, prompt_id, user (or source_user),
    use_case, closed_domain, constraint, few_shot (services.few_shot), of which the prompt is made
    where it has no text of its own. Others are kept in the prompt's details.
    """
    return _import(session, study, PromptFile, file, how)


def import_completions(
    session: Session,
    study: Study,
    file: BinaryIO,
    **how: Unpack[How],
) -> ImportReport:
    """Import a seekable file of other systems' completions. Raises ImportRefused as above.

    Columns: completion (or output, text), model (or policy, system), prompt_id or prompt, and score
    where there is one.
    """
    return _import(session, study, CompletionFile, file, how)


def import_demonstrations(
    session: Session,
    study: Study,
    file: BinaryIO,
    **how: Unpack[How],
) -> ImportReport:
    """Import a seekable file of demonstrations, in the name of the study's account for imported
    labels. Raises ImportRefused as above.

    Columns: prompt (or instruction) and completion (or response, output), or messages; or message
    trees, whose best answers are taken.
    """
    return _import_labels(DemonstrationFile, session, study, file, how)


def import_comparisons(
    session: Session,
    study: Study,
    file: BinaryIO,
    **how: Unpack[How],
) -> ImportReport:
    """Import a seekable file of comparisons as rankings of two, as above.

    Columns: chosen and rejected, as whole dialogues, or prompt beside them; chosen_model and
    rejected_model where they are known.
    """
    return _import_labels(ComparisonFile, session, study, file, how)


def import_rankings(
    session: Session,
    study: Study,
    file: BinaryIO,
    **how: Unpack[How],
) -> ImportReport:
    """Import a seekable file of rankings, as above.

    Columns: prompt, completions, and groups or ranks; models where they are known. Or message
    trees: the ranked answers to each of the user's messages.
    """
    return _import_labels(RankingFile, session, study, file, how)


IMPORTERS: Final = {
    "prompts": import_prompts,
    "completions": import_completions,
    "demonstrations": import_demonstrations,
    "comparisons": import_comparisons,
    "rankings": import_rankings,
}


def _import_labels(
    kind: Callable[[Session, Study, str], RecordFile[Any]],
    session: Session,
    study: Study,
    file: BinaryIO,
    how: How,
) -> ImportReport:
    def named(session: Session, study: Study) -> RecordFile[Any]:
        return kind(session, study, how["file_name"])

    return _import(session, study, named, file, how)


def imports_of(session: Session, study: Study) -> list[tuple[Import, User | None]]:
    """The study's imports with who made them, newest first."""
    rows = session.execute(
        select(Import, User)
        .outerjoin(User, User.id == Import.created_by)
        .where(Import.study_id == study.id)
        .order_by(Import.id.desc())
    )
    return [(record, user) for record, user in rows]


def _import(
    session: Session,
    study: Study,
    kind: Callable[[Session, Study], RecordFile[Row]],
    file: BinaryIO,
    how: How,
) -> ImportReport:
    how = {**how, "file_name": plain_file_name(how["file_name"])}
    file_name, created_by = how["file_name"], how.get("created_by")
    began = time.monotonic()
    plan_for_growth(session)
    # Imports into one study wait for each other; foreign keys to the study do not wait.
    session.refresh(study, ["id"], with_for_update={"key_share": True})
    records = kind(session, study)
    limits = how.get("limits") or Limits(file_bytes=get_settings().max_upload_bytes)
    check_size(file, limits, Problems(file_name))
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    before = _imported_before(session, study, records.kind, sha256)
    # A savepoint, so that a caller who shows the refusal and commits commits nothing of the file.
    with session.begin_nested() as savepoint, closing(records):
        import_id = session.scalars(
            insert(Import).returning(Import.id),
            {
                "study_id": study.id,
                "kind": records.kind,
                "file_name": file_name,
                "sha256": sha256,
                "report": {},
                "created_by": created_by.id if created_by else None,
            },
        ).one()
        counts = _read(session, records, file, how, limits, import_id)
        report = ImportReport(
            kind=records.kind,
            file_name=file_name,
            sha256=sha256,
            seconds=round(time.monotonic() - began, 3),
            imported_before=before,
            import_id=import_id,
            **counts,
        )
        if before and report.stored == 0:
            savepoint.rollback()  # the same file again: its first import is on record
            report = replace(report, import_id=None)
        else:
            session.execute(
                update(Import).where(Import.id == import_id).values(report=report.to_json())
            )
    return report


class _Reader(Generic[Row]):
    """Checks every record and stores them by the chunk until a problem is seen."""

    def __init__(
        self,
        records: RecordFile[Row],
        import_id: int,
        problems: Problems,
        analyze: Callable[[], None],
    ) -> None:
        self._records = records
        self._import_id = import_id
        self._problems = problems
        self._chunk: list[Row] = []
        self._characters = 0  # of the chunk
        self._analyze = analyze
        self._analyze_at = ANALYZED
        self.read = 0
        self.left_out: dict[str, list[int]] = {}  # lines by reason

    def take(self, record: Record) -> None:
        """All rows that the record holds: of a message tree many."""
        try:
            for values in shapes.plain_rows(self._records.kind, record.values):
                self.read += 1
                row = self._parse(values, record.line)
                if row is not None and not self._problems.count:
                    self._chunk.append(row)
                    self._characters += self._records.size(row)
        except LeftOut as reason:
            self.read += 1
            self._leave_out(record.line, str(reason))
        except RowProblem as problem:
            self._problems.add(record.line, str(problem))
        if len(self._chunk) >= CHUNK or self._characters >= CHUNK_CHARACTERS:
            self._store()

    def _parse(self, values: Mapping[str, Any], line: int) -> Row | None:
        try:
            return self._records.parse(values, line)
        except LeftOut as reason:
            self._leave_out(line, str(reason))
            return None

    def _leave_out(self, line: int, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(line)

    def finish(self) -> None:
        """Store the rest. Raises ImportRefused if there was any problem."""
        if self.read == 0 and not self._problems.count:
            self._problems.stop(None, "the file has a header and no rows")
        if self._chunk:
            self._store()
        if not self._problems.count:
            self._note(self._records.finish)
        if self._problems.count:
            raise self._problems.refusal()

    def _store(self) -> None:
        if self.read >= self._analyze_at:
            self._analyze_at = 2 * self.read
            self._analyze()
        chunk, self._chunk, self._characters = self._chunk, [], 0
        self._note(partial(self._records.store, chunk))

    def _note(self, store: Callable[[int], Sequence[tuple[int, str]] | None]) -> None:
        try:
            for out, reason in store(self._import_id) or ():
                self._leave_out(out, reason)
        except RowProblems as found:
            for line, reason in found.problems:
                self._problems.add(line, reason)
        except HelperGone as gone:
            self._problems.stop(None, str(gone))


def _read(
    session: Session,
    records: RecordFile[Row],
    file: BinaryIO,
    how: How,
    limits: Limits,
    import_id: int,
) -> dict[str, Any]:
    """Read the file to its end and store it; the counts of its report. Raises ImportRefused."""
    problems, progress = Problems(how["file_name"]), how.get("progress")
    reader = _Reader(records, import_id, problems, partial(analyze, session, *GROWING))
    required = shapes.accepted(records.kind, records.required)
    for record in read_records(
        file, how["file_name"], required, limits, problems, how.get("mapping")
    ):
        reader.take(record)
        if progress is not None and reader.read % PROGRESS == 0:
            progress(file.tell(), reader.read)
    reader.finish()
    counts = records.counts()
    out = sum(len(lines) for lines in reader.left_out.values())
    return {
        "read": reader.read,
        "duplicates": reader.read - out - counts["stored"],
        "left_out": {reason: len(lines) for reason, lines in reader.left_out.items()},
        "left_out_lines": {reason: lines[:LISTED] for reason, lines in reader.left_out.items()},
    } | counts


def _imported_before(session: Session, study: Study, kind: str, sha256: str) -> datetime | None:
    return session.scalar(
        select(Import.created_at)
        .where(
            Import.study_id == study.id,
            Import.kind == kind,
            Import.sha256 == sha256,
            Import.undone_at.is_(None),
        )
        .order_by(Import.id)
        .limit(1)
    )
