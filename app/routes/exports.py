"""A study's exports and snapshots: asking for one, watching it, downloading and deleting it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.datastructures import FormData

from app import storage
from app.db import DbSession
from app.errors import DomainError, Invalid, NotFound
from app.models import Export, ExportFormat, ExportKind, ExportState, Split, Study
from app.render import page
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services import exports, withdrawals
from app.services.exporting.archive import zipped
from app.services.exporting.card import left_out_sentences
from app.services.exporting.query import ExportQuery
from app.services.members import find_user

router = APIRouter(prefix="/studies/{slug}/exports")

KINDS = {
    ExportKind.sft: "Demonstrations, for SFT",
    ExportKind.rankings: "Rankings, as tie groups",
    ExportKind.comparisons: "Comparisons: prompt, chosen, rejected",
    ExportKind.preferences: "Preferences of each labeler, and their mean",
    ExportKind.ratings: "Ratings and metadata",
    ExportKind.prompts: "Prompts without labels, for PPO",
    ExportKind.labeler: "Everything of a labeler, for them",
    ExportKind.prompt: "Everything about a prompt",
}
ALSO = {
    "simulated": "labels of simulated labelers",
    "withdrawn": "what was withdrawn",
    "heldout": "labels that only judge: held-out pool and evaluations",
    "held": "prompts held back for personal data",
}
DEFAULTS: dict[str, Any] = {
    "kind": ExportKind.sft.value,
    "snapshot": "",
    "labeler": "",
    "prompt": "",
    "formats": [form.value for form in ExportFormat],
    "splits": [split.value for split in Split],
    "also": [],
    "messages": False,
    "freeze": False,
}


async def posted(request: Request) -> AsyncIterator[FormData]:
    async with request.form() as form:
        yield form


Posted = Annotated[FormData, Depends(posted)]
ExportId = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("")
def list_exports(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    return _show(request, session, study, dict(DEFAULTS))


@router.post("")
def ask(
    request: Request, session: DbSession, study: ResearcherStudy, user: CurrentUser, form: Posted
) -> Response:
    """Ask for an export; what cannot be taken comes back with the form as it was filled in."""
    values = _values(form)
    try:
        query = _query(session, values)
        exports.create_export(session, study, query, created_by=user, freeze=values["freeze"])
    except DomainError as error:
        session.rollback()
        return _show(request, session, study, values, error)
    return RedirectResponse(f"/studies/{study.slug}/exports", status_code=303)


def _values(form: FormData) -> dict[str, Any]:
    texts = {name: str(form.get(name, "")).strip() for name in ("snapshot", "labeler", "prompt")}
    lists = {
        name: [str(value) for value in form.getlist(name)] for name in ("formats", "splits", "also")
    }
    checked = {name: form.get(name) == "yes" for name in ("messages", "freeze")}
    return {**DEFAULTS, "kind": str(form.get("kind", "")), **texts, **lists, **checked}


def _query(session: DbSession, values: dict[str, Any]) -> ExportQuery:
    """Raises Invalid, and NotFound for a labeler that nobody is."""
    kind = values["kind"]
    asked: dict[str, Any] = {
        "kind": kind,
        "formats": values["formats"],
        "splits": values["splits"],
        "shape": "messages" if values["messages"] else "text",
        **{name: True for name in values["also"] if name in ALSO},
        "snapshot_id": _number(values["snapshot"], "A snapshot"),
    }
    if kind == ExportKind.prompt:
        asked["prompt_id"] = _number(values["prompt"], "A prompt")
    if kind == ExportKind.labeler and values["labeler"]:
        asked["user_id"] = find_user(session, values["labeler"]).id
    return ExportQuery.from_json(asked)


def _number(text: str, what: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Invalid(f"{what} is named by its number.")
    return int(text)


@router.get("/{export_id}/files/{name:path}")
def download(
    session: DbSession, study: ResearcherStudy, export_id: ExportId, name: str
) -> Response:
    """One file of a ready export."""
    return send_file(study, exports.find_export(session, study, export_id), name)


def send_file(study: Study, export: Export, name: str) -> FileResponse:
    """The file, under a name that tells where it is from. Raises NotFound."""
    path = storage.fetch(exports.file_url(export, name))
    short = f"{study.slug}-{export.kind.value}-{export.id}-{name.rpartition('/')[2]}"
    return FileResponse(path, filename=short, media_type="application/octet-stream")


@router.get("/{export_id}/all.zip")
def download_all(session: DbSession, study: ResearcherStudy, export_id: ExportId) -> Response:
    """All files of a ready export. Raises NotFound for one that has none yet."""
    export = exports.find_export(session, study, export_id)
    name = f"{study.slug}-{export.kind.value}-{export.id}"
    files = [
        (f"{name}/{each}", storage.fetch(exports.file_url(export, each)))
        for each in exports.file_names(export)
    ]
    if not files:
        raise NotFound("This export is not ready.")
    headers = {"Content-Disposition": f'attachment; filename="{name}.zip"'}
    return StreamingResponse(zipped(files), media_type="application/zip", headers=headers)


@router.post("/{export_id}/delete")
def delete(session: DbSession, study: ResearcherStudy, export_id: ExportId) -> Response:
    exports.delete_export(session, exports.find_export(session, study, export_id))
    return RedirectResponse(f"/studies/{study.slug}/exports", status_code=303)


def _show(
    request: Request,
    session: DbSession,
    study: Study,
    values: dict[str, Any],
    error: DomainError | None = None,
) -> Response:
    found = exports.exports_of(session, study)
    since = withdrawals.withdrawn_since(session, study)
    kinds = {kind.value: text for kind, text in KINDS.items()}
    frozen = [
        snapshot
        for snapshot in withdrawals.snapshots_of(session, study)
        if snapshot.kind in exports.KINDS_OF_SNAPSHOT
    ]
    context = {
        "study": study,
        "values": values,
        "error": error.message if error else None,
        "kinds": kinds,
        "also": ALSO,
        "formats": {"jsonl": "JSONL", "parquet": "Parquet"},
        "splits": [split.value for split in Split],
        "exports": [(each, exports.file_names(each), _left_out(each)) for each in found],
        "under_way": any(e.state in {ExportState.queued, ExportState.running} for e in found),
        "snapshots": [(snapshot, since.get(snapshot.id, 0)) for snapshot in frozen],
        "snapshot_options": [
            ("", "what is there now"),
            *((str(each.id), f"snapshot {each.id}, {each.kind.value}") for each in frozen),
        ],
        "marked": withdrawals.marked_checkpoints(session, study, since),
    }
    status = error.status if error else 200
    return page(request, "data/exports.html", context, status=status, fragment="made")


def _left_out(export: Export) -> list[str]:
    return left_out_sentences(export.manifest) if export.manifest else []
