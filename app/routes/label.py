"""The labeler's loop: next task, its page, the one after it, draft, submit, skip."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.orm import joinedload

from app.db import DbSession
from app.errors import Conflict, wants_json
from app.models import Assignment, AssignmentState, Membership
from app.render import page
from app.routes.deps import CurrentUser, LabelerMembership, current_user
from app.services import assignments, corrections, drafts, label_queue, labels, people
from app.services.label_forms import SKIP_REASONS, FormProblems, clean_fields
from app.services.label_pages import Frame, assignment_page, frame_of
from app.services.markdown import render_markdown

router = APIRouter()


def own_assignment(request: Request, public_id: str, session: DbSession) -> Assignment:
    return assignments.find_assignment(session, current_user(request, session), public_id)


OwnAssignment = Annotated[Assignment, Depends(own_assignment)]


async def form_fields(request: Request) -> dict[str, str]:
    """The posted form, the last value of each field, without uploaded files."""
    async with request.form() as form:
        sent = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    return clean_fields(sent)


FormFields = Annotated[dict[str, str], Depends(form_fields)]


def labeler_context(membership: Membership, frame: Frame) -> dict[str, Any]:
    """What the frame of every labeler's page shows."""
    return {"study": membership.study, "today": frame.today, "unseen": frame.unseen}


def membership_of(session: DbSession, assignment: Assignment) -> Membership:
    key = (assignment.study_id, assignment.user_id)
    return session.get_one(Membership, key, options=[joinedload(Membership.study)])


def _render(
    request: Request,
    session: DbSession,
    assignment: Assignment,
    *,
    fields: dict[str, str] | None = None,
    problems: dict[str, str] | None = None,
    refused: str | None = None,
    status: int = 200,
) -> Response:
    membership = membership_of(session, assignment)
    frame = frame_of(session, membership)
    shown = assignment_page(session, assignment, frame, fields)
    context: dict[str, Any] = labeler_context(membership, frame) | {
        "page": shown,
        "problems": problems or {},
        "refused": refused,
        "skip_reasons": SKIP_REASONS,
        "guidelines": render_markdown(frame.guidelines.markdown),
    }
    template = "label/lost.html" if refused else f"label/{shown.kind}.html"
    return page(request, template, context, status=status)


def _onward(
    request: Request, session: DbSession, assignment: Assignment, *, stored: bool = True
) -> Response:
    """To what is next: a page, or where it is for a script that may have it already."""
    membership = membership_of(session, assignment)
    following = label_queue.go_on(session, membership, take=not wants_json(request))
    start = f"/label/{membership.study.slug}"
    location = f"/assignments/{following.public_id}" if following else start
    if not wants_json(request):
        return RedirectResponse(location, status_code=303)
    answer = {
        "location": location,
        "seconds_left": following and assignments.lease_of(session, following).seconds_left,
        "stored": stored,
        "today": assignments.submitted_today(session, membership),
    }
    return JSONResponse(answer)


@router.get("/label")
def choose_study(request: Request, session: DbSession, user: CurrentUser) -> Response:
    mine = [m for m in people.memberships_of(session, user) if m.pool is not None]
    if len(mine) == 1:
        return RedirectResponse(f"/label/{mine[0].study.slug}", status_code=303)
    choices = [
        (m.study, assignments.submitted_today(session, m), label_queue.work_waits(session, m))
        for m in mine
    ]
    return page(request, "label/studies.html", {"choices": choices})


@router.get("/label/{slug}")
def next_assignment(
    request: Request, session: DbSession, membership: LabelerMembership
) -> Response:
    try:
        assignment = label_queue.lease_next(session, membership)
    except label_queue.GuidelinesUnread:
        return RedirectResponse(f"/label/{membership.study.slug}/guidelines", status_code=303)
    if assignment is None:
        return _no_work(request, session, membership, waits=False)
    return RedirectResponse(f"/assignments/{assignment.public_id}", status_code=303)


@router.get("/label/{slug}/work")
def work(request: Request, session: DbSession, membership: LabelerMembership) -> Response:
    """What the page without work asks again and again: it looks, and takes no lease."""
    waits = label_queue.work_waits(session, membership)
    return _no_work(request, session, membership, waits=waits)


def _no_work(
    request: Request, session: DbSession, membership: Membership, *, waits: bool
) -> Response:
    context = labeler_context(membership, frame_of(session, membership)) | {"waits": waits}
    return page(request, "label/no_work.html", context)


@router.post("/label/{slug}/ahead")
def ahead(request: Request, session: DbSession, membership: LabelerMembership) -> Response:
    """Reserve the task after the one on the screen, and answer with its page; 204 for none."""
    reserved = label_queue.reserve_ahead(session, membership)
    if reserved is None:
        return Response(status_code=204)
    user = current_user(request, session)
    return _render(request, session, assignments.find_assignment(session, user, reserved.public_id))


@router.get("/assignments/{public_id}")
def show(request: Request, session: DbSession, assignment: OwnAssignment) -> Response:
    if assignment.state in {AssignmentState.leased, AssignmentState.returned}:
        return _render(request, session, assignment)
    start = f"/label/{membership_of(session, assignment).study.slug}"
    if assignment.state is AssignmentState.submitted:
        return RedirectResponse(f"{start}/history/{assignment.public_id}", status_code=303)
    return RedirectResponse(start, status_code=303)


@router.get("/assignments/{public_id}/correct")
def correct(request: Request, session: DbSession, assignment: OwnAssignment) -> Response:
    """The form again, filled with the current label or with the draft of its correction."""
    if not corrections.may_correct(session, assignment):
        return show(request, session, assignment)
    return _render(request, session, assignment)


@router.post("/assignments/{public_id}")
def submit(
    request: Request,
    session: DbSession,
    assignment: OwnAssignment,
    fields: FormFields,
) -> Response:
    """Store the label and go on. What cannot be taken comes back as typed, kept as the draft."""
    user = current_user(request, session)
    corrects = corrections.CORRECTION in fields
    try:
        if corrects:
            corrections.correct(session, assignment, user, fields)
            return _corrected(request, session, assignment)
        stored = labels.submit(session, assignment, user, fields)
    except FormProblems as error:
        drafts.save_draft(session, assignment, fields)
        if wants_json(request):
            answer = {"detail": error.message, "problems": error.problems}
            return JSONResponse(answer, status_code=422)
        return _render(
            request, session, assignment, fields=fields, problems=error.problems, status=422
        )
    except Conflict as error:
        if isinstance(error, labels.LeaseLost):
            drafts.save_draft(session, assignment, fields)
        if wants_json(request):
            return JSONResponse({"detail": error.message}, status_code=409)
        return _render(
            request, session, assignment, fields=fields, refused=error.message, status=409
        )
    return _onward(request, session, assignment, stored=stored)


def _corrected(request: Request, session: DbSession, assignment: Assignment) -> Response:
    slug = membership_of(session, assignment).study.slug
    location = f"/label/{slug}/history/{assignment.public_id}"
    if wants_json(request):
        return JSONResponse({"location": location})
    return RedirectResponse(location, status_code=303)


@router.put("/assignments/{public_id}/draft")
def save_draft(
    session: DbSession,
    assignment: OwnAssignment,
    fields: Annotated[dict[str, str], Body()],
    base: str | None = None,
) -> JSONResponse:
    """Keep the draft that grew from version `base`; a newer one of elsewhere comes back instead."""
    try:
        lease = drafts.save_draft(session, assignment, clean_fields(fields), base=base)
    except drafts.DraftBehind as error:
        there = {"draft": error.draft, "saved_at": drafts.version_of(error.saved_at)}
        return JSONResponse({"detail": error.message} | there, status_code=409)
    saved_at = drafts.version_of(assignment.draft_saved_at)
    return JSONResponse({"saved_at": saved_at, "seconds_left": lease.seconds_left})


@router.post("/assignments/{public_id}/alive")
def keep_alive(
    session: DbSession, assignment: OwnAssignment, fields: Annotated[dict[str, str], Body()]
) -> JSONResponse:
    """Renew the lease of somebody who reads."""
    lease = drafts.keep_alive(session, assignment, fields)
    return JSONResponse({"seconds_left": lease.seconds_left})


@router.post("/assignments/{public_id}/skip")
def skip(
    request: Request,
    session: DbSession,
    assignment: OwnAssignment,
    reason: Annotated[str, Form()] = "",
) -> Response:
    assignments.skip(session, assignment, reason)
    return _onward(request, session, assignment)
