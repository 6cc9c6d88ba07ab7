"""Making a study, and the figures on its first page."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid
from app.models import LabelTaskState, Membership, Pool, Role, Split
from app.services.studies import (
    DEFAULT_GUIDELINES,
    create_study,
    current_guidelines,
    may_create_studies,
    studies_of,
    study_counts,
)
from tests.factories import (
    give_label,
    make_demonstration_batch,
    make_labeler,
    make_prompt,
    make_ranking_batch,
    make_study,
    make_user,
    tasks_of,
)


def test_a_study_begins_with_guidelines_and_its_creator(session: Session) -> None:
    ann = make_user(session, "ann")
    study = create_study(session, name="  Fünf & Co ", created_by=ann)
    assert (study.name, study.slug, study.rehearsal) == ("Fünf & Co", "funf-co", False)
    guidelines = current_guidelines(session, study)
    assert (guidelines.version, guidelines.markdown) == (1, DEFAULT_GUIDELINES)
    assert guidelines.created_by == ann.id
    assert session.get_one(Membership, (study.id, ann.id)).role is Role.researcher


def test_slugs_are_unique(session: Session) -> None:
    slugs = [make_study(session, name).slug for name in ("A b", "A, b", "日本", "New", "x" * 100)]
    assert slugs == ["a-b", "a-b-2", "study", "new-2", "x" * 54]
    with pytest.raises(Conflict, match="a-b is taken"):
        create_study(session, name="x", slug="a-b", created_by=None)
    for slug in ("A", "a b", "-a", "", "a/b", "a" * 61):
        with pytest.raises(Invalid):
            create_study(session, name="x", slug=slug, created_by=None)
    for name in ("", " ", "two\nlines", "x" * 121):
        with pytest.raises(Invalid):
            create_study(session, name=name, created_by=None)


def test_who_sees_and_makes_studies(session: Session) -> None:
    administrator = make_user(session, administrator=True)
    ann, bob = make_user(session), make_user(session)
    first = create_study(session, name="First", created_by=ann)
    second = create_study(session, name="Second", created_by=None)
    make_labeler(session, second)
    assert studies_of(session, ann) == [first]
    assert studies_of(session, bob) == []
    assert set(studies_of(session, administrator)) >= {first, second}
    assert [may_create_studies(session, user) for user in (administrator, ann, bob)] == [
        True,
        True,
        False,
    ]


def test_counts(session: Session) -> None:
    study = make_study(session)
    other = make_study(session, "Another")
    make_prompt(session, other)
    prompts = [make_prompt(session, study) for _ in range(3)]
    make_prompt(session, study, split=Split.test)
    batch = make_demonstration_batch(session, study, prompts[:2])
    make_ranking_batch(session, study, prompts[2:])
    tasks_of(session, batch)[1].state = LabelTaskState.closed
    labeler = make_labeler(session, study)
    make_labeler(session, study, pool=Pool.heldout)
    give_label(session, labeler)
    give_label(session, labeler)
    make_demonstration_batch(session, study, [prompts[2]])
    counts = study_counts(session, study)
    assert counts.prompts == {Split.train: 3, Split.valid: 0, Split.test: 1}
    assert counts.labelers == {Pool.training: 1, Pool.heldout: 1}
    assert (counts.demonstrations, counts.rankings, counts.open_label_tasks) == (1, 1, 1)
    assert (counts.all_prompts, counts.all_labelers) == (4, 2)
