"""Leases, drafts, submits and skips on a real PostgreSQL, one and many at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import OUTBOX, make_engine
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.models import (
    Assignment,
    AssignmentState,
    Demonstration,
    LabelTask,
    LabelTaskState,
    Membership,
    Pool,
    PromptRating,
    Purpose,
    Ranking,
    RankingItem,
    Rating,
    Role,
    Round,
    User,
)
from app.services import assignments, drafts, label_queue, labels, people
from app.services.label_forms import FormProblems
from tests import factories as make


def task_of(session: Session, assignment: Assignment) -> LabelTask:
    return session.get_one(LabelTask, assignment.label_task_id, populate_existing=True)


def let_time_run_out(session: Session, assignment: Assignment) -> None:
    session.execute(
        update(Assignment)
        .where(Assignment.id == assignment.id)
        .values(lease_until=func.now() - timedelta(seconds=1))
    )
    session.expire(assignment)


def user_of(session: Session, membership: Membership) -> User:
    return session.get_one(User, membership.user_id)


def opened(session: Session, membership: Membership, assignment: Assignment) -> Assignment:
    """The assignment as its page would load it."""
    return assignments.find_assignment(session, user_of(session, membership), assignment.public_id)


@pytest.fixture(scope="module")
def wide_engine(clone_database: Callable[[], str]) -> Iterator[Engine]:
    """Forty connections at a time to a database of this file's own; each test has its own study."""
    engine = make_engine(clone_database(), pool_size=40)
    yield engine
    engine.dispose()


# What is handed out -----------------------------------------------------------------------------


def test_tasks_come_by_priority_then_age_and_never_twice(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    batch = make.make_demonstration_batch(session, study, 3, labels_wanted=2)
    first, second, third = make.tasks_of(session, batch)
    third.priority = -1
    session.flush()
    given = [make.give_label(session, labeler).label_task_id for _ in range(3)]
    assert given == [third.id, first.id, second.id]
    # Each task still wants a second label, but not from the same person.
    assert label_queue.lease_next(session, labeler) is None
    assert not label_queue.work_waits(session, labeler)


def test_a_live_lease_is_continued_and_renewed(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 2, lease_minutes=30)
    first = make.take_next(session, labeler)
    let_time_run_out(session, first)  # but no sweep has come by
    again = make.take_next(session, labeler)
    assert again.id == first.id
    left = assignments.lease_of(session, again).seconds_left
    assert left is not None
    assert 29 * 60 < left <= 30 * 60
    assert task_of(session, first).slots_taken == 1


def test_only_tasks_of_the_own_pool_are_handed_out(session: Session) -> None:
    study = make.make_study(session)
    heldout = make.make_labeler(session, study, pool=Pool.heldout)
    training = make.make_labeler(session, study)
    make.make_ranking_batch(session, study, 1)
    evaluation = make.make_ranking_batch(session, study, 1, pool=Pool.heldout)
    assert make.take_next(session, heldout).label_task.batch_id == evaluation.id
    assert make.take_next(session, training).purpose is Purpose.training
    assert make.take_next(session, training).label_task.batch_id != evaluation.id


def test_the_database_refuses_an_evaluation_on_a_training_labelers_screen(
    session: Session,
) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    task = make.tasks_of(session, make.make_ranking_batch(session, study, 1, pool=Pool.heldout))[0]
    session.add(
        Assignment(
            public_id="x",
            study_id=study.id,
            label_task_id=task.id,
            user_id=labeler.user_id,
            pool=Pool.training,
            purpose=Purpose.evaluation,
            lease_until=func.now(),
        )
    )
    with pytest.raises(IntegrityError, match="fk_assignments_label_task_id"):
        session.flush()


def test_the_database_allows_one_lease_in_a_study(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    tasks = make.tasks_of(session, make.make_demonstration_batch(session, study, 2))
    session.add_all(
        Assignment(
            public_id=f"x{task.id}",
            study_id=study.id,
            label_task_id=task.id,
            user_id=labeler.user_id,
            pool=task.pool,
            purpose=task.purpose,
            lease_until=func.now() + timedelta(hours=1),
        )
        for task in tasks
    )
    with pytest.raises(IntegrityError, match="uq_assignments_one_lease"):
        session.flush()


def test_researchers_have_no_tasks(session: Session) -> None:
    study = make.make_study(session)
    user = make.make_researcher(session, study)
    membership = session.get_one(Membership, (study.id, user.id))
    with pytest.raises(Forbidden):
        label_queue.lease_next(session, membership)


def test_completions_are_shuffled_for_each_labeler_and_the_order_is_stored(
    session: Session,
) -> None:
    study = make.make_study(session)
    make.make_ranking_batch(session, study, 1, k=9, labels_wanted=4)
    orders = []
    for _ in range(4):
        assignment = make.take_next(session, make.make_labeler(session, study))
        assert [item.position for item in assignment.items] == list(range(9))
        assert assignments.letters(assignment) == list("ABCDEFGHI")
        orders.append(tuple(item.completion_id for item in assignment.items))
    assert len({frozenset(order) for order in orders}) == 1
    assert len(set(orders)) > 1  # by chance all alike once in 9!³ ≈ 5e16 times


# Time runs out ----------------------------------------------------------------------------------


def test_an_expired_lease_is_returned_and_comes_back_to_its_owner_with_the_draft(
    session: Session,
) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 1)
    assignment = make.take_next(session, labeler)
    drafts.save_draft(session, assignment, {"text": "Half a sen"})
    let_time_run_out(session, assignment)
    assert assignments.return_expired(session) == 1
    assert assignments.return_expired(session) == 0
    assert assignment.state is AssignmentState.returned
    assert task_of(session, assignment).slots_taken == 0
    again = make.take_next(session, labeler)
    assert again.id == assignment.id
    assert again.draft == {"text": "Half a sen"}
    assert task_of(session, again).slots_taken == 1


def test_leases_that_still_run_are_left_alone(session: Session) -> None:
    study = make.make_study(session)
    make.make_demonstration_batch(session, study, 2, labels_wanted=2)
    leased = [make.take_next(session, make.make_labeler(session, study)) for _ in range(3)]
    let_time_run_out(session, leased[0])
    let_time_run_out(session, leased[1])  # both on the first task
    assert assignments.return_expired(session) == 2
    assert [task_of(session, assignment).slots_taken for assignment in leased] == [0, 0, 1]


def test_a_late_submit_counts_while_the_slot_is_free(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 1)
    assignment = make.take_next(session, labeler)
    let_time_run_out(session, assignment)
    assignments.return_expired(session)
    assignment = opened(session, labeler, assignment)
    labels.submit(session, assignment, user_of(session, labeler), {"text": "Late but whole."})
    task = task_of(session, assignment)
    assert (task.labels_done, task.slots_taken, task.state) == (1, 1, LabelTaskState.complete)


def test_a_late_submit_is_refused_once_somebody_else_has_the_slot(session: Session) -> None:
    study = make.make_study(session)
    slow, quick = make.make_labeler(session, study), make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 1)
    assignment = make.take_next(session, slow)
    let_time_run_out(session, assignment)
    assignments.return_expired(session)
    make.give_label(session, quick)
    assignment = opened(session, slow, assignment)
    with pytest.raises(labels.LeaseLost):
        labels.submit(session, assignment, user_of(session, slow), {"text": "Too late."})
    assert session.scalar(select(func.count()).select_from(Demonstration)) == 1
    lease = drafts.save_draft(session, assignment, {"text": "Too late."})
    assert lease.seconds_left is None
    assert assignment.draft == {"text": "Too late."}


# Drafts -----------------------------------------------------------------------------------------


def test_a_draft_keeps_the_form_and_renews_the_lease(session: Session) -> None:
    study = make.make_study(session)
    make.make_ranking_batch(session, study, 1)
    labeler = make.make_labeler(session, study)
    assignment = make.take_next(session, labeler)
    let_time_run_out(session, assignment)
    assignment = opened(session, labeler, assignment)
    lease = drafts.save_draft(
        session,
        assignment,
        {"tier_A": "2", "overall_B": "", "tier_Z": "1", "role": "researcher"},
    )
    assert assignment.draft == {"tier_A": "2"}  # neither empty nor unknown fields
    assert assignment.draft_saved_at is not None
    assert lease.seconds_left is not None
    assert lease.seconds_left > 3500


def test_a_draft_has_a_limit_and_ends_with_the_submit(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 1)
    assignment = make.take_next(session, labeler)
    with pytest.raises(drafts.DraftTooLarge):
        drafts.save_draft(session, assignment, {"text": "x" * 400_001})
    labels.submit(session, assignment, user_of(session, labeler), {"text": "Done."})
    with pytest.raises(Conflict):
        drafts.save_draft(session, assignment, {"text": "and more"})


# Submits ----------------------------------------------------------------------------------------


def test_a_demonstration_is_stored_with_all_that_it_comes_from(session: Session) -> None:
    study = make.make_study(session, rehearsal=True)
    labeler = make.make_labeler(session, study, simulated=True)
    prompt = make.make_prompt(session, study)
    make.make_demonstration_batch(session, study, [prompt])
    assignment = make.give_label(
        session, labeler, {"text": "\n\n  Red,\nthen orange.  \n", "active_seconds": "12.5"}
    )
    stored = session.scalars(select(Demonstration)).one()
    assert stored.text == "  Red,\nthen orange."
    assert (stored.prompt_id, stored.user_id) == (prompt.id, labeler.user_id)
    assert (stored.pool, stored.purpose) == (Pool.training, Purpose.training)
    assert stored.simulated
    assert assignment.active_seconds == 12.5
    assert (assignment.draft, assignment.draft_saved_at) == (None, None)
    now = datetime.now(UTC)
    session.refresh(assignment, ["submitted_at"])
    assert assignment.submitted_at is not None
    assert abs(assignment.submitted_at - now) < timedelta(minutes=5)


def test_tiers_lose_their_gaps_and_keep_their_ties(session: Session) -> None:
    study = make.make_study(session)
    make.make_ranking_batch(session, study, 1, k=4)
    labeler = make.make_labeler(session, study)
    assignment = make.take_next(session, labeler)
    shown = {item.letter: item.completion_id for item in assignment.items}
    fields = {"tier_A": "3", "tier_B": "1", "tier_C": "3", "tier_D": "4"}
    labels.submit(session, assignment, user_of(session, labeler), fields)
    tiers = dict(session.execute(select(RankingItem.completion_id, RankingItem.tier)).all())
    assert tiers == {shown["B"]: 1, shown["A"]: 2, shown["C"]: 2, shown["D"]: 3}


def test_only_what_was_answered_is_stored(session: Session) -> None:
    study = make.make_study(session)
    prompt = make.make_prompt(session, study, closed_domain=True, constraint_text="")
    make.make_ranking_batch(session, study, [prompt], k=4)
    labeler = make.make_labeler(session, study)
    assignment = make.take_next(session, labeler)
    shown = {item.letter: item.completion_id for item in assignment.items}
    answers = {
        "tier_A": "1", "tier_B": "1", "tier_C": "2", "tier_D": "4",
        "overall_A": "7", "overall_B": "",
        "hallucination_B": "no", "satisfies_constraint_B": "yes", "harmful_advice_B": "yes",
        "sexual_content_C": "", "prompt_ambiguous": "no",
    }  # fmt: skip
    labels.submit(session, assignment, user_of(session, labeler), answers)
    ratings = {rating.completion_id: rating for rating in session.scalars(select(Rating))}
    assert set(ratings) == {shown["A"], shown["B"]}
    assert ratings[shown["A"]].overall == 7
    assert ratings[shown["A"]].harmful_advice is None
    b = ratings[shown["B"]]
    assert (b.overall, b.hallucination, b.harmful_advice) == (None, False, True)
    assert b.satisfies_constraint is None  # the prompt names no constraint: it was not asked
    about = session.scalars(select(PromptRating)).one()
    assert (about.ambiguous, about.sensitive_content) == (False, None)


@pytest.mark.parametrize(
    ("about", "hallucination", "satisfies"),
    [
        ({}, None, None),
        ({"closed_domain": "no", "other_constraints": "no"}, None, None),
        ({"closed_domain": "yes", "safety_constraints": "no"}, True, None),
        ({"other_constraints": "yes"}, None, False),
        ({"safety_constraints": "yes", "other_constraints": "no"}, None, False),
    ],
)
def test_a_question_of_which_nobody_knew_whether_it_applies_counts_upon_a_yes(
    session: Session, about: dict[str, str], hallucination: bool | None, satisfies: bool | None
) -> None:
    study = make.make_study(session)
    make.make_ranking_batch(session, study, 1, k=2)
    labeler = make.make_labeler(session, study)
    answers = {
        "tier_A": "1", "tier_B": "2", "overall_A": "4",
        "hallucination_A": "yes", "satisfies_constraint_A": "no",
    }  # fmt: skip
    answers |= {f"prompt_{question}": answer for question, answer in about.items()}
    make.give_label(session, labeler, answers)
    rating = session.scalars(select(Rating)).one()
    assert (rating.overall, rating.hallucination, rating.satisfies_constraint) == (
        4,
        hallucination,
        satisfies,
    )


def test_what_is_known_of_the_prompt_counts_whatever_the_labeler_says(session: Session) -> None:
    study = make.make_study(session)
    prompt = make.make_prompt(session, study, closed_domain=True, constraint_text="")
    make.make_ranking_batch(session, study, [prompt], k=2)
    answers = {
        "tier_A": "1", "tier_B": "2", "hallucination_A": "no", "satisfies_constraint_A": "yes",
        "prompt_closed_domain": "no", "prompt_other_constraints": "yes",
    }  # fmt: skip
    make.give_label(session, make.make_labeler(session, study), answers)
    rating = session.scalars(select(Rating)).one()
    assert (rating.hallucination, rating.satisfies_constraint) == (False, None)


def test_an_answer_that_does_not_count_may_say_anything(session: Session) -> None:
    study = make.make_study(session)
    make.make_ranking_batch(session, study, 1, k=2)
    answers = {"tier_A": "1", "tier_B": "2", "hallucination_A": "maybe"}
    make.give_label(session, make.make_labeler(session, study), answers)
    assert session.scalars(select(Rating)).all() == []


def test_a_form_with_gaps_stores_nothing_and_names_each(session: Session) -> None:
    study = make.make_study(session)
    make.make_ranking_batch(session, study, 1, k=4)
    labeler = make.make_labeler(session, study)
    assignment = make.take_next(session, labeler)
    bad = {
        "tier_A": "1", "tier_B": "5", "tier_C": "", "overall_A": "8", "sexual_content_D": "maybe",
        "prompt_ambiguous": "1",
    }  # fmt: skip
    with pytest.raises(FormProblems) as caught:
        labels.submit(session, assignment, user_of(session, labeler), bad)
    assert set(caught.value.problems) == {
        "tier_B", "tier_C", "tier_D", "overall_A", "sexual_content_D", "prompt_ambiguous",
    }  # fmt: skip
    assert session.scalar(select(func.count()).select_from(Ranking)) == 0
    assert assignment.state is AssignmentState.leased


@pytest.mark.parametrize("text", ["", " \n\t ", "x" * 32_001])
def test_a_demonstration_has_text_and_not_too_much(session: Session, text: str) -> None:
    study = make.make_study(session)
    make.make_demonstration_batch(session, study, 1)
    with pytest.raises(FormProblems):
        make.give_label(session, make.make_labeler(session, study), {"text": text})


def test_a_second_submit_changes_nothing(session: Session) -> None:
    study = make.make_study(session)
    labeler = make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 1, labels_wanted=2)
    assignment = make.give_label(session, labeler, {"text": "First."})
    labels.submit(session, assignment, user_of(session, labeler), {"text": "Second."})
    assert session.scalars(select(Demonstration.text)).all() == ["First."]
    assert task_of(session, assignment).labels_done == 1


def test_a_skip_frees_the_slot_for_others_only(session: Session) -> None:
    study = make.make_study(session)
    labeler, other = make.make_labeler(session, study), make.make_labeler(session, study)
    make.make_demonstration_batch(session, study, 1)
    assignment = make.take_next(session, labeler)
    with pytest.raises(Invalid):
        assignments.skip(session, assignment, "bored")
    assignments.skip(session, assignment, "language")
    assignments.skip(session, assignment, "language")  # a second press
    assert task_of(session, assignment).slots_taken == 0
    assert label_queue.lease_next(session, labeler) is None
    with pytest.raises(Conflict):
        labels.submit(session, assignment, user_of(session, labeler), {"text": "After all."})
    make.give_label(session, other)
    assert task_of(session, assignment).state is LabelTaskState.complete


def test_nobody_sees_the_assignment_of_another(session: Session) -> None:
    study = make.make_study(session)
    make.make_demonstration_batch(session, study, 1)
    assignment = make.take_next(session, make.make_labeler(session, study))
    stranger = user_of(session, make.make_labeler(session, study))
    with pytest.raises(NotFound):
        assignments.find_assignment(session, stranger, assignment.public_id)


def test_the_round_is_woken_by_the_last_label_of_a_batch(session: Session) -> None:
    study = make.make_study(session)
    round_ = Round(study_id=study.id, number=1, stage="collect", seed=1, config={})
    session.add(round_)
    session.flush()
    make.make_demonstration_batch(session, study, 2, labels_wanted=2, round_id=round_.id)
    one, two = make.make_labeler(session, study), make.make_labeler(session, study)
    for labeler in (one, two, one):
        make.give_label(session, labeler)
        assert OUTBOX not in session.info
    make.give_label(session, two)
    assert session.info.pop(OUTBOX) == [("advance_round", (round_.id,))]


def test_labels_of_today_are_counted_by_study(session: Session) -> None:
    study, elsewhere = make.make_study(session), make.make_study(session, "Elsewhere")
    labeler = make.make_labeler(session, study)
    there = people.add_member(session, elsewhere, user_of(session, labeler), Role.labeler)
    make.make_demonstration_batch(session, study, 3)
    make.make_demonstration_batch(session, elsewhere, 1)
    old = make.give_label(session, labeler)
    old.submitted_at = func.now() - timedelta(days=1)
    make.give_label(session, labeler)
    make.give_label(session, there)
    make.take_next(session, labeler)
    assert assignments.submitted_today(session, labeler) == 1


# Many at a time ---------------------------------------------------------------------------------


def lease_at_once(engine: Engine, memberships: list[tuple[int, int]]) -> list[int | None]:
    """Every membership takes its next task on a connection of its own, all released together.

    Returns the task ids, None where there was no work.
    """
    gate = threading.Barrier(len(memberships))

    def take(key: tuple[int, int]) -> int | None:
        with Session(engine) as session:
            membership = session.get_one(Membership, key)
            session.commit()
            gate.wait(timeout=60)
            assignment = label_queue.lease_next(session, membership)
            task_id = None if assignment is None else assignment.label_task_id
            session.commit()
            return task_id

    with ThreadPoolExecutor(len(memberships)) as pool:
        return list(pool.map(take, memberships))


def test_forty_at_once_get_forty_slots(wide_engine: Engine) -> None:
    layouts = [(40, 1), (10, 4), (2, 20)]
    with Session(wide_engine) as session:
        users = [make.make_user(session) for _ in range(40)]
        keys = []
        for tasks, labels_wanted in layouts:
            study = make.make_study(session)
            make.make_demonstration_batch(session, study, tasks, labels_wanted=labels_wanted)
            for user in users:
                people.add_member(session, study, user, Role.labeler)
            keys.append([(study.id, user.id) for user in users])
        session.commit()
    for (tasks, labels_wanted), members in zip(layouts, keys, strict=True):
        given = lease_at_once(wide_engine, members)
        assert None not in given
        assert sorted(Counter(given).values()) == [labels_wanted] * tasks


def test_of_forty_for_seven_slots_seven_get_one(wide_engine: Engine) -> None:
    with Session(wide_engine) as session:
        study = make.make_study(session)
        labelers = [make.make_labeler(session, study) for _ in range(40)]
        make.make_demonstration_batch(session, study, 7)
        keys = [(labeler.study_id, labeler.user_id) for labeler in labelers]
        session.commit()
    given = lease_at_once(wide_engine, keys)
    taken = [task for task in given if task is not None]
    assert len(taken) == len(set(taken)) == 7


def test_two_tabs_of_one_person_end_with_the_same_lease(wide_engine: Engine) -> None:
    with Session(wide_engine) as session:
        study = make.make_study(session)
        labeler = make.make_labeler(session, study)
        make.make_demonstration_batch(session, study, 5)
        key = (labeler.study_id, labeler.user_id)
        session.commit()
    given = lease_at_once(wide_engine, [key] * 6)
    assert len(set(given)) == 1
    with Session(wide_engine) as session:
        slots = select(func.sum(LabelTask.slots_taken)).where(LabelTask.study_id == key[0])
        assert session.scalar(slots) == 1


def test_the_same_form_posted_six_times_at_once_is_one_label(wide_engine: Engine) -> None:
    with Session(wide_engine) as session:
        study = make.make_study(session)
        labeler = make.make_labeler(session, study)
        make.make_demonstration_batch(session, study, 1, labels_wanted=3)
        public_id, user_id = make.take_next(session, labeler).public_id, labeler.user_id
        study_id = study.id
        session.commit()
    gate = threading.Barrier(6)

    def post(number: int) -> None:
        with Session(wide_engine) as session:
            user = session.get_one(User, user_id)
            assignment = assignments.find_assignment(session, user, public_id)
            gate.wait(timeout=60)
            labels.submit(session, assignment, user, {"text": f"Press {number}"})
            session.commit()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(post, range(6)))
    with Session(wide_engine) as session:
        stored = select(func.count()).where(Demonstration.study_id == study_id)
        assert session.scalar(stored) == 1
        done = select(LabelTask.labels_done).where(LabelTask.study_id == study_id)
        assert session.scalar(done) == 1


def test_two_last_labelers_at_once_wake_the_round(wide_engine: Engine) -> None:
    """Neither may believe that the other's task is still open."""
    with Session(wide_engine) as session:
        study = make.make_study(session)
        round_ = Round(study_id=study.id, number=1, stage="collect", seed=1, config={})
        session.add(round_)
        session.flush()
        make.make_demonstration_batch(session, study, 8, round_id=round_.id)
        labelers = [make.make_labeler(session, study) for _ in range(8)]
        taken = [(make.take_next(session, one).public_id, one.user_id) for one in labelers]
        session.commit()
    gate = threading.Barrier(8)

    def finish(key: tuple[str, int]) -> int:
        with Session(wide_engine) as session:
            user = session.get_one(User, key[1])
            assignment = assignments.find_assignment(session, user, key[0])
            gate.wait(timeout=60)
            labels.submit(session, assignment, user, {"text": "Done."})
            session.commit()
            return len(session.info.get(OUTBOX, []))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(finish, taken)) == 1
