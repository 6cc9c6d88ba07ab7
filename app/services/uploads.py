"""Uploads: a file is looked at, its columns are named, and a worker imports it.

  receive        start           claim             succeed
─────────► waiting ──► queued ──────────► running ─────────► imported
                         ▲                  │  │
                         └──────────────────┘  └───────────► refused
               the worker stopped: its lease ran out   refuse
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from sqlalchemy import CursorResult, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app import storage
from app.config import get_settings
from app.db import enqueue
from app.errors import Conflict, DomainError, Invalid, NotFound
from app.models import Import, Study, Upload, UploadState, User
from app.services.importing.columns import plain_file_name
from app.services.importing.lines import Limits, check_size
from app.services.importing.problems import LISTED, ImportRefused, Problems
from app.services.importing.records import read_records
from app.services.imports import IMPORTERS, ImportReport, Progress

PREVIEWED = 5  # rows
LOOKED_AT = 50_000_000  # bytes in which these must be found: a request waits for it
SHOWN = 200  # characters of a cell
COLUMNS = 60  # that can be given a meaning on the page
KEPT = timedelta(days=7)  # how long an upload waits to be imported
ATTEMPTS = 3  # of workers that died over it
IDS = 1_000_000_000_000

# What a column can stand for, and other names that are taken for it.
MEANINGS: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "prompts": {
        "prompt": ("text", "instruction", "question", "query", "input"),
        "prompt_id": ("id",),
        "user": ("source_user", "user_id", "customer"),
        "use_case": ("category",),
        "closed_domain": (),
        "constraint": (),
        "few_shot": (),
        "messages": ("conversations", "conversation"),
        "chosen": (),
    },
    "completions": {
        "prompt_id": ("id",),
        "prompt": ("instruction", "question", "query", "context"),
        "model": ("policy", "system", "generator", "model_type"),
        "completion": ("output", "text", "response", "answer", "sample"),
        "score": (),
    },
    "demonstrations": {
        "prompt": ("instruction", "question", "query"),
        "completion": ("response", "output", "answer"),
        "messages": ("conversations", "conversation"),
        "prompt_id": ("id",),
        "user": ("source_user",),
        "labeler": ("annotator", "annotator_id", "labeler_id", "worker_id"),
    },
    "comparisons": {
        "prompt": ("instruction", "question", "query"),
        "chosen": ("preferred", "better"),
        "rejected": ("worse",),
        "chosen_model": (),
        "rejected_model": (),
        "prompt_id": ("id",),
        "user": ("source_user",),
        "labeler": ("annotator", "annotator_id", "labeler_id", "worker_id"),
    },
    "rankings": {
        "prompt": ("instruction", "question", "query"),
        "completions": ("responses", "answers", "outputs"),
        "groups": (),
        "ranks": ("rank",),
        "models": ("policies", "systems"),
        "prompt_id": ("id",),
        "user": ("source_user",),
        "labeler": ("annotator", "annotator_id", "labeler_id", "worker_id"),
    },
}


class UploadGone(Conflict):
    """The upload was taken over, or discarded while it was imported."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The first rows of a file, shortened, and what each column is taken for ("": nothing)."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    guesses: Mapping[str, str]


def receive(
    session: Session,
    study: Study,
    kind: str,
    file: BinaryIO,
    *,
    file_name: str,
    created_by: User | None = None,
) -> Upload:
    """Keep the file until it is imported. Raises ImportRefused for one that cannot be looked at."""
    file_name = plain_file_name(file_name)
    problems = Problems(file_name)
    check_size(file, _limits(), problems)
    look(kind, file, file_name)
    file.seek(0)
    with tempfile.TemporaryDirectory(dir=storage.scratch()) as folder:
        path = Path(folder) / "upload"
        with path.open("wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
        size = path.stat().st_size
        uri = storage.artifact_url("uploads", study.slug, secrets.token_hex(16))
        storage.put(path, uri)
    upload = Upload(
        study_id=study.id,
        kind=kind,
        file_name=file_name,
        uri=uri,
        size=size,
        created_by=created_by.id if created_by else None,
    )
    session.add(upload)
    session.flush()
    return upload


def _limits() -> Limits:
    return Limits(file_bytes=get_settings().max_upload_bytes)


def look(kind: str, file: BinaryIO, file_name: str) -> Preview:
    """The first rows of a seekable file. Raises ImportRefused where there is none to be read, or
    before them as many problems as a refusal lists: the rest of the file is not read for more.
    """
    problems = Problems(file_name, enough=LISTED)
    limits = replace(_limits(), first_bytes=LOOKED_AT)
    rows = [
        record.values
        for record in islice(read_records(file, file_name, (), limits, problems), PREVIEWED)
    ]
    if not rows:
        if problems.count:
            raise problems.refusal()
        problems.stop(None, "the file has a header and no rows")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Preview(
        columns=columns,
        rows=[[_shown(row.get(name)) for name in columns] for row in rows],
        guesses=guess(kind, columns),
    )


def _shown(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def guess(kind: str, columns: Sequence[str]) -> dict[str, str]:
    """What each column is taken for; a meaning goes to one column, by its own name first."""
    found: dict[str, str] = {}
    for meaning, names in MEANINGS[kind].items():
        match = next((name for name in (meaning, *names) if name in columns), None)
        if match is not None:
            found.setdefault(match, meaning)
    return {name: found.get(name, "") for name in columns}


def mapping_of(kind: str, choices: Mapping[str, str]) -> dict[str, str]:
    """The names that columns are read under, by the name in the file, where they differ.

    `choices` gives each column its meaning, or "". Raises Invalid for one that two columns have,
    or that is none.
    """
    chosen = [meaning for meaning in choices.values() if meaning]
    if unknown := set(chosen) - MEANINGS[kind].keys():
        raise Invalid(f"{min(unknown)[:60]!r} is no column of {kind}.")
    for meaning in chosen:
        if chosen.count(meaning) > 1:
            raise Invalid(f"Two columns are to be {meaning}: choose one.")
    mapping = {}
    for name, meaning in choices.items():
        if meaning and meaning != name:
            mapping[name] = meaning
        if meaning:
            continue
        for of, names in MEANINGS[kind].items():
            if name == of or (name in names and of not in chosen):
                mapping[name] = f"{name} (of the file)"  # its name alone would give it a meaning
    return mapping


def named_columns(named: Sequence[str]) -> dict[str, str]:
    """What `NAME=MEANING` words take columns for; `NAME=`: for nothing. Raises Invalid."""
    choices = {}
    for word in named:
        name, equals, meaning = word.rpartition("=")
        if not equals:
            raise Invalid(f"{word[:60]!r} is not of the form NAME=MEANING.")
        choices[name.strip().lower()] = meaning.strip()
    return choices


def choices_of(kind: str, preview: Preview, named: Sequence[str]) -> dict[str, str]:
    """The guesses, but for the columns that `NAME=MEANING` words name, and for the columns whose
    meaning these take. Raises Invalid as `mapping_of`, and for a column that is not there.
    """
    choices = named_columns(named)
    if missing := choices.keys() - set(preview.columns):
        there = ", ".join(preview.columns)[:500]
        raise Invalid(
            f"There is no column {min(missing)[:60]!r} in the first rows; the columns are: {there}."
        )
    mapping_of(kind, choices)
    taken = set(choices.values())
    guesses = {
        name: "" if meaning in taken else meaning for name, meaning in preview.guesses.items()
    }
    return guesses | choices


def find_upload(session: Session, study: Study, upload_id: int) -> Upload:
    """Raises NotFound."""
    upload = session.get(Upload, upload_id) if 0 < upload_id < IDS else None
    if upload is None or upload.study_id != study.id:
        raise NotFound("There is no such upload.")
    return upload


def uploads_of(session: Session, study: Study) -> list[Upload]:
    """Those that are not imported, newest first."""
    query = select(Upload).where(Upload.study_id == study.id, Upload.state != UploadState.imported)
    return list(session.scalars(query.order_by(Upload.id.desc()).limit(20)))


def reports_of(session: Session, study: Study) -> dict[int, int]:
    """The upload that tells about an import, by the import's id."""
    query = select(Upload.import_id, Upload.id).where(
        Upload.study_id == study.id, Upload.import_id.is_not(None)
    )
    return {key: upload_id for key, upload_id in session.execute(query) if key is not None}


def undone_at(session: Session, upload: Upload) -> datetime | None:
    """When what it brought was deleted again; None if it was not."""
    return session.scalar(select(Import.undone_at).where(Import.id == upload.import_id))


def preview_of(upload: Upload) -> Preview:
    """Raises ImportRefused."""
    with storage.fetch(upload.uri).open("rb") as file:
        return look(upload.kind, file, upload.file_name)


def start(session: Session, upload: Upload, choices: Mapping[str, str]) -> None:
    """Queue it; a worker hears of it at the commit. Raises Invalid, and Conflict if it began."""
    session.refresh(upload, with_for_update=True)
    if upload.state is not UploadState.waiting:
        raise Conflict(f"{upload.file_name} is {upload.state.value} already.")
    upload.mapping = mapping_of(upload.kind, choices)
    upload.state = UploadState.queued
    session.flush()
    enqueue(session, "import_upload", upload.id)


def import_soon(
    session: Session,
    study: Study,
    kind: str,
    file: BinaryIO,
    *,
    file_name: str,
    named: Sequence[str] = (),
    created_by: User | None = None,
) -> Upload:
    """Keep the file and queue it, its columns read as `named` and their names say.

    Raises as `receive` and `choices_of`.
    """
    choices = choices_of(kind, look(kind, file, plain_file_name(file_name)), named)
    upload = receive(session, study, kind, file, file_name=file_name, created_by=created_by)
    start(session, upload, choices)
    return upload


def discard(session: Session, upload: Upload) -> None:
    """Forget the file. Raises Conflict while it is being imported."""
    session.refresh(upload, with_for_update=True)
    if upload.state in {UploadState.queued, UploadState.running}:
        raise Conflict(f"{upload.file_name} is being imported.")
    session.delete(upload)
    session.flush()
    storage.remove(upload.uri)


def forget_unclaimed(session: Session) -> list[str]:
    """Forget uploads that nobody imported for KEPT; where their files are, to be removed."""
    return list(
        session.scalars(
            delete(Upload)
            .where(Upload.state == UploadState.waiting, Upload.created_at < func.now() - KEPT)
            .returning(Upload.uri)
            .execution_options(synchronize_session=False)
        )
    )


def claim(session: Session, upload_id: int) -> int | None:
    """Take an upload that is due; its fencing token, or None if it is not due."""
    return session.scalar(
        update(Upload)
        .where(Upload.id == upload_id, _is_due())
        .values(
            state=UploadState.running,
            attempt=Upload.attempt + 1,
            bytes_done=0,
            rows_done=0,
            lease_until=_lease(),
        )
        .returning(Upload.attempt)
        .execution_options(synchronize_session=False)
    )


def _is_due() -> Any:
    return or_(
        Upload.state == UploadState.queued,
        (Upload.state == UploadState.running) & (Upload.lease_until < func.now()),
    )


def _lease() -> Any:
    return func.now() + timedelta(seconds=get_settings().run_lease_seconds)


def _write(session: Session, upload_id: int, attempt: int, **values: Any) -> None:
    result = session.execute(
        update(Upload)
        .where(
            Upload.id == upload_id,
            Upload.attempt == attempt,
            Upload.state == UploadState.running,
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        raise UploadGone("The upload was taken over or discarded.")


def beat(session: Session, upload_id: int, attempt: int, bytes_done: int, rows_done: int) -> None:
    """Say how far it is. Raises UploadGone for a claimant that was overtaken."""
    _write(
        session,
        upload_id,
        attempt,
        bytes_done=bytes_done,
        rows_done=rows_done,
        lease_until=_lease(),
    )


def carry_out(
    session: Session, upload_id: int, attempt: int, progress: Progress | None = None
) -> ImportReport:
    """Import the claimed upload, and write down that it is. Raises ImportRefused, UploadGone."""
    upload = session.get_one(Upload, upload_id)
    study = session.get_one(Study, upload.study_id)
    by = session.get(User, upload.created_by) if upload.created_by else None
    with storage.fetch(upload.uri).open("rb") as file:
        report = IMPORTERS[upload.kind](
            session,
            study,
            file,
            file_name=upload.file_name,
            created_by=by,
            mapping=upload.mapping,
            progress=progress,
        )
    _write(
        session,
        upload_id,
        attempt,
        state=UploadState.imported,
        bytes_done=upload.size,
        rows_done=report.read,
        result={"sentences": report.sentences(), "report": report.to_json()},
        import_id=report.import_id,
        finished_at=func.now(),
        lease_until=None,
    )
    return report


def refuse(session: Session, upload_id: int, attempt: int, error: DomainError) -> None:
    """Nothing of it is stored; why, in words. Raises UploadGone."""
    problems = error.problems if isinstance(error, ImportRefused) else [str(error)]
    more = error.more if isinstance(error, ImportRefused) else 0
    _write(
        session,
        upload_id,
        attempt,
        state=UploadState.refused,
        result={"problems": problems, "more": more},
        finished_at=func.now(),
        lease_until=None,
    )


def due(session: Session) -> list[int]:
    """Uploads that a worker should look at; one that outlived its workers often enough ends."""
    reason = f"the worker stopped {ATTEMPTS} times while it was imported"
    session.execute(
        update(Upload)
        .where(
            Upload.state == UploadState.running,
            Upload.lease_until < func.now(),
            Upload.attempt >= ATTEMPTS,
        )
        .values(
            state=UploadState.refused,
            result={"problems": [reason], "more": 0},
            finished_at=func.now(),
            lease_until=None,
        )
        .execution_options(synchronize_session=False)
    )
    return list(session.scalars(select(Upload.id).where(_is_due()).order_by(Upload.id)))
