"""A study's prompts, and each with all that is known about it. For researchers: not blind."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from app.db import DbSession
from app.models import Split, UseCase
from app.render import page
from app.routes.deps import ResearcherStudy
from app.services.pii_queue import held_count
from app.services.prompt_search import PromptFilter, find_prompts, prompt_view
from app.services.prompt_steps import prompt_steps, set_use_case, use_case_shares

router = APIRouter(prefix="/studies/{slug}/prompts")

ORIGINS = [
    ("", "All origins"),
    ("imported", "Imported"),
    ("written", "Written by labelers"),
    ("few_shot", "Few-shot, of either"),
]


@router.get("")
def list_prompts(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    q: str = "",
    split: str = "",
    use_case: str = "",
    origin: str = "",
    number: Annotated[int, Query(alias="page", ge=1, le=1_000_000)] = 1,
) -> Response:
    """Search, filter and page; a filter that is no split, use case or origin is none."""
    wanted = PromptFilter(
        words=q,
        split=Split(split) if split in set(Split) else None,
        use_case=UseCase(use_case) if use_case in set(UseCase) else None,
        written={"imported": False, "written": True}.get(origin),
        few_shot=True if origin == "few_shot" else None,
    )
    values = {
        "q": q,
        "split": wanted.split or "",
        "use_case": wanted.use_case or "",
        "origin": origin if origin in dict(ORIGINS) else "",
    }
    context = {
        "study": study,
        "values": values,
        "filtered": any(values.values()),
        "query": urlencode({name: value for name, value in values.items() if value}),
        "shown": find_prompts(session, study, wanted, page=number),
        "splits": [("", "All splits"), *((split.value, split.value) for split in Split)],
        "origins": ORIGINS,
        "use_cases": [("", "All use cases"), *((case.value, words(case)) for case in UseCase)],
        "shares": use_case_shares(session, study),
        "held": held_count(session, study),
    }
    return page(request, "data/prompts.html", context, fragment="results")


def words(case: UseCase) -> str:
    return case.value.replace("_", " ").replace("qa", "QA")


@router.get("/{prompt_id}")
def show_prompt(
    request: Request,
    session: DbSession,
    study: ResearcherStudy,
    prompt_id: Annotated[int, Path(ge=1, lt=2**63)],
) -> Response:
    view = prompt_view(session, study, prompt_id)
    context = {
        "study": study,
        "view": view,
        "steps": prompt_steps(session, study, view.prompt),
        "use_cases": [("", "Not known"), *((case.value, words(case)) for case in UseCase)],
    }
    return page(request, "data/prompt.html", context)


@router.post("/{prompt_id}/use-case")
def tag(
    session: DbSession,
    study: ResearcherStudy,
    prompt_id: Annotated[int, Path(ge=1, lt=2**63)],
    use_case: Annotated[UseCase | Literal[""], Form()] = "",
) -> Response:
    set_use_case(session, study, prompt_id, use_case or None)
    return RedirectResponse(f"/studies/{study.slug}/prompts/{prompt_id}", status_code=303)
