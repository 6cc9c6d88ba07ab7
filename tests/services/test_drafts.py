"""Drafts on the server: versions, leases that they keep, and the time that was worked."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.models import Assignment, AssignmentState, LabelTask, Membership, User
from app.services import assignments, drafts, labels
from tests import factories as make


def begin(session: Session, tasks: int = 1) -> tuple[Membership, Assignment]:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, tasks)
    return labeler, make.take_next(session, labeler)


def returned(session: Session, labeler: Membership, assignment: Assignment) -> Assignment:
    """The assignment as its page would load it after its time ran out and a sweep came by."""
    session.execute(
        update(Assignment)
        .where(Assignment.id == assignment.id)
        .values(lease_until=func.now() - timedelta(seconds=1))
    )
    assert assignments.return_expired(session) == 1
    user = session.get_one(User, labeler.user_id)
    return assignments.find_assignment(session, user, assignment.public_id)


def set_saved(session: Session, assignment: Assignment, minutes_ago: int) -> str:
    """Give the draft a version of its own: within a test's transaction now() stands still."""
    assignment.draft_saved_at = func.now() - timedelta(minutes=minutes_ago)
    session.flush()
    session.refresh(assignment, ["draft_saved_at"])
    return drafts.version_of(assignment.draft_saved_at)


def test_a_tab_that_is_behind_gets_the_newer_draft_instead(session: Session) -> None:
    _, assignment = begin(session)
    drafts.save_draft(session, assignment, {"text": "One"}, base="")
    first = set_saved(session, assignment, 10)
    drafts.save_draft(session, assignment, {"text": "One two"}, base=first)
    second = drafts.version_of(assignment.draft_saved_at)
    with pytest.raises(drafts.DraftBehind) as caught:
        drafts.save_draft(session, assignment, {"text": "One three"}, base=first)
    assert caught.value.draft == {"text": "One two"}
    assert drafts.version_of(caught.value.saved_at) == second
    assert assignment.draft == {"text": "One two"}
    drafts.save_draft(session, assignment, {"text": "One three"}, base=second)  # "Keep mine"
    assert assignment.draft == {"text": "One three"}


def test_a_first_draft_does_not_replace_one_it_never_saw(session: Session) -> None:
    _, assignment = begin(session)
    drafts.save_draft(session, assignment, {"text": "One"}, base="")
    with pytest.raises(drafts.DraftBehind):
        drafts.save_draft(session, assignment, {"text": "Another"}, base="")


def test_the_same_words_are_no_conflict(session: Session) -> None:
    """A save whose answer was lost is sent again; the clock of the page may have moved on."""
    _, assignment = begin(session)
    drafts.save_draft(session, assignment, {"text": "One", "active_seconds": "5"}, base="")
    drafts.save_draft(session, assignment, {"text": "One", "active_seconds": "9"}, base="")
    assert assignment.draft == {"text": "One", "active_seconds": "9"}


def test_a_program_without_a_base_replaces(session: Session) -> None:
    _, assignment = begin(session)
    drafts.save_draft(session, assignment, {"text": "One"})
    drafts.save_draft(session, assignment, {"text": "Two"})
    assert assignment.draft == {"text": "Two"}


def test_whoever_goes_on_writing_has_the_task_again(session: Session) -> None:
    labeler, assignment = begin(session)
    assignment = returned(session, labeler, assignment)
    lease = drafts.save_draft(session, assignment, {"text": "After lunch"})
    assert lease.seconds_left is not None
    assert 3500 < lease.seconds_left <= 3600
    assert assignment.state is AssignmentState.leased
    assert session.get_one(LabelTask, assignment.label_task_id).slots_taken == 1


def test_a_task_is_not_taken_again_beside_another_lease(session: Session) -> None:
    labeler, first = begin(session, tasks=2)
    first = returned(session, labeler, first)
    session.get_one(LabelTask, first.label_task_id).priority = 1
    session.flush()
    assert make.take_next(session, labeler).id != first.id
    user = session.get_one(User, labeler.user_id)
    first = assignments.find_assignment(session, user, first.public_id)
    lease = drafts.save_draft(session, first, {"text": "In the other tab"})
    assert lease.seconds_left is None
    assert first.state is AssignmentState.returned
    assert first.draft == {"text": "In the other tab"}


def test_reading_keeps_the_lease_and_the_time_that_was_worked(session: Session) -> None:
    labeler, assignment = begin(session)
    session.execute(update(Assignment).values(lease_until=func.now() + timedelta(seconds=30)))
    lease = drafts.keep_alive(session, assignment, {"active_seconds": "61"})
    assert lease.seconds_left is not None
    assert lease.seconds_left > 3500
    drafts.keep_alive(session, assignment, {"active_seconds": "12"})  # a second tab counts less
    assert assignment.active_seconds == 61
    user = session.get_one(User, labeler.user_id)
    labels.submit(session, assignment, user, {"text": "Done.", "active_seconds": "70.5"})
    assert assignment.active_seconds == 70.5
    with pytest.raises(Conflict):
        drafts.keep_alive(session, assignment, {"active_seconds": "80"})
