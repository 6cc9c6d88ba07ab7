"""Beside the labeler's loop: own work, guidelines to read, flags and their answers."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from app.db import DbSession
from app.errors import NotFound, wants_json
from app.models import AssignmentState
from app.render import page
from app.routes.deps import LabelerMembership
from app.routes.label import FormFields, OwnAssignment, labeler_context, membership_of
from app.services import acknowledgements, flags, history
from app.services.label_pages import excerpt, frame_of
from app.services.markdown import render_markdown

router = APIRouter()


@router.get("/label/{slug}/history")
def list_history(
    request: Request, session: DbSession, membership: LabelerMembership, number: int = 1
) -> Response:
    context = labeler_context(membership, frame_of(session, membership))
    context["history"] = history.history_page(session, membership, number)
    return page(request, "label/history.html", context)


@router.get("/label/{slug}/history/{public_id}")
def show_submitted(
    request: Request,
    session: DbSession,
    membership: LabelerMembership,
    assignment: OwnAssignment,
) -> Response:
    """A label as it was given, with its earlier revisions."""
    if assignment.study_id != membership.study_id:
        raise NotFound("There is no such assignment.")
    if assignment.state is not AssignmentState.submitted:
        return RedirectResponse(f"/assignments/{assignment.public_id}", status_code=303)
    context = labeler_context(membership, frame_of(session, membership))
    context["page"] = history.submitted_page(session, assignment)
    return page(request, "label/submitted.html", context)


@router.get("/label/{slug}/guidelines")
def read_guidelines(
    request: Request, session: DbSession, membership: LabelerMembership
) -> Response:
    frame = frame_of(session, membership)
    context = labeler_context(membership, frame) | {
        "version": frame.guidelines,
        "unread": acknowledgements.unread_guidelines(session, membership) is not None,
        "guidelines": render_markdown(frame.guidelines.markdown),
    }
    return page(request, "label/guidelines.html", context)


@router.post("/label/{slug}/guidelines")
def acknowledge_guidelines(
    session: DbSession, membership: LabelerMembership, fields: FormFields
) -> Response:
    """Store that this version was read, and go on to the next task."""
    version = fields.get("version", "")
    if not version.isdecimal() or len(version) > 9:
        raise NotFound("There is no such version of the guidelines.")
    acknowledgements.acknowledge(session, membership, int(version))
    return RedirectResponse(f"/label/{membership.study.slug}", status_code=303)


@router.get("/label/{slug}/flags")
def list_flags(request: Request, session: DbSession, membership: LabelerMembership) -> Response:
    """The labeler's flags; what is answered counts as seen from now on."""
    mine = flags.flags_of_labeler(session, membership)
    context = labeler_context(membership, frame_of(session, membership))
    context["flags"] = [
        {
            "message": flag.message,
            "created_at": flag.created_at,
            "answer": flag.answer,
            "answered_at": flag.answered_at,
            "new": flag.answer is not None and flag.seen_at is None,
            "assignment": flag.assignment.public_id,
            "excerpt": excerpt(
                flag.assignment.label_task.prompt.text
                if flag.assignment.label_task.prompt
                else flag.assignment.label_task.brief or ""
            ),
        }
        for flag in mine
    ]
    flags.mark_seen(session, membership)
    context["unseen"] = 0
    return page(request, "label/flags.html", context)


@router.post("/assignments/{public_id}/flag")
def raise_flag(
    request: Request, session: DbSession, assignment: OwnAssignment, fields: FormFields
) -> Response:
    """Send the message to the researchers; the labeler stays where they are."""
    flags.raise_flag(session, assignment, fields.get("message", ""))
    if wants_json(request):
        return JSONResponse({"detail": "Sent to the researchers."}, status_code=201)
    back = f"/assignments/{assignment.public_id}"
    if assignment.state is AssignmentState.skipped:
        back = f"/label/{membership_of(session, assignment).study.slug}/flags"
    return RedirectResponse(back, status_code=303)
