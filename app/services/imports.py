"""Importing prompts and completions from JSONL or CSV: all of a file, or nothing.

A file is streamed line by line and checked to its end, so that a refusal lists every problem it
can. Both kinds are content-addressed: importing a file again stores nothing new.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO, Final, Protocol, TypeVar

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.config import get_settings
from app.models import Import, Study, User
from app.services.importing.completion_rows import CompletionFile
from app.services.importing.lines import Limits
from app.services.importing.problems import ImportRefused as ImportRefused
from app.services.importing.problems import Problems, RowProblem
from app.services.importing.prompt_rows import PromptFile
from app.services.importing.records import Names, read_records
from app.services.importing.report import ImportReport as ImportReport

CHUNK = 2_000  # rows that are held and stored at a time

Row = TypeVar("Row")


class RecordFile(Protocol[Row]):
    """One kind of file: what its records mean and where they go."""

    kind: str
    required: Sequence[Names]

    def parse(self, values: Mapping[str, Any]) -> Row | None:
        """The row to store, None for a duplicate. Raises RowProblem."""

    def store(self, rows: Sequence[Row], import_id: int) -> None: ...

    def counts(self) -> dict[str, Any]:
        """The kind's own fields of ImportReport, `stored` among them."""


def import_prompts(
    session: Session,
    study: Study,
    file: BinaryIO,
    *,
    file_name: str,
    created_by: User | None = None,
    limits: Limits | None = None,
) -> ImportReport:
    """Import a seekable file of prompts. Any problem raises ImportRefused, with nothing stored.

    Columns: prompt (or text, instruction); where there are, prompt_id, user (or source_user),
    use_case, closed_domain, constraint, few_shot (services.few_shot), of which the prompt is made
    where it has no text of its own. Others are kept in the prompt's details.
    """
    return _import(session, study, PromptFile, file, file_name, created_by, limits)


def import_completions(
    session: Session,
    study: Study,
    file: BinaryIO,
    *,
    file_name: str,
    created_by: User | None = None,
    limits: Limits | None = None,
) -> ImportReport:
    """Import a seekable file of other systems' completions. Raises ImportRefused as above.

    Columns: completion (or output, text), model (or policy, system), prompt_id or prompt, and score
    where there is one.
    """
    return _import(session, study, CompletionFile, file, file_name, created_by, limits)


IMPORTERS: Final = {"prompts": import_prompts, "completions": import_completions}


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
    file_name: str,
    created_by: User | None,
    limits: Limits | None,
) -> ImportReport:
    began = time.monotonic()
    # Imports into one study wait for each other; foreign keys to the study do not wait.
    session.refresh(study, ["id"], with_for_update={"key_share": True})
    records = kind(session, study)
    limits = limits or Limits(file_bytes=get_settings().max_upload_bytes)
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    before = _imported_before(session, study, records.kind, sha256)
    # A savepoint, so that a caller who shows the refusal and commits commits nothing of the file.
    with session.begin_nested() as savepoint:
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
        read = _read(records, file, file_name, limits, import_id)
        counts = records.counts()
        report = ImportReport(
            kind=records.kind,
            file_name=file_name,
            sha256=sha256,
            read=read,
            duplicates=read - counts["stored"],
            seconds=round(time.monotonic() - began, 3),
            imported_before=before,
            **counts,
        )
        if before and report.stored == 0:
            savepoint.rollback()  # the same file again: its first import is on record
        else:
            session.execute(
                update(Import).where(Import.id == import_id).values(report=report.to_json())
            )
    return report


def _read(
    records: RecordFile[Row], file: BinaryIO, file_name: str, limits: Limits, import_id: int
) -> int:
    """Check every record and store them by the chunk until a problem is seen; how many were read.

    Raises ImportRefused.
    """
    problems = Problems(file_name)
    chunk: list[Row] = []
    read = 0
    for record in read_records(file, file_name, records.required, limits, problems):
        read += 1
        try:
            row = records.parse(record.values)
        except RowProblem as problem:
            problems.add(record.line, str(problem))
            continue
        if row is None or problems.count:
            continue
        chunk.append(row)
        if len(chunk) == CHUNK:
            records.store(chunk, import_id)
            chunk = []
    if problems.count:
        raise problems.refusal()
    if read == 0:
        problems.stop(None, "the file has a header and no rows")
    if chunk:
        records.store(chunk, import_id)
    return read


def _imported_before(session: Session, study: Study, kind: str, sha256: str) -> datetime | None:
    return session.scalar(
        select(Import.created_at)
        .where(Import.study_id == study.id, Import.kind == kind, Import.sha256 == sha256)
        .order_by(Import.id)
        .limit(1)
    )
