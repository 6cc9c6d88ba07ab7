"""Importing a file: its report, or the list of its problems; and undoing an import."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from app.config import get_settings
from app.db import DbSession
from app.errors import Conflict, DomainError, Invalid
from app.models import Study
from app.render import page
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services import imports
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
class Upload:
    kind: str
    file: UploadFile | None


async def uploaded(request: Request) -> AsyncIterator[Upload]:
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
        yield Upload(
            kind=kind if isinstance(kind, str) and kind in IMPORTERS else "prompts",
            file=file if isinstance(file, UploadFile) and file.filename else None,
        )


@router.get("")
def import_form(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    return _show(request, session, study)


@router.post("")
def import_file(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    user: CurrentUser,
    upload: Annotated[Upload, Depends(uploaded)],
) -> Response:
    """Import the file, or say why not; the chosen kind is kept either way."""
    if upload.file is None:
        problem = ImportRefused("The file", ["choose a file first"], 0)
        return _show(request, session, study, kind=upload.kind, refused=problem)
    name = PurePath((upload.file.filename or "").replace("\0", "")).name[:200] or "file"
    try:
        report = IMPORTERS[upload.kind](
            session, study, upload.file.file, file_name=name, created_by=user
        )
    except ImportRefused as refused:
        return _show(request, session, study, kind=upload.kind, refused=refused)
    return _show(request, session, study, kind=upload.kind, report=report)


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
    report: imports.ImportReport | None = None,
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
        "report": report,
        "refused": refused,
        "earlier": earlier,
        "error": error,
        "undone": undone,
    }
    status = refused.status if refused else (Conflict.status if error else 200)
    return page(request, "data/import.html", context, status=status)
