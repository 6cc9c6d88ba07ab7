"""How a study prepares the prompts that come, and changing it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.db import DbSession
from app.errors import Invalid
from app.render import page
from app.routes.deps import ResearcherStudy
from app.services.preparation.settings import NAMES, change_settings, settings_of

router = APIRouter(prefix="/studies/{slug}/preparation")


@router.get("")
def show_settings(request: Request, study: ResearcherStudy, saved: bool = False) -> Response:
    values = settings_of(study).model_dump()
    context = {"study": study, "values": values, "names": NAMES, "saved": saved, "error": None}
    return page(request, "data/preparation.html", context)


@router.post("")
def save_settings(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    cap: Annotated[str, Form()] = "",
    max_tokens: Annotated[str, Form()] = "",
    tokenizer: Annotated[str, Form()] = "",
    prefix_characters: Annotated[str, Form()] = "",
    near_similarity: Annotated[str, Form()] = "",
    near_duplicates: Annotated[str, Form()] = "",
    pii: Annotated[str, Form()] = "",
) -> Response:
    """Save; what cannot be comes back as it was typed."""
    values: dict[str, Any] = {
        "cap": cap,
        "max_tokens": max_tokens,
        "tokenizer": tokenizer.strip() or None,
        "prefix_characters": prefix_characters,
        "near_similarity": near_similarity,
        "near_duplicates": near_duplicates,
        "pii": pii == "yes",
    }
    try:
        change_settings(session, study, values)
    except Invalid as error:
        context = {
            "study": study,
            "values": values,
            "names": NAMES,
            "saved": False,
            "error": error.message,
        }
        return page(request, "data/preparation.html", context, status=error.status)
    return RedirectResponse(f"/studies/{study.slug}/preparation?saved=true", status_code=303)
