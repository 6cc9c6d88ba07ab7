"""Prompts are stored once, and every source user lies on one side of the split."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.config import get_settings
from app.errors import Conflict, Invalid
from app.models import (
    Demonstration,
    Membership,
    Pool,
    Prompt,
    Purpose,
    Ranking,
    Role,
    Snapshot,
    SnapshotDemonstration,
    SnapshotKind,
    SnapshotRanking,
    SourceUser,
    Split,
    Study,
)
from app.services.prompts import PromptRow, add_prompts, normalize, split_of
from tests.factories import (
    give_label,
    make_demonstration_batch,
    make_labeler,
    make_prompt,
    make_ranking_batch,
    make_study,
    make_user,
)


@pytest.fixture
def study(session: Session) -> Study:
    return make_study(session)


def test_the_split_of_a_user_is_a_keyed_hash(study: Study) -> None:
    study.split_key = "a key"
    drawn = [split_of(study, f"user {n}") for n in range(10_000)]
    shares = Counter(drawn)
    # 8,000 expected with a standard deviation of 40, and 1,000 with one of 30: five of them.
    assert abs(shares[Split.train] - 8000) < 200
    assert abs(shares[Split.valid] - 1000) < 150
    assert abs(shares[Split.test] - 1000) < 150
    assert drawn == [split_of(study, f"user {n}") for n in range(10_000)]
    study.split_key = "another key"
    moved = sum(split_of(study, f"user {n}") != split for n, split in enumerate(drawn))
    assert 3000 < moved < 3800  # 1 - 0.8² - 0.1² - 0.1² = 0.34 of them


def test_no_user_is_on_two_sides(session: Session, study: Study) -> None:
    rows = [PromptRow(text=f"Say {n}.", user=f"user {n % 40}") for n in range(400)]
    add_prompts(session, study, rows)
    sides = session.execute(
        select(Prompt.source_user_id, func.count(Prompt.split.distinct()), func.count())
        .where(Prompt.study_id == study.id)
        .group_by(Prompt.source_user_id)
    ).all()
    assert len(sides) == 40
    assert all((splits, prompts) == (1, 10) for _, splits, prompts in sides)


def test_a_user_stays_where_first_seen(session: Session, study: Study) -> None:
    everything = {Split.test: 1.0}
    add_prompts(session, study, [PromptRow(text="Say 1.", user="ann")], shares=everything)
    add_prompts(session, study, [PromptRow(text="Say 2.", user="ann")], shares={Split.train: 1.0})
    assert set(session.scalars(select(Prompt.split))) == {Split.test}


def test_the_database_refuses_a_prompt_beside_its_users_split(
    session: Session, study: Study
) -> None:
    prompt = make_prompt(session, study, split=Split.train)
    session.add(
        Prompt(
            study_id=study.id,
            source_user_id=prompt.source_user_id,
            split=Split.test,
            text="Say 2.",
            text_sha256="2",
        )
    )
    with pytest.raises(IntegrityError, match="fk_prompts_source_user_id_study_id_split"):
        session.flush()


def test_the_database_refuses_to_move_a_user_who_has_prompts(
    session: Session, study: Study
) -> None:
    prompt = make_prompt(session, study, split=Split.train)
    session.get_one(SourceUser, prompt.source_user_id).split = Split.test
    with pytest.raises(IntegrityError, match="fk_prompts_source_user_id_study_id_split"):
        session.flush()


def test_the_same_text_is_one_prompt(session: Session, study: Study) -> None:
    composed, decomposed = "Caf\u00e9?\r\nNow", "Cafe\u0301?\nNow \n"
    assert normalize(composed) == normalize(decomposed) == "Caf\u00e9?\nNow"
    added = add_prompts(
        session,
        study,
        [
            PromptRow(text=composed, user="ann"),
            PromptRow(text=decomposed, user="bob"),
            PromptRow(text="Say 2.", user="bob"),
        ],
    )
    assert (added.stored, added.duplicates, added.own_users) == (2, 1, 0)
    first, again, second = added.prompt_ids
    assert first == again != second
    again_added = add_prompts(session, study, [PromptRow(text="Say 2.")])
    assert (again_added.stored, again_added.prompt_ids) == (0, [second])


def test_a_prompt_without_a_user_is_its_own(session: Session, study: Study) -> None:
    added = add_prompts(session, study, [PromptRow(text=f"Say {n}.") for n in range(3)])
    assert added.own_users == 3
    assert len(set(session.scalars(select(Prompt.source_user_id)))) == 3


def test_an_id_means_one_text(session: Session, study: Study) -> None:
    add_prompts(session, study, [PromptRow(text="Say 1.", external_id="a")])
    with pytest.raises(Conflict, match='Prompt_id "a" already stands for another text'):
        add_prompts(session, study, [PromptRow(text="Say 2.", external_id="a")])
    add_prompts(session, study, [PromptRow(text="Say 1.", external_id="b")])
    with pytest.raises(Conflict, match='Prompt_id "b"'):
        add_prompts(session, study, [PromptRow(text="Say 2.", external_id="b")])


def test_empty_and_endless_prompts_are_refused(session: Session, study: Study) -> None:
    with pytest.raises(Invalid, match="empty"):
        add_prompts(session, study, [PromptRow(text=" \n")])
    limit = get_settings().max_prompt_characters
    with pytest.raises(Invalid, match="32,001 characters"):
        add_prompts(session, study, [PromptRow(text="a" * (limit + 1))])


# What may train: held by the database itself ------------------------------------------------------


def make_snapshot(session: Session, study: Study, kind: SnapshotKind) -> Snapshot:
    snapshot = Snapshot(
        study_id=study.id,
        rehearsal=study.rehearsal,
        kind=kind,
        sha256="0",
        uri="file:///nowhere",
        records=1,
        counts={},
        query={},
    )
    session.add(snapshot)
    session.flush()
    return snapshot


def heldout_ranking(session: Session, study: Study) -> int:
    make_ranking_batch(session, study, pool=Pool.heldout)
    assignment = give_label(session, make_labeler(session, study, pool=Pool.heldout))
    ranking = session.scalars(select(Ranking).where(Ranking.assignment_id == assignment.id)).one()
    return ranking.id


@pytest.mark.parametrize(
    ("pool", "purpose", "refusal"),
    [
        (Pool.heldout, Purpose.evaluation, "ck_snapshot_rankings_training_p"),
        (Pool.training, Purpose.training, "fk_snapshot_rankings_ranking_id"),  # a lie about it
    ],
)
def test_the_database_refuses_a_heldout_label_in_a_snapshot(
    session: Session, study: Study, pool: Pool, purpose: Purpose, refusal: str
) -> None:
    ranking_id = heldout_ranking(session, study)
    snapshot = make_snapshot(session, study, SnapshotKind.rankings)
    session.add(
        SnapshotRanking(
            snapshot_id=snapshot.id,
            ranking_id=ranking_id,
            study_id=study.id,
            rehearsal=False,
            pool=pool,
            purpose=purpose,
            simulated=False,
        )
    )
    with pytest.raises(IntegrityError, match=refusal):
        session.flush()


@pytest.mark.parametrize("rehearsal", [True, False])
def test_simulated_labels_enter_snapshots_of_rehearsals_only(
    session: Session, rehearsal: bool
) -> None:
    """Elsewhere not even if a program makes a simulated labeler a member past every service."""
    study = make_study(session, rehearsal=rehearsal)
    make_demonstration_batch(session, study)
    simulated = make_user(session, simulated=True)
    member = Membership(
        study_id=study.id, user_id=simulated.id, role=Role.labeler, pool=Pool.training
    )
    session.add(member)
    session.flush()
    assignment = give_label(session, member)
    demonstration = session.scalars(
        select(Demonstration).where(Demonstration.assignment_id == assignment.id)
    ).one()
    snapshot = make_snapshot(session, study, SnapshotKind.demonstrations)
    row = SnapshotDemonstration(
        snapshot_id=snapshot.id,
        demonstration_id=demonstration.id,
        study_id=study.id,
        rehearsal=rehearsal,
        pool=Pool.training,
        purpose=Purpose.training,
        simulated=True,
    )
    session.add(row)
    if rehearsal:
        session.flush()
        assert session.scalar(select(func.count()).select_from(SnapshotDemonstration)) == 1
    else:
        with pytest.raises(IntegrityError, match="simulated_only_in_rehearsal"):
            session.flush()
