"""The labeler's loop: next task, its page, draft, submit, skip."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from markupsafe import Markup

from app.db import DbSession
from app.models import Assignment, AssignmentState, Membership, Study
from app.render import page
from app.routes.deps import CurrentUser, LabelerMembership
from app.services import assignments, labels, people
from app.services.label_forms import SKIP_REASONS, FormProblems, clean_fields
from app.services.label_pages import assignment_page, guidelines_html

router = APIRouter()


def own_assignment(public_id: str, user: CurrentUser, session: DbSession) -> Assignment:
    return assignments.find_assignment(session, user, public_id)


OwnAssignment = Annotated[Assignment, Depends(own_assignment)]


async def form_fields(request: Request) -> dict[str, str]:
    """The posted form, the last value of each field, without uploaded files."""
    async with request.form() as form:
        sent = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    return clean_fields(sent)


FormFields = Annotated[dict[str, str], Depends(form_fields)]


def _study(session: DbSession, assignment: Assignment) -> Study:
    return session.get_one(Study, assignment.study_id)


def _onward(session: DbSession, assignment: Assignment) -> Response:
    return RedirectResponse(f"/label/{_study(session, assignment).slug}", status_code=303)


def _render(
    request: Request,
    session: DbSession,
    assignment: Assignment,
    *,
    fields: dict[str, str] | None = None,
    problems: dict[str, str] | None = None,
    lost: str | None = None,
    status: int = 200,
) -> Response:
    study = _study(session, assignment)
    membership = session.get_one(Membership, (study.id, assignment.user_id))
    shown = assignment_page(session, assignment, fields)
    context: dict[str, Any] = {
        "study": study,
        "page": shown,
        "problems": problems or {},
        "lost": lost,
        "skip_reasons": SKIP_REASONS,
        "today": assignments.submitted_today(session, membership),
        "guidelines": Markup(guidelines_html(session, study)),
    }
    template = "label/lost.html" if lost else f"label/{shown.kind}.html"
    return page(request, template, context, status=status)


@router.get("/label")
def choose_study(request: Request, session: DbSession, user: CurrentUser) -> Response:
    mine = [m for m in people.memberships_of(session, user) if m.pool is not None]
    if len(mine) == 1:
        return RedirectResponse(f"/label/{mine[0].study.slug}", status_code=303)
    choices = [
        (m.study, assignments.submitted_today(session, m), assignments.work_waits(session, m))
        for m in mine
    ]
    return page(request, "label/studies.html", {"choices": choices})


@router.get("/label/{slug}")
def next_assignment(
    request: Request, session: DbSession, membership: LabelerMembership
) -> Response:
    assignment = assignments.lease_next(session, membership)
    if assignment is None:
        return _no_work(request, session, membership, waits=False)
    return RedirectResponse(f"/assignments/{assignment.public_id}", status_code=303)


@router.get("/label/{slug}/work")
def work(request: Request, session: DbSession, membership: LabelerMembership) -> Response:
    """What the page without work asks again and again: it looks, and takes no lease."""
    waits = assignments.work_waits(session, membership)
    return _no_work(request, session, membership, waits=waits)


def _no_work(
    request: Request, session: DbSession, membership: Membership, *, waits: bool
) -> Response:
    context = {
        "study": membership.study,
        "today": assignments.submitted_today(session, membership),
        "waits": waits,
    }
    return page(request, "label/no_work.html", context)


@router.get("/assignments/{public_id}")
def show(request: Request, session: DbSession, assignment: OwnAssignment) -> Response:
    if assignment.state in {AssignmentState.submitted, AssignmentState.skipped}:
        return _onward(session, assignment)
    return _render(request, session, assignment)


@router.post("/assignments/{public_id}")
def submit(
    request: Request,
    session: DbSession,
    user: CurrentUser,
    assignment: OwnAssignment,
    fields: FormFields,
) -> Response:
    """Store the label and go on. What cannot be taken comes back as typed, kept as the draft."""
    try:
        labels.submit(session, assignment, user, fields)
    except FormProblems as error:
        assignments.save_draft(session, assignment, fields)
        return _render(
            request, session, assignment, fields=fields, problems=error.problems, status=422
        )
    except labels.LeaseLost as error:
        assignments.save_draft(session, assignment, fields)
        return _render(request, session, assignment, fields=fields, lost=error.message, status=409)
    return _onward(session, assignment)


@router.put("/assignments/{public_id}/draft")
def save_draft(
    session: DbSession,
    assignment: OwnAssignment,
    fields: Annotated[dict[str, str], Body()],
) -> JSONResponse:
    lease = assignments.save_draft(session, assignment, clean_fields(fields))
    session.refresh(assignment, ["draft_saved_at"])
    saved_at = assignment.draft_saved_at
    assert saved_at is not None  # save_draft has just set it
    return JSONResponse({"saved_at": saved_at.isoformat(), "seconds_left": lease.seconds_left})


@router.post("/assignments/{public_id}/skip")
def skip(
    session: DbSession, assignment: OwnAssignment, reason: Annotated[str, Form()] = ""
) -> Response:
    assignments.skip(session, assignment, reason)
    return _onward(session, assignment)
