"""Withdrawing a labeler or a prompt of a study, and taking either back in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import RedirectResponse, Response

from app.db import DbSession
from app.routes.deps import ResearcherStudy
from app.services import withdrawals

router = APIRouter(prefix="/studies/{slug}")

Id = Annotated[int, Path(ge=1, lt=2**63)]


@router.post("/people/{user_id}/withdraw")
def withdraw_labeler(session: DbSession, study: ResearcherStudy, user_id: Id) -> Response:
    withdrawals.withdraw_labeler(session, study, user_id)
    return RedirectResponse(f"/studies/{study.slug}/people", status_code=303)


@router.post("/people/{user_id}/readmit")
def readmit_labeler(session: DbSession, study: ResearcherStudy, user_id: Id) -> Response:
    withdrawals.readmit_labeler(session, study, user_id)
    return RedirectResponse(f"/studies/{study.slug}/people", status_code=303)


@router.post("/prompts/{prompt_id}/withdraw")
def withdraw_prompt(session: DbSession, study: ResearcherStudy, prompt_id: Id) -> Response:
    withdrawals.withdraw_prompt(session, study, prompt_id)
    return RedirectResponse(f"/studies/{study.slug}/prompts/{prompt_id}", status_code=303)


@router.post("/prompts/{prompt_id}/readmit")
def readmit_prompt(session: DbSession, study: ResearcherStudy, prompt_id: Id) -> Response:
    withdrawals.readmit_prompt(session, study, prompt_id)
    return RedirectResponse(f"/studies/{study.slug}/prompts/{prompt_id}", status_code=303)
