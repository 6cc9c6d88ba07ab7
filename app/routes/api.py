"""The public API, version 1: an application of its own below /api/v1.

A request carries `Authorization: Bearer TOKEN`. Session cookies open nothing here, and tokens open
no page.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select

from app.config import get_settings
from app.db import DbSession
from app.errors import Conflict, DomainError, Forbidden, Invalid, NotFound, install_error_handlers
from app.models import ApiToken, Prompt, Split, Study, TokenScope
from app.routes.api_models import (
    BatchIn,
    BatchOut,
    ExportIn,
    ExportOut,
    ImportOut,
    Problem,
    PromptOut,
    PromptPage,
    SnapshotOut,
    StudyOut,
)
from app.routes.exports import send_file
from app.services import api_tokens, batch_views, exports, uploads, withdrawals
from app.services.batch_progress import batch_progress, batches_with_progress
from app.services.batches import create_demonstration_batch
from app.services.exporting.query import ExportQuery
from app.services.import_undo import undo_import
from app.services.members import find_user
from app.services.usable import usable_prompt

PREFIX = "/api/v1"
IN_MEMORY = 1_000_000  # bytes of an uploaded file; the rest goes to the disk

router = APIRouter(
    responses={
        401: {"model": Problem, "description": "No token, or one that opens nothing any more"},
        403: {"model": Problem, "description": "The token may not write"},
        404: {"model": Problem, "description": "Not in this study"},
        422: {"model": Problem, "description": "Input that cannot be taken, and why"},
    }
)
bearer = HTTPBearer(auto_error=False, description="A token from the study's API page.")


class TokenRequired(DomainError):
    status = 401

    def __init__(self) -> None:
        super().__init__("Send `Authorization: Bearer TOKEN` with a token that is still good.")


class TooLarge(DomainError):
    status = 413


@dataclass(frozen=True)
class Access:
    token: ApiToken
    study: Study


def access(
    session: DbSession,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Access:
    """The study that the request's token opens. Raises TokenRequired."""
    found = api_tokens.use_token(session, credentials.credentials) if credentials else None
    if found is None:
        raise TokenRequired
    return Access(*found)


def readable(slug: str, given: Annotated[Access, Depends(access)]) -> Access:
    """Access to the study in the address: to others, a token is as blind as a stranger."""
    if given.study.slug != slug:
        raise NotFound("There is no such study.")
    return given


def writable(given: Annotated[Access, Depends(readable)]) -> Access:
    if given.token.scope is not TokenScope.write:
        raise Forbidden("This token may only read.")
    return given


Readable = Annotated[Access, Depends(readable)]
Writable = Annotated[Access, Depends(writable)]
Id = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("/studies", summary="Studies that the token opens")
def list_studies(given: Annotated[Access, Depends(access)]) -> list[StudyOut]:
    return [StudyOut.of(given.study)]


@router.get("/studies/{slug}", summary="A study")
def show_study(given: Readable) -> StudyOut:
    return StudyOut.of(given.study)


async def uploaded(request: Request) -> AsyncIterator[BinaryIO]:
    """The body, on the disk where it is large. Raises TooLarge once it is."""
    limit = get_settings().max_upload_bytes
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as file:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise TooLarge(f"The file is larger than {limit:,} bytes.")
            file.write(part)
        if size == 0:
            raise Invalid("Send the file as the body of the request.")
        file.seek(0)
        yield file  # type: ignore[misc]


@router.post(
    "/studies/{slug}/imports/{kind}",
    summary="Import a file: a worker takes all of it, or nothing",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
def import_file(
    session: DbSession,
    given: Writable,
    kind: Literal["prompts", "completions", "demonstrations", "comparisons", "rankings"],
    file: Annotated[BinaryIO, Depends(uploaded)],
    name: Annotated[str, Query(max_length=200, description="The file's name.")] = "api.jsonl",
    column: Annotated[
        list[str],
        Query(
            max_length=uploads.COLUMNS,
            description="`NAME=MEANING`: what a column is taken for, or `NAME=` for nothing.",
        ),
    ] = [],  # noqa: B006 - nothing writes to it
) -> ImportOut:
    """Columns are taken for what `column` says, the others for what their names say, as the upload
    page guesses them. Ask for the import by its id until its state is `imported` or `refused`.
    """
    upload = uploads.import_soon(
        session,
        given.study,
        kind,
        file,
        file_name=name,
        named=column,
        created_by=given.token.user,
    )
    return ImportOut.of(upload, uploads.undone_at(session, upload))


@router.get("/studies/{slug}/imports/{import_id}", summary="An import: how far it is, its report")
def show_import(session: DbSession, given: Readable, import_id: Id) -> ImportOut:
    upload = uploads.find_upload(session, given.study, import_id)
    return ImportOut.of(upload, uploads.undone_at(session, upload))


@router.delete(
    "/studies/{slug}/imports/{import_id}",
    summary="Take an import back, while nothing depends on it",
    status_code=204,
    responses={409: {"model": Problem, "description": "What depends on it, in words"}},
)
def take_back(session: DbSession, given: Writable, import_id: Id) -> None:
    upload = uploads.find_upload(session, given.study, import_id)
    if upload.import_id is None:
        raise Conflict(f"Nothing of {upload.file_name} was stored by this import.")
    undo_import(session, given.study, upload.import_id)


@router.get("/studies/{slug}/prompts", summary="Prompts, a page at a time")
def list_prompts(
    session: DbSession,
    given: Readable,
    after: Annotated[str, Query(description="`next` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    split: Split | None = None,
    usable: Annotated[
        bool, Query(description="Only what is neither withdrawn nor held back.")
    ] = False,
) -> PromptPage:
    if after and not (after.isascii() and after.isdecimal() and len(after) < 19):
        raise Invalid("The cursor is none that a page gave.")
    query = select(Prompt).where(Prompt.study_id == given.study.id, Prompt.id > int(after or 0))
    if split is not None:
        query = query.where(Prompt.split == split)
    if usable:
        query = query.where(usable_prompt())
    found = list(session.scalars(query.order_by(Prompt.id).limit(limit + 1)))
    more = len(found) > limit
    return PromptPage(
        items=[PromptOut.of(prompt) for prompt in found[:limit]],
        next=str(found[limit - 1].id) if more else None,
    )


@router.get("/studies/{slug}/batches", summary="Batches of label tasks and how far they are")
def list_batches(session: DbSession, given: Readable) -> list[BatchOut]:
    found = batches_with_progress(session, given.study)
    return [BatchOut.of(batch, progress) for batch, progress in found]


@router.post("/studies/{slug}/batches", summary="Ask for demonstrations", status_code=201)
def create_batch(session: DbSession, given: Writable, wanted: BatchIn) -> BatchOut:
    if (wanted.count is None) == (wanted.prompts is None):
        raise Invalid("Give either count or prompts.")
    batch = create_demonstration_batch(
        session,
        given.study,
        name=wanted.name,
        prompts=wanted.prompts,
        count=wanted.count,
        splits=wanted.splits,
        labels_per_task=wanted.labels_per_prompt,
        purpose=wanted.purpose,
        pool=wanted.pool,
    )
    return BatchOut.of(batch, batch_progress(session, batch))


@router.get("/studies/{slug}/batches/{batch_id}", summary="A batch and how far it is")
def show_batch(session: DbSession, given: Readable, batch_id: Id) -> BatchOut:
    batch = batch_views.find_batch(session, given.study, batch_id)
    return BatchOut.of(batch, batch_progress(session, batch))


@router.get("/studies/{slug}/snapshots", summary="Snapshots, newest first")
def list_snapshots(session: DbSession, given: Readable) -> list[SnapshotOut]:
    since = withdrawals.withdrawn_since(session, given.study)
    found = withdrawals.snapshots_of(session, given.study)
    return [SnapshotOut.of(snapshot, since.get(snapshot.id, 0)) for snapshot in found]


@router.get("/studies/{slug}/snapshots/{snapshot_id}", summary="A snapshot")
def show_snapshot(session: DbSession, given: Readable, snapshot_id: Id) -> SnapshotOut:
    snapshot = exports.find_snapshot(session, given.study, snapshot_id)
    since = withdrawals.withdrawn_since(session, given.study)
    return SnapshotOut.of(snapshot, since.get(snapshot.id, 0))


@router.get("/studies/{slug}/exports", summary="Exports, newest first")
def list_exports(session: DbSession, given: Readable) -> list[ExportOut]:
    return [ExportOut.of(export) for export in exports.exports_of(session, given.study)]


@router.post(
    "/studies/{slug}/exports",
    summary="Ask for an export, with a snapshot if `freeze` is set; it is made in the background",
    status_code=202,
)
def create_export(session: DbSession, given: Writable, wanted: ExportIn) -> ExportOut:
    asked: dict[str, Any] = wanted.model_dump(exclude={"labeler", "freeze"})
    if wanted.labeler is not None:
        asked["user_id"] = find_user(session, wanted.labeler).id
    export = exports.create_export(
        session,
        given.study,
        ExportQuery.from_json(asked),
        created_by=given.token.user,
        freeze=wanted.freeze,
    )
    return ExportOut.of(export)


@router.get("/studies/{slug}/exports/{export_id}", summary="An export and how far it is")
def show_export(session: DbSession, given: Readable, export_id: Id) -> ExportOut:
    return ExportOut.of(exports.find_export(session, given.study, export_id))


@router.get(
    "/studies/{slug}/exports/{export_id}/files/{name:path}",
    summary="Download one file of a ready export",
    response_class=FileResponse,
)
def download(session: DbSession, given: Readable, export_id: Id, name: str) -> Response:
    return send_file(given.study, exports.find_export(session, given.study, export_id), name)


@router.delete(
    "/studies/{slug}/exports/{export_id}", summary="Delete an export's files", status_code=204
)
def delete_export(session: DbSession, given: Writable, export_id: Id) -> None:
    exports.delete_export(session, exports.find_export(session, given.study, export_id))


def create_api() -> FastAPI:
    """The application below PREFIX. Its OpenAPI document is at PREFIX/openapi.json."""
    api = FastAPI(
        title="Plumbline API",
        version="1",
        description="A study's data in and out. Every refusal is JSON with `detail` in words.",
        docs_url=None,
        redoc_url=None,
    )
    install_error_handlers(api)

    @api.exception_handler(TokenRequired)
    def _unauthorized(_: Request, error: TokenRequired) -> Response:
        return JSONResponse(
            {"error": "A token is needed", "detail": error.message},
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    api.include_router(router)
    return api
