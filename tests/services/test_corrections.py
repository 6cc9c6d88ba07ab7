"""Corrections: a further revision of a label, the earlier one kept; and what reads them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.models import (
    Assignment,
    AssignmentState,
    Demonstration,
    GuidelineVersion,
    Membership,
    PromptRating,
    Ranking,
    RankingItem,
    Rating,
    SnapshotDemonstration,
    User,
)
from app.services import corrections, drafts, history, labels
from app.services.label_forms import FormProblems
from app.services.label_pages import AssignmentPage, assignment_page, frame_of
from app.services.snapshots import freeze_demonstrations
from app.services.studies import study_counts
from tests import factories as make


def shown_page(session: Session, assignment: Assignment) -> AssignmentPage:
    membership = session.get_one(Membership, (assignment.study_id, assignment.user_id))
    return assignment_page(session, assignment, frame_of(session, membership))


def user_of(session: Session, membership: Membership) -> User:
    return session.get_one(User, membership.user_id)


def given(session: Session, text: str = "Red.") -> tuple[Membership, Assignment]:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 2)
    assignment = make.give_label(session, labeler, {"text": text, "active_seconds": "10"})
    session.refresh(assignment, ["submitted_at"])
    return labeler, assignment


def test_a_correction_keeps_both_revisions(session: Session) -> None:
    labeler, assignment = given(session)
    session.add(GuidelineVersion(study_id=labeler.study_id, version=2, markdown="New"))
    session.flush()
    form = {"text": "Red!", "correction": "1", "active_seconds": "15"}
    assert corrections.correct(session, assignment, user_of(session, labeler), form)
    first, second = session.scalars(select(Demonstration).order_by(Demonstration.id)).all()
    assert (first.text, second.text) == ("Red.", "Red!")
    assert first.superseded_at is not None
    assert second.superseded_at is None
    versions = [
        session.get_one(GuidelineVersion, row.guideline_version_id).version
        for row in (first, second)
    ]
    assert versions == [1, 2]
    assert assignment.state is AssignmentState.submitted
    assert assignment.active_seconds == 15
    counts = study_counts(session, labeler.study)
    assert counts.demonstrations == 1


def test_a_label_names_the_guidelines_that_were_beside_it(session: Session) -> None:
    """A version that is published while somebody writes is not the one they wrote under."""
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 3)
    session.add(GuidelineVersion(study_id=study.id, version=2, markdown="New"))
    session.flush()
    for named in ("1", "99", "x"):
        make.give_label(session, labeler, {"guidelines_version": named})
    versions = (
        select(GuidelineVersion.version)
        .join(Demonstration, Demonstration.guideline_version_id == GuidelineVersion.id)
        .order_by(Demonstration.id)
    )
    assert session.scalars(versions).all() == [1, 2, 2]


def test_what_says_the_same_is_no_correction(session: Session) -> None:
    labeler, assignment = given(session)
    form = {"text": "Red.\n", "correction": "1"}
    assert not corrections.correct(session, assignment, user_of(session, labeler), form)
    assert session.scalar(select(func.count()).select_from(Demonstration)) == 1


def test_the_same_correction_twice_is_one_and_a_stale_one_is_refused(session: Session) -> None:
    labeler, assignment = given(session)
    user = user_of(session, labeler)
    assert corrections.correct(session, assignment, user, {"text": "Red!", "correction": "1"})
    assert not corrections.correct(session, assignment, user, {"text": "Red!", "correction": "1"})
    with pytest.raises(Conflict, match="meanwhile"):
        corrections.correct(session, assignment, user, {"text": "Blue", "correction": "1"})
    assert session.scalar(select(func.count()).select_from(Demonstration)) == 2


def test_an_empty_correction_is_refused_and_changes_nothing(session: Session) -> None:
    labeler, assignment = given(session)
    with pytest.raises(FormProblems):
        corrections.correct(
            session, assignment, user_of(session, labeler), {"text": " ", "correction": "1"}
        )
    assert session.scalars(select(Demonstration.superseded_at)).all() == [None]


@pytest.mark.parametrize(("minutes", "ago"), [(0, 1), (60, 61)])
def test_after_the_time_the_label_stands(session: Session, minutes: int, ago: int) -> None:
    labeler, assignment = given(session)
    labeler.study.correction_minutes = minutes
    assignment.submitted_at = func.now() - timedelta(minutes=ago)
    session.flush()
    session.refresh(assignment, ["submitted_at"])
    form = {"text": "Red!", "correction": "1"}
    with pytest.raises(Conflict, match="time to correct"):
        corrections.correct(session, assignment, user_of(session, labeler), form)
    with pytest.raises(Conflict, match="time to correct"):
        drafts.save_draft(session, assignment, form)
    assert not history.submitted_page(session, assignment).correctable
    assert [entry.correctable for entry in history.history_page(session, labeler, 1).entries] == [
        False
    ]


def test_the_draft_of_a_correction_is_kept_and_only_of_the_current_revision(
    session: Session,
) -> None:
    labeler, assignment = given(session)
    assert shown_page(session, assignment).fields["text"] == "Red."
    drafts.save_draft(session, assignment, {"text": "Red, then", "correction": "1"}, base="")
    page = shown_page(session, assignment)
    assert (page.fields["text"], page.correction) == ("Red, then", 1)
    assert session.scalars(select(Demonstration.text)).all() == ["Red."]
    with pytest.raises(Conflict):
        drafts.save_draft(session, assignment, {"text": "Over", "correction": "2"})
    with pytest.raises(Conflict):
        drafts.save_draft(session, assignment, {"text": "No correction"})
    form = {"text": "Red, then blue.", "correction": "1"}
    corrections.correct(session, assignment, user_of(session, labeler), form)
    page = shown_page(session, assignment)
    assert (page.fields["text"], page.correction, page.saved_at) == ("Red, then blue.", 2, None)


def test_a_ranking_is_corrected_with_its_ratings(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_ranking_batch(session, study, 1, k=4)
    assignment = make.take_next(session, labeler)
    user = user_of(session, labeler)
    form = {
        "tier_A": "1", "tier_B": "2", "tier_C": "3", "tier_D": "4", "overall_A": "7",
        "sexual_content_B": "no", "prompt_ambiguous": "yes",
    }  # fmt: skip
    labels.submit(session, assignment, user, form)
    shown = shown_page(session, assignment).fields
    assert {name: value for name, value in shown.items() if name != "active_seconds"} == form

    # B joins A; the question about the prompt is taken back.
    changed = form | {"tier_B": "1", "prompt_ambiguous": "", "correction": "1"}
    assert corrections.correct(session, assignment, user, changed)
    old, new = session.scalars(select(Ranking.id).order_by(Ranking.id)).all()
    tiers = {
        ranking: sorted(
            session.scalars(select(RankingItem.tier).where(RankingItem.ranking_id == ranking))
        )
        for ranking in (old, new)
    }
    assert tiers == {old: [1, 2, 3, 4], new: [1, 1, 2, 3]}
    rated = select(Rating.ranking_id, func.count()).group_by(Rating.ranking_id)
    assert dict(session.execute(rated).all()) == {old: 2, new: 2}
    assert session.scalars(select(PromptRating.ranking_id)).all() == [old]
    page = history.submitted_page(session, assignment)
    assert [revision.number for revision in page.revisions] == [2, 1]
    assert [[card.tier for card in r.ranked] for r in page.revisions] == [
        [1, 1, 2, 3],
        [1, 2, 3, 4],
    ]
    assert page.revisions[1].about_prompt == {"Is ambiguous": "yes"}


def test_a_frozen_snapshot_keeps_its_revision_and_the_next_has_the_correction(
    session: Session,
) -> None:
    labeler, assignment = given(session)
    before = freeze_demonstrations(session, labeler.study)
    form = {"text": "Red!", "correction": "1"}
    corrections.correct(session, assignment, user_of(session, labeler), form)
    after = freeze_demonstrations(session, labeler.study)
    assert before.id != after.id
    texts = {
        snapshot.id: session.scalars(
            select(Demonstration.text)
            .join(SnapshotDemonstration, SnapshotDemonstration.demonstration_id == Demonstration.id)
            .where(SnapshotDemonstration.snapshot_id == snapshot.id)
        ).all()
        for snapshot in (before, after)
    }
    assert texts == {before.id: ["Red."], after.id: ["Red!"]}
