"""Importing a file: a look at its columns, its progress, its report; and undoing an import."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import UploadFile

from app.config import get_settings
from app.db import DbSession
from app.errors import Conflict, DomainError, Invalid
from app.models import Study, Upload, UploadState
from app.render import page
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services import imports, uploads
from app.services.import_undo import undo_import
from app.services.imports import IMPORTERS, ImportRefused

KINDS = {
    "prompts": "Prompts",
    "completions": "Completions of other systems, for prompts that are here",
    "demonstrations": "Demonstrations: prompts with the completion to learn from",
    "comparisons": "Comparisons: chosen and rejected completions",
    "rankings": "Rankings of several completions",
}

router = APIRouter(prefix="/studies/{slug}/import")


class TooLarge(DomainError):
    status = 413


@dataclass(frozen=True, kw_only=True)
class Posted:
    kind: str
    file: UploadFile | None


async def uploaded(request: Request) -> AsyncIterator[Posted]:
    """The posted file. Raises TooLarge by the declared size, before any of it is read."""
    limit = get_settings().max_upload_bytes
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise Invalid("The upload does not say how large it is.")
    if int(length) > limit + 10_000:  # the form around the file
        raise TooLarge(f"The file is larger than {limit:,} bytes.")
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        kind = form.get("kind")
        yield Posted(
            kind=kind if isinstance(kind, str) and kind in IMPORTERS else "prompts",
            file=file if isinstance(file, UploadFile) and file.filename else None,
        )


@router.get("")
def import_form(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    return _show(request, session, study)


@router.post("")
def receive_file(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    user: CurrentUser,
    upload: Annotated[Posted, Depends(uploaded)],
) -> Response:
    """Keep the file and lead to its preview, or say why not; the chosen kind is kept either way."""
    if upload.file is None:
        problem = ImportRefused("The file", ["choose a file first"], 0)
        return _show(request, session, study, kind=upload.kind, refused=problem)
    try:
        kept = uploads.receive(
            session,
            study,
            upload.kind,
            upload.file.file,
            file_name=upload.file.filename or "",
            created_by=user,
        )
    except ImportRefused as refused:
        return _show(request, session, study, kind=upload.kind, refused=refused)
    return RedirectResponse(f"/studies/{study.slug}/import/files/{kept.id}", status_code=303)


@router.get("/files/{upload_id}")
def upload_page(
    request: Request, session: DbSession, study: ResearcherStudy, upload_id: int
) -> Response:
    return _show_upload(request, session, study, uploads.find_upload(session, study, upload_id))


async def posted_fields(request: Request) -> Mapping[str, str]:
    async with request.form(max_files=0, max_fields=uploads.COLUMNS + 10) as form:
        return {name: value for name, value in form.items() if isinstance(value, str)}


@router.post("/files/{upload_id}/start")
def start_import(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    upload_id: int,
    fields: Annotated[Mapping[str, str], Depends(posted_fields)],
) -> Response:
    """Queue the import with the meanings that were chosen for its columns."""
    upload = uploads.find_upload(session, study, upload_id)
    if upload.state is not UploadState.waiting:
        raise Conflict(f"{upload.file_name} is {upload.state.value} already.")
    preview = uploads.preview_of(upload)
    choices = {
        name: fields.get(f"column_{place}", preview.guesses[name])
        for place, name in enumerate(preview.columns)
    }
    try:
        uploads.start(session, upload, choices)
    except Invalid as error:
        return _show_upload(request, session, study, upload, choices=choices, error=str(error))
    return RedirectResponse(f"/studies/{study.slug}/import/files/{upload.id}", status_code=303)


@router.post("/files/{upload_id}/discard")
def discard_upload(session: DbSession, study: ResearcherStudy, upload_id: int) -> Response:
    uploads.discard(session, uploads.find_upload(session, study, upload_id))
    return RedirectResponse(f"/studies/{study.slug}/import", status_code=303)


def _show_upload(
    request: Request,
    session: DbSession,
    study: Study,
    upload: Upload,
    *,
    choices: Mapping[str, str] | None = None,
    error: str = "",
) -> Response:
    waiting = upload.state is UploadState.waiting
    preview = uploads.preview_of(upload) if waiting else None
    context: dict[str, Any] = {
        "study": study,
        "upload": upload,
        "preview": preview,
        "choices": choices or (preview.guesses if preview else {}),
        "meanings": list(uploads.MEANINGS[upload.kind]),
        "mapped_columns": uploads.COLUMNS,
        "kinds": KINDS,
        "undone_at": uploads.undone_at(session, upload),
        "under_way": upload.state in {UploadState.queued, UploadState.running},
        "error": error,
    }
    return page(request, "data/import_file.html", context, status=422 if error else 200)


@router.post("/{import_id}/undo")
def undo(request: Request, session: DbSession, study: ResearcherStudy, import_id: int) -> Response:
    """Delete what the import brought, or say what depends on it."""
    try:
        record = undo_import(session, study, import_id)
    except Conflict as error:
        return _show(request, session, study, error=str(error))
    return _show(request, session, study, kind=record.kind, undone=record.file_name)


def _show(
    request: Request,
    session: DbSession,
    study: Study,
    *,
    kind: str = "",
    refused: ImportRefused | None = None,
    error: str = "",
    undone: str = "",
) -> Response:
    earlier = imports.imports_of(session, study)
    has_prompts = any(record.kind == "prompts" and not record.undone_at for record, _ in earlier)
    context: dict[str, Any] = {
        "study": study,
        "kinds": KINDS,
        "kind": kind or ("completions" if has_prompts else "prompts"),
        "refused": refused,
        "earlier": earlier,
        "uploads": uploads.uploads_of(session, study),
        "reports": uploads.reports_of(session, study),
        "error": error,
        "undone": undone,
    }
    status = refused.status if refused else (Conflict.status if error else 200)
    return page(request, "data/import.html", context, status=status)
