"""The task after the one on the screen: reserved, promoted, given back, and one hand at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from app.db import make_engine
from app.models import (
    Assignment,
    AssignmentState,
    GuidelineVersion,
    LabelTask,
    LabelTaskState,
    Membership,
    User,
)
from app.services import acknowledgements, assignments, drafts, label_queue, labels
from tests import factories as make

LABELERS = 200


@pytest.fixture(scope="module")
def wide_engine(clone_database: Callable[[], str]) -> Iterator[Engine]:
    """Eighty connections at a time: a server allows a hundred unless it is told otherwise."""
    engine = make_engine(clone_database(), pool_size=80, max_overflow=0, pool_timeout=120)
    yield engine
    engine.dispose()


def user_of(session: Session, membership: Membership) -> User:
    return session.get_one(User, membership.user_id)


def ahead_of(session: Session, membership: Membership) -> Assignment:
    reserved = label_queue.reserve_ahead(session, membership)
    assert reserved is not None
    return reserved


def let_time_run_out(session: Session, membership: Membership) -> None:
    session.execute(
        update(Assignment)
        .where(Assignment.user_id == membership.user_id)
        .values(lease_until=func.now() - timedelta(seconds=1))
        .execution_options(synchronize_session=False)
    )
    for row in session.identity_map.values():
        if isinstance(row, Assignment):
            session.refresh(row, ["lease_until"])


def slots(session: Session) -> list[int]:
    return list(session.scalars(select(LabelTask.slots_taken).order_by(LabelTask.id)))


def publish_guidelines(session: Session, membership: Membership, version: int = 2) -> None:
    """A version that is newer than the membership, within one transaction's single now()."""
    session.add(
        GuidelineVersion(
            study_id=membership.study_id,
            version=version,
            markdown="New",
            created_at=func.now() + timedelta(seconds=version),
        )
    )
    session.flush()


def test_the_next_task_is_reserved_once_and_becomes_the_lease(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 3)
    first = make.take_next(session, labeler)
    ahead = ahead_of(session, labeler)
    assert ahead.state is AssignmentState.reserved
    assert ahead_of(session, labeler).id == ahead.id
    assert ahead.lease_until == first.lease_until
    assert slots(session) == [1, 1, 0]
    # Another labeler is not offered it.
    other = make.take_next(session, make.make_labeler(session, study))
    assert other.label_task_id not in {first.label_task_id, ahead.label_task_id}

    labels.submit(session, first, user_of(session, labeler), {"text": "One."})
    following = label_queue.go_on(session, labeler)
    assert following is not None
    assert (following.id, following.state) == (ahead.id, AssignmentState.leased)
    assert slots(session) == [1, 1, 1]
    again = label_queue.lease_next(session, labeler)
    assert again is following


def test_without_a_live_lease_nothing_is_reserved(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 2)
    assert label_queue.reserve_ahead(session, labeler) is None
    make.take_next(session, labeler)
    let_time_run_out(session, labeler)
    assert label_queue.reserve_ahead(session, labeler) is None
    assert slots(session) == [1, 0]


def test_the_last_task_has_none_after_it(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 1, labels_wanted=5)
    make.take_next(session, labeler)
    assert label_queue.reserve_ahead(session, labeler) is None


def test_without_a_script_the_reserved_task_comes_next_too(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 2)
    first = make.take_next(session, labeler)
    ahead = ahead_of(session, labeler)
    assignments.skip(session, first, "language")
    assert label_queue.work_waits(session, labeler)
    assert make.take_next(session, labeler).id == ahead.id
    assert slots(session) == [0, 1]


def test_a_reservation_lives_as_long_as_the_lease_before_it(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 2)
    first = make.take_next(session, labeler)
    ahead = ahead_of(session, labeler)
    let_time_run_out(session, labeler)
    drafts.save_draft(session, first, {"text": "Still here"})  # before a sweep came by
    session.refresh(first, ["lease_until"])
    session.refresh(ahead, ["lease_until"])
    assert ahead.lease_until == first.lease_until
    assert assignments.return_expired(session) == 0
    let_time_run_out(session, labeler)
    assert assignments.return_expired(session) == 2
    assert slots(session) == [0, 0]
    assert ahead.state is AssignmentState.returned
    # Back at work, what was begun comes first, and the other is ahead again.
    assert make.take_next(session, labeler).id == first.id
    assert ahead_of(session, labeler).id == ahead.id


def test_what_was_begun_comes_back_before_tasks_of_higher_priority(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    first, second = make.tasks_of(session, make.make_demonstration_batch(session, study, 2))
    assignment = make.take_next(session, labeler)
    drafts.save_draft(session, assignment, {"text": "Half a sen"})
    let_time_run_out(session, labeler)
    assignments.return_expired(session)
    second.priority = -1
    session.flush()
    again = make.take_next(session, labeler)
    assert (again.label_task_id, again.draft) == (first.id, {"text": "Half a sen"})


def test_a_withdrawn_task_is_not_shown_after_all(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    _, second, third = make.tasks_of(session, make.make_demonstration_batch(session, study, 3))
    first = make.take_next(session, labeler)
    assert ahead_of(session, labeler).label_task_id == second.id
    second.state = LabelTaskState.closed
    session.flush()
    labels.submit(session, first, user_of(session, labeler), {"text": "One."})
    assert label_queue.go_on(session, labeler) is None
    assert make.take_next(session, labeler).label_task_id == third.id
    assert slots(session) == [1, 0, 1]


def test_the_database_allows_one_reservation_in_a_study(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 3)
    make.take_next(session, labeler)
    ahead_of(session, labeler)
    reserved = select(func.count()).where(Assignment.state == AssignmentState.reserved)
    assert session.scalar(reserved) == 1


# Guidelines that changed ------------------------------------------------------------------------


def test_changed_guidelines_are_read_before_the_next_task(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 3)
    first = make.take_next(session, labeler)
    ahead = ahead_of(session, labeler)
    publish_guidelines(session, labeler)
    assert label_queue.lease_next(session, labeler) is not None  # what is leased can be finished
    labels.submit(session, first, user_of(session, labeler), {"text": "One."})
    assert label_queue.go_on(session, labeler) is None
    with pytest.raises(label_queue.GuidelinesUnread):
        label_queue.lease_next(session, labeler)
    acknowledgements.acknowledge(session, labeler, 1)  # not the newest
    with pytest.raises(label_queue.GuidelinesUnread):
        label_queue.lease_next(session, labeler)
    acknowledgements.acknowledge(session, labeler, 2)
    acknowledgements.acknowledge(session, labeler, 2)  # a second press
    assert make.take_next(session, labeler).id == ahead.id
    publish_guidelines(session, labeler, 3)
    assert label_queue.reserve_ahead(session, labeler) is None


def test_a_labeler_who_joins_later_starts_with_the_newest_guidelines(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    publish_guidelines(session, labeler)
    labeler.created_at = func.now() + timedelta(seconds=10)
    session.flush()
    make.make_demonstration_batch(session, study, 1)
    assert make.take_next(session, labeler) is not None


# Many at a time ---------------------------------------------------------------------------------


def all_at_once(engine: Engine, keys: list[tuple[int, int]], act: str) -> list[int | None]:
    """Every labeler calls `label_queue.<act>` in a thread and transaction of its own, together.

    Returns the task ids, None where there was none.
    """
    gate = threading.Barrier(len(keys))

    def run(key: tuple[int, int]) -> int | None:
        with Session(engine) as session:
            membership = session.get_one(Membership, key)
            session.commit()  # the connection goes back; the membership stays loaded
            gate.wait(timeout=120)
            assignment = getattr(label_queue, act)(session, membership)
            task_id = None if assignment is None else assignment.label_task_id
            session.commit()
            return task_id

    with ThreadPoolExecutor(len(keys)) as pool:
        return list(pool.map(run, keys))


def test_two_hundred_at_once_get_two_hundred_slots_and_as_many_ahead(wide_engine: Engine) -> None:
    with Session(wide_engine) as session:
        study = make.make_study(session)
        make.make_demonstration_batch(session, study, 2 * LABELERS)
        keys = [(study.id, one.user_id) for one in make.make_labelers(session, study, LABELERS)]
        session.commit()
    leased = all_at_once(wide_engine, keys, "lease_next")
    assert None not in leased
    assert len(set(leased)) == LABELERS
    ahead = all_at_once(wide_engine, keys, "reserve_ahead")
    assert None not in ahead
    assert len(set(leased) | set(ahead)) == 2 * LABELERS
    with Session(wide_engine) as session:
        taken = select(LabelTask.slots_taken, func.count()).where(LabelTask.study_id == keys[0][0])
        assert session.execute(taken.group_by(LabelTask.slots_taken)).all() == [(1, 2 * LABELERS)]


def test_two_hundred_share_tasks_that_want_five_labels_each(wide_engine: Engine) -> None:
    """Forty tasks, five different people on each."""
    with Session(wide_engine) as session:
        study = make.make_study(session)
        make.make_demonstration_batch(session, study, LABELERS // 5, labels_wanted=5)
        keys = [(study.id, one.user_id) for one in make.make_labelers(session, study, LABELERS)]
        session.commit()
    leased = all_at_once(wide_engine, keys, "lease_next")
    assert sorted(leased.count(task) for task in set(leased)) == [5] * (LABELERS // 5)


def test_labelers_who_submit_at_once_and_go_on_do_not_wait_for_each_other_in_a_ring(
    wide_engine: Engine,
) -> None:
    """Each has on the screen what the other has ahead: the locks are taken in one order."""
    with Session(wide_engine) as session:
        study = make.make_study(session)
        make.make_demonstration_batch(session, study, 2, labels_wanted=40)
        labelers = make.make_labelers(session, study, 40)
        one, two = sorted(session.scalars(select(LabelTask.id)))[-2:]
        work = []
        for place, labeler in enumerate(labelers):
            if place % 2:  # every second one begins with the second task
                session.execute(update(LabelTask).where(LabelTask.id == two).values(priority=-1))
            first = make.take_next(session, labeler)
            assert ahead_of(session, labeler).label_task_id != first.label_task_id
            work.append((first.public_id, labeler.user_id))
            session.execute(update(LabelTask).where(LabelTask.id == two).values(priority=0))
        study_id = study.id
        session.commit()
    gate = threading.Barrier(len(work))

    def finish(key: tuple[str, int]) -> int:
        with Session(wide_engine) as session:
            user = session.get_one(User, key[1])
            assignment = assignments.find_assignment(session, user, key[0])
            membership = session.get_one(Membership, (study_id, key[1]))
            session.commit()
            gate.wait(timeout=120)
            labels.submit(session, assignment, user, {"text": "Done."})
            following = label_queue.go_on(session, membership)
            assert following is not None
            task_id = following.label_task_id
            session.commit()
            return task_id

    with ThreadPoolExecutor(len(work)) as pool:
        following = list(pool.map(finish, work))
    assert sorted(following) == [one] * 20 + [two] * 20
    with Session(wide_engine) as session:
        rows = select(LabelTask.labels_done, LabelTask.slots_taken).where(
            LabelTask.id.in_([one, two])
        )
        assert session.execute(rows).all() == [(20, 40), (20, 40)]
