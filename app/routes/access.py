"""A study's API page: its tokens, its webhooks and their deliveries. And what the API can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from app.db import DbSession
from app.errors import DomainError, Invalid
from app.models import ApiToken, Study, TokenScope, WebhookEvent
from app.render import page
from app.routes import api
from app.routes.deps import CurrentUser, ResearcherStudy
from app.services import api_tokens, webhooks

router = APIRouter(prefix="/studies/{slug}/api")
docs = APIRouter()

SCOPES = [
    (TokenScope.read.value, "Read: list, watch, download"),
    (TokenScope.write.value, "Read and write: also import, ask for labels and exports"),
]
DAYS = [("30", "30 days"), ("90", "90 days"), ("365", "a year"), ("", "until it is revoked")]
EVENTS = {
    WebhookEvent.snapshot_ready: "an export is ready, and the snapshot that it made",
    WebhookEvent.round_finished: "a round is finished",
    WebhookEvent.batch_labeled: "a batch has all its labels",
}
DEFAULTS: dict[str, Any] = {
    "name": "",
    "scope": TokenScope.read.value,
    "days": "90",
    "url": "",
    "events": [event.value for event in EVENTS],
}


async def posted(request: Request) -> AsyncIterator[FormData]:
    async with request.form() as form:
        yield form


Posted = Annotated[FormData, Depends(posted)]
Id = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("")
def show(request: Request, session: DbSession, study: ResearcherStudy) -> Response:
    return _show(request, session, study)


@router.post("/tokens")
def make_token(
    request: Request, session: DbSession, study: ResearcherStudy, user: CurrentUser, form: Posted
) -> Response:
    """Make a token; the answer shows it, and nothing ever does again."""
    texts = {name: str(form.get(name, "")) for name in ("name", "scope", "days")}
    try:
        if texts["scope"] not in set(TokenScope) or texts["days"] not in dict(DAYS):
            raise Invalid("Choose what the token may do, and for how long.")
        made = api_tokens.make_token(
            session,
            study,
            user,
            name=texts["name"],
            scope=TokenScope(texts["scope"]),
            days=int(texts["days"]) if texts["days"] else None,
        )
    except DomainError as error:
        session.rollback()
        return _show(request, session, study, values=texts, error=error)
    return _show(request, session, study, made=made)


@router.post("/tokens/{token_id}/revoke")
def revoke(session: DbSession, study: ResearcherStudy, token_id: Id) -> Response:
    api_tokens.revoke(session, study, token_id)
    return _back(study)


@router.post("/webhooks")
def add_webhook(
    request: Request, session: DbSession, study: ResearcherStudy, user: CurrentUser, form: Posted
) -> Response:
    values: dict[str, Any] = {
        "url": str(form.get("url", "")),
        "events": [str(event) for event in form.getlist("events")],
    }
    try:
        webhooks.add_webhook(
            session, study, url=values["url"], events=values["events"], created_by=user
        )
    except DomainError as error:
        session.rollback()
        return _show(request, session, study, values=values, error=error)
    return _back(study)


@router.post("/webhooks/{webhook_id}/test")
def test_webhook(session: DbSession, study: ResearcherStudy, webhook_id: Id) -> Response:
    webhooks.send_test(session, webhooks.find_webhook(session, study, webhook_id))
    return _back(study)


@router.post("/webhooks/{webhook_id}/delete")
def delete_webhook(session: DbSession, study: ResearcherStudy, webhook_id: Id) -> Response:
    """Tell this address no more; its deliveries go with it."""
    session.delete(webhooks.find_webhook(session, study, webhook_id))
    return _back(study)


@router.post("/deliveries/{delivery_id}/again")
def send_again(session: DbSession, study: ResearcherStudy, delivery_id: Id) -> Response:
    webhooks.send_again(session, study, delivery_id)
    return _back(study)


def _back(study: Study) -> Response:
    return RedirectResponse(f"/studies/{study.slug}/api", status_code=303)


def _show(
    request: Request,
    session: DbSession,
    study: Study,
    *,
    values: dict[str, Any] | None = None,
    error: DomainError | None = None,
    made: tuple[ApiToken, str] | None = None,
) -> Response:
    context = {
        "study": study,
        "values": {**DEFAULTS, **(values or {})},
        "error": error.message if error else None,
        "made": made,
        "scopes": SCOPES,
        "days": DAYS,
        "events": {event.value: text for event, text in EVENTS.items()},
        "tokens": api_tokens.tokens_of(session, study),
        "webhooks": webhooks.webhooks_of(session, study),
        "deliveries": webhooks.deliveries_of(session, study),
        "signature": webhooks.SIGNATURE,
    }
    status = error.status if error else 200
    return page(request, "data/api.html", context, status=status, fragment="deliveries")


@lru_cache(maxsize=1)
def _operations() -> list[dict[str, Any]]:
    """The API's operations as its OpenAPI document has them, with what they refer to put in."""
    document = api.create_api().openapi()
    schemas = document["components"]["schemas"]
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {})
            name = body.get("application/json", {}).get("schema", {}).get("$ref", "")
            schema = schemas.get(name.rpartition("/")[2], {})
            found.append(
                {
                    "method": method.upper(),
                    "path": api.PREFIX + path,
                    "summary": operation["summary"],
                    "parameters": operation.get("parameters", []),
                    "file": "application/octet-stream" in body,
                    "body": schema.get("properties", {}),
                    "required": schema.get("required", []),
                    "answer": min(operation["responses"]),
                }
            )
    return found


@docs.get("/api/docs")
def documentation(request: Request) -> Response:
    """The API in words, for anybody: it tells nothing of any study."""
    return page(request, "data/api_docs.html", {"operations": _operations(), "prefix": api.PREFIX})
