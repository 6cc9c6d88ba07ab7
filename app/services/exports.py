"""Exports as a queue of rows: ask for one, claim it, beat, end; find it, and take it away.

    queued → running → ready | failed
       ↑        │
       └────────┘  the worker stopped, or its lease ran out

A claim raises `attempt`, the fencing token; see services.runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any, Final

from sqlalchemy import CursorResult, func, or_, select, update
from sqlalchemy.orm import Session, joinedload

from app import storage
from app.config import get_settings
from app.db import enqueue
from app.errors import Conflict, Invalid, NotFound
from app.models import (
    Export,
    ExportKind,
    ExportState,
    Membership,
    Prompt,
    Snapshot,
    SnapshotKind,
    Study,
    User,
    WebhookEvent,
)
from app.services import snapshots
from app.services.exporting.export import MANIFEST, README
from app.services.exporting.query import ExportQuery
from app.services.usable import usable_prompt
from app.services.webhooks import announce

# What a snapshot holds decides what can be made of it.
KINDS_OF_SNAPSHOT: Final[Mapping[SnapshotKind, tuple[ExportKind, ...]]] = {
    SnapshotKind.demonstrations: (ExportKind.sft,),
    SnapshotKind.rankings: (
        ExportKind.rankings,
        ExportKind.comparisons,
        ExportKind.preferences,
        ExportKind.ratings,
    ),
    SnapshotKind.prompts: (ExportKind.prompts,),
}
SNAPSHOT_OF_KIND: Final[Mapping[ExportKind, SnapshotKind]] = {
    kind: snapshot for snapshot, kinds in KINDS_OF_SNAPSHOT.items() for kind in kinds
}
ATTEMPTS: Final = 3  # of workers that died over it


class ExportGone(Conflict):
    """The export was taken over, or deleted while it was made."""


def create_export(
    session: Session,
    study: Study,
    query: ExportQuery,
    *,
    created_by: User | None = None,
    freeze: bool = False,
) -> Export:
    """A queued export; a worker hears of it at the commit.

    With `freeze`, what is there when it is made becomes a snapshot first, and the export holds that
    snapshot's rows. Raises Invalid where that cannot be, NotFound for a snapshot, labeler or prompt
    that the study does not have.
    """
    if query.snapshot_id is not None:
        if freeze:
            raise Invalid("A snapshot is frozen already: export it as it is.")
        snapshot = find_snapshot(session, study, query.snapshot_id)
        if query.kind not in KINDS_OF_SNAPSHOT.get(snapshot.kind, ()):
            raise Invalid(f"A snapshot of {snapshot.kind.value} gives no {query.kind.value}.")
        query = _of_snapshot(study, query, snapshot)
    if freeze:
        if query.kind not in SNAPSHOT_OF_KIND:
            raise Invalid("What is kept of one labeler or prompt is no snapshot.")
        if query.simulated or query.withdrawn or query.heldout or query.held:
            raise Invalid("A snapshot is to train on: it takes nothing that is usually left out.")
    if query.user_id is not None and session.get(Membership, (study.id, query.user_id)) is None:
        raise NotFound("There is no such labeler in this study.")
    if query.prompt_id is not None:
        known = select(Prompt.id).where(Prompt.id == query.prompt_id, Prompt.study_id == study.id)
        if session.scalar(known) is None:
            raise NotFound("There is no such prompt in this study.")
    export = Export(
        study_id=study.id,
        kind=query.kind,
        query=query.to_json(),
        freeze=freeze,
        snapshot_id=query.snapshot_id,
        created_by=created_by.id if created_by else None,
    )
    session.add(export)
    session.flush()
    enqueue(session, "make_export", export.id)
    return export


def _of_snapshot(study: Study, query: ExportQuery, snapshot: Snapshot) -> ExportQuery:
    """A rehearsal's snapshots hold simulated labels: they were asked for when it was frozen."""
    return replace(query, snapshot_id=snapshot.id, simulated=query.simulated or study.rehearsal)


def freeze(session: Session, study: Study, kind: ExportKind) -> Snapshot:
    """The snapshot of all that a kind of export is made of, as it is now."""
    match SNAPSHOT_OF_KIND[kind]:
        case SnapshotKind.demonstrations:
            return snapshots.freeze_demonstrations(session, study)
        case SnapshotKind.rankings:
            return snapshots.freeze_rankings(session, study)
        case _:
            usable = select(Prompt.id).where(Prompt.study_id == study.id, usable_prompt())
            return snapshots.freeze_prompts(
                session, study, session.scalars(usable), why="all usable prompts"
            )


def find_snapshot(session: Session, study: Study, snapshot_id: int) -> Snapshot:
    """Raises NotFound if the study has no such snapshot."""
    snapshot = session.get(Snapshot, snapshot_id)
    if snapshot is None or snapshot.study_id != study.id:
        raise NotFound("There is no such snapshot in this study.")
    return snapshot


def exports_of(session: Session, study: Study) -> list[Export]:
    """The study's exports, newest first."""
    return list(
        session.scalars(
            select(Export).where(Export.study_id == study.id).order_by(Export.id.desc())
        )
    )


def find_export(session: Session, study: Study, export_id: int) -> Export:
    """Raises NotFound if the study has no such export."""
    export = session.scalar(
        select(Export)
        .where(Export.id == export_id, Export.study_id == study.id)
        .options(joinedload(Export.snapshot))
    )
    if export is None:
        raise NotFound("There is no such export in this study.")
    return export


def file_names(export: Export) -> list[str]:
    """What can be downloaded of a ready export, the manifest first."""
    if export.manifest is None:
        return []
    data = [file["name"] for file in export.manifest["files"]]
    folders = sorted({str(PurePosixPath(name).parent) for name in data})
    return [MANIFEST, *(f"{folder}/{README}" for folder in folders), *data]


def file_url(export: Export, name: str) -> str:
    """Where a file of the export is. Raises NotFound for a name that is none of `file_names`."""
    if name not in file_names(export):
        raise NotFound("This export has no such file.")
    return f"{export.uri}/{name}"


def delete_export(session: Session, export: Export) -> None:
    """Take an export away, with its files; one that is being made ends by itself."""
    uri = export.uri
    session.delete(export)
    session.flush()
    if uri is not None:
        storage.remove(uri)


def claim(session: Session, export_id: int) -> int | None:
    """Take an export that is due; its fencing token, or None if it is not due."""
    return session.scalar(
        update(Export)
        .where(
            Export.id == export_id,
            or_(
                Export.state == ExportState.queued,
                (Export.state == ExportState.running) & (Export.lease_until < func.now()),
            ),
        )
        .values(
            state=ExportState.running,
            attempt=Export.attempt + 1,
            rows_done=0,
            lease_until=_lease(),
        )
        .returning(Export.attempt)
        .execution_options(synchronize_session=False)
    )


def _lease() -> Any:
    return func.now() + timedelta(seconds=get_settings().run_lease_seconds)


def _write(session: Session, export_id: int, attempt: int, **values: Any) -> None:
    result = session.execute(
        update(Export)
        .where(
            Export.id == export_id,
            Export.attempt == attempt,
            Export.state == ExportState.running,
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        raise ExportGone("The export was taken over or deleted.")


def beat(session: Session, export_id: int, attempt: int, rows: int) -> None:
    """Say how far it is. Raises ExportGone for a claimant that was overtaken."""
    _write(session, export_id, attempt, rows_done=rows, lease_until=_lease())


def set_snapshot(session: Session, study: Study, export: Export, attempt: int) -> None:
    """Freeze first what the export is made of. Raises ExportGone as above."""
    snapshot = freeze(session, study, export.kind)
    query = _of_snapshot(study, ExportQuery.from_json(export.query), snapshot)
    _write(
        session,
        export.id,
        attempt,
        snapshot_id=snapshot.id,
        query=query.to_json(),
        lease_until=_lease(),
    )
    session.refresh(export)


def succeed(
    session: Session, export_id: int, attempt: int, *, uri: str, manifest: Mapping[str, Any]
) -> None:
    """The files are at `uri`. Raises ExportGone as above."""
    _write(
        session,
        export_id,
        attempt,
        state=ExportState.ready,
        uri=uri,
        manifest=dict(manifest),
        rows_done=manifest["rows"],
        finished_at=func.now(),
        lease_until=None,
    )
    export = session.get_one(Export, export_id, populate_existing=True)
    announce(
        session,
        export.study_id,
        WebhookEvent.snapshot_ready,
        {
            "export": export.id,
            "kind": export.kind.value,
            "rows": manifest["rows"],
            "sha256": manifest["sha256"],
            "snapshot": export.snapshot_id,
        },
    )


def fail(session: Session, export_id: int, attempt: int, error: str) -> None:
    """It cannot be made; why, in words. Raises ExportGone as above."""
    _write(
        session,
        export_id,
        attempt,
        state=ExportState.failed,
        error=error,
        finished_at=func.now(),
        lease_until=None,
    )


def due(session: Session) -> list[int]:
    """Exports that a worker should look at; one that outlived its workers often enough fails."""
    session.execute(
        update(Export)
        .where(
            Export.state == ExportState.running,
            Export.lease_until < func.now(),
            Export.attempt >= ATTEMPTS,
        )
        .values(
            state=ExportState.failed,
            error=f"The worker stopped {ATTEMPTS} times while this was made.",
            finished_at=func.now(),
            lease_until=None,
        )
        .execution_options(synchronize_session=False)
    )
    return list(
        session.scalars(
            select(Export.id)
            .where(
                or_(
                    Export.state == ExportState.queued,
                    (Export.state == ExportState.running) & (Export.lease_until < func.now()),
                )
            )
            .order_by(Export.id)
        )
    )
