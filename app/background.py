"""What the light worker does beside rounds: makes exports, imports files, and sends webhooks.

Each takes an id, claims the row, works outside any transaction that others wait for, and writes
the end into the row. What goes wrong for a known reason is written there in words; what does not
is raised, and the sweep sends the row again.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import httpx
import structlog
from sqlalchemy.orm import Session

from app import storage
from app.db import get_engine, task_session
from app.errors import DomainError
from app.models import Export, Study, Upload
from app.services import exports, uploads, webhooks
from app.services.exporting.export import write_export
from app.services.exporting.query import ExportQuery

BEAT_SECONDS = 1.0
WEBHOOK_SECONDS = 10.0

log = structlog.get_logger()


def make_export(export_id: int) -> None:
    """Make export N if it is due."""
    with task_session() as session:
        attempt = exports.claim(session, export_id)
    if attempt is None:
        return
    try:
        _make(export_id, attempt)
    except exports.ExportGone:
        log.info("export was taken over or deleted", export=export_id)
    except (DomainError, OSError) as error:
        log.warning("export failed", export=export_id, error=str(error))
        with task_session() as session:
            exports.fail(session, export_id, attempt, str(error))


def _make(export_id: int, attempt: int) -> None:
    with task_session() as session:
        export = session.get(Export, export_id)
        if export is None:
            return
        study = session.get_one(Study, export.study_id)
        if export.freeze and export.snapshot_id is None:
            exports.set_snapshot(session, study, export, attempt)
        query, frozen = ExportQuery.from_json(export.query), export.freeze
    beaten = time.monotonic()

    def beat(rows: int) -> None:
        nonlocal beaten
        if time.monotonic() - beaten >= BEAT_SECONDS:
            beaten = time.monotonic()
            with task_session() as session:
                exports.beat(session, export_id, attempt, rows)

    # Its own connection, all of one moment: counts and rows agree however long it takes.
    with (
        tempfile.TemporaryDirectory(dir=storage.scratch()) as folder,
        get_engine().connect().execution_options(isolation_level="REPEATABLE READ") as connection,
        Session(connection) as reading,
    ):
        manifest = write_export(
            reading,
            reading.get_one(Study, study.id),
            query,
            Path(folder),
            frozen=frozen,
            progress=beat,
        )
        uri = storage.artifact_url("exports", study.slug, f"{export_id}-{attempt}")
        storage.put(Path(folder), uri)
    try:
        with task_session() as session:
            exports.succeed(session, export_id, attempt, uri=uri, manifest=manifest)
    except exports.ExportGone:
        storage.remove(uri)
        raise


def import_upload(upload_id: int) -> None:
    """Import upload N if it is due: in one transaction, which the progress is not part of."""
    with task_session() as session:
        attempt = uploads.claim(session, upload_id)
    if attempt is None:
        return
    beaten = time.monotonic()

    def beat(bytes_done: int, rows_done: int) -> None:
        nonlocal beaten
        if time.monotonic() - beaten >= BEAT_SECONDS:
            beaten = time.monotonic()
            with task_session() as session:
                uploads.beat(session, upload_id, attempt, bytes_done, rows_done)

    try:
        with task_session() as session:
            uploads.carry_out(session, upload_id, attempt, beat)
    except uploads.UploadGone:
        log.info("upload was taken over or discarded", upload=upload_id)
        return
    except DomainError as error:
        log.info("upload was refused", upload=upload_id, error=str(error)[:500])
        with task_session() as session:
            uploads.refuse(session, upload_id, attempt, error)
    with task_session() as session:
        uri = session.get_one(Upload, upload_id).uri
    storage.remove(uri)


def tidy() -> None:
    """Remove what nobody will ask for again: forgotten uploads, leavings of killed processes."""
    with task_session() as session:
        forgotten = uploads.forget_unclaimed(session)
    for uri in forgotten:
        storage.remove(uri)
    left = storage.sweep_scratch()
    if forgotten or left:
        log.info("tidied", uploads=len(forgotten), folders=[folder.name for folder in left])


def deliver_webhook(delivery_id: int) -> None:
    """Send message N if it is due. A redirect is not followed: it is not what was asked for."""
    with task_session() as session:
        message = webhooks.claim(session, delivery_id)
    if message is None:
        return
    status: int | None = None
    error: str | None = None
    try:
        status = _post(message)
        if not 200 <= status < 300:
            error = f"The receiver answered with {status}."
    except httpx.TimeoutException:
        error = f"No answer within {WEBHOOK_SECONDS:.0f} seconds."
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        error = f"{type(problem).__name__}: {problem}"[:500]
    with task_session() as session:
        webhooks.settle(session, delivery_id, status=status, error=error)


def _post(message: webhooks.Message) -> int:
    """The status of the answer; its body is not read, so that a long one costs nothing."""
    with (
        httpx.Client(timeout=WEBHOOK_SECONDS, follow_redirects=False, trust_env=False) as client,
        client.stream(
            "POST", message.url, content=message.body, headers=dict(message.headers)
        ) as response,
    ):
        return response.status_code
