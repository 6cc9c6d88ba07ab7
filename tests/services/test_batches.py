"""Batches: which prompts and completions go to labelers, and how far they are."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event, func, select, update
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import (
    Completion,
    Demonstration,
    LabelKind,
    LabelTask,
    LabelTaskCompletion,
    LabelTaskState,
    Policy,
    Pool,
    Prompt,
    Purpose,
    Split,
    Study,
)
from app.services.batch_progress import BatchProgress, batch_progress, batches_with_progress
from app.services.batches import (
    create_demonstration_batch,
    create_ranking_batch,
    ranking_batch_from_policies,
)
from app.services.label_queue import lease_next, work_waits
from tests.factories import (
    give_label,
    make_completions,
    make_labeler,
    make_prompt,
    make_study,
    take_next,
    tasks_of,
)


@pytest.fixture
def study(session: Session) -> Study:
    return make_study(session)


def completed_prompts(
    session: Session, study: Study, count: int, k: int, split: Split = Split.train
) -> list[Prompt]:
    prompts = [make_prompt(session, study, split=split) for _ in range(count)]
    for prompt in prompts:
        make_completions(session, prompt, k)
    return prompts


def policies_of(session: Session, study: Study) -> list[Policy]:
    return list(
        session.scalars(select(Policy).where(Policy.study_id == study.id).order_by(Policy.id))
    )


def shown(session: Session, task: LabelTask) -> set[int]:
    return set(
        session.scalars(
            select(LabelTaskCompletion.completion_id).where(
                LabelTaskCompletion.label_task_id == task.id
            )
        )
    )


def test_a_demonstration_batch_takes_prompts_that_nobody_has_written_for(
    session: Session, study: Study
) -> None:
    known = {make_prompt(session, study, split=split).id for split in (Split.train, Split.valid)}
    make_prompt(session, study, split=Split.test)
    first = create_demonstration_batch(session, study, name="one", count=1, labels_per_task=2)
    second = create_demonstration_batch(session, study, name="two", count=1)
    tasks = tasks_of(session, first) + tasks_of(session, second)
    assert {task.prompt_id for task in tasks} == known  # each once, the test prompt not at all
    assert [task.labels_wanted for task in tasks] == [2, 1]
    with pytest.raises(Invalid, match="0 prompts of the chosen splits have no demonstration task"):
        create_demonstration_batch(session, study, name="three", count=1)
    tests = create_demonstration_batch(session, study, name="4", count=1, splits=[Split.test])
    assert len(tasks_of(session, tests)) == 1


def test_a_closed_task_frees_its_prompt(session: Session, study: Study) -> None:
    make_prompt(session, study)
    batch = create_demonstration_batch(session, study, name="one", count=1)
    tasks_of(session, batch)[0].state = LabelTaskState.closed
    create_demonstration_batch(session, study, name="two", count=1)


def test_prompts_of_another_study_are_refused(session: Session, study: Study) -> None:
    other = make_study(session, "Another")
    prompt = make_prompt(session, other)
    with pytest.raises(Invalid, match="not in A study"):
        create_demonstration_batch(session, study, name="x", prompts=[prompt.id])
    completions = make_completions(session, prompt, 4)
    with pytest.raises(Invalid, match="Some completions are not of prompt"):
        create_ranking_batch(
            session, study, name="x", completions={prompt.id: [c.id for c in completions]}
        )


def test_a_ranking_batch_shows_what_it_was_given(session: Session, study: Study) -> None:
    prompts = completed_prompts(session, study, 3, 4)
    given = {
        prompt.id: list(
            session.scalars(select(Completion.id).where(Completion.prompt_id == prompt.id))
        )
        for prompt in reversed(prompts)
    }
    batch = create_ranking_batch(
        session, study, name=" a name ", completions=given, labels_wanted=3, priority=-1
    )
    assert (batch.name, batch.kind, batch.rate_completions) == ("a name", LabelKind.ranking, True)
    tasks = tasks_of(session, batch)
    assert [task.prompt_id for task in tasks] == list(given)  # handed out in the order given
    assert {(task.labels_wanted, task.priority) for task in tasks} == {(3, -1)}
    assert {task.prompt_id: shown(session, task) for task in tasks} == {
        prompt_id: set(ids) for prompt_id, ids in given.items()
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ids: ids[:1], r"2 to 9 completions: prompt [0-9]+ comes with 1"),
        (lambda ids: ids[:2] + ids[:1], "named twice"),
        (lambda ids: [*ids[:2], 999_999_999], "Some completions are not of prompt"),
    ],
)
def test_wrong_completions_are_refused(
    session: Session, study: Study, change: object, reason: str
) -> None:
    prompt = completed_prompts(session, study, 1, 4)[0]
    ids = list(session.scalars(select(Completion.id).where(Completion.prompt_id == prompt.id)))
    assert callable(change)
    with pytest.raises(Invalid, match=reason):
        create_ranking_batch(session, study, name="x", completions={prompt.id: change(ids)})


def test_heldout_labelers_never_train(session: Session, study: Study) -> None:
    make_prompt(session, study)
    with pytest.raises(Invalid, match="never train"):
        create_demonstration_batch(session, study, name="x", count=1, pool=Pool.heldout)


def test_rankings_from_policies(session: Session, study: Study) -> None:
    full = completed_prompts(session, study, 3, 9)
    completed_prompts(session, study, 2, 3)  # too few completions for k_min
    completed_prompts(session, study, 2, 9, split=Split.test)
    make_completions(session, full[0], 9)  # newer ones of the same policies
    policies = policies_of(session, study)
    batch = ranking_batch_from_policies(session, study, policies, name="x", k_max=6)
    tasks = tasks_of(session, batch)
    assert {task.prompt_id for task in tasks} == {prompt.id for prompt in full}
    for task in tasks:
        rows = session.execute(
            select(Completion.policy_id, Completion.id).where(
                Completion.id.in_(shown(session, task))
            )
        ).all()
        assert len({policy_id for policy_id, _ in rows}) == len(rows) == 6
    newest = select(func.max(Completion.id)).where(Completion.prompt_id == full[0].id)
    task = next(task for task in tasks if task.prompt_id == full[0].id)
    assert min(shown(session, task)) > session.scalars(newest).one() - 9

    with pytest.raises(Invalid, match=r"3 prompts of the chosen splits .* 4 were asked for"):
        ranking_batch_from_policies(session, study, policies, name="x", count=4)
    with pytest.raises(Invalid, match="Choose at least 4 policies"):
        ranking_batch_from_policies(session, study, policies[:3], name="x")
    with pytest.raises(Invalid, match="between 2 and 9"):
        ranking_batch_from_policies(session, study, policies, name="x", k_max=10)


def test_an_evaluation_of_two_policies_is_on_test_prompts(session: Session, study: Study) -> None:
    completed_prompts(session, study, 2, 4)
    tests = completed_prompts(session, study, 2, 4, split=Split.test)
    batch = ranking_batch_from_policies(
        session,
        study,
        policies_of(session, study)[:2],
        name="x",
        k_min=2,
        k_max=2,
        purpose=Purpose.evaluation,
        pool=Pool.heldout,
    )
    tasks = tasks_of(session, batch)
    assert {task.prompt_id for task in tasks} == {prompt.id for prompt in tests}
    assert all(len(shown(session, task)) == 2 for task in tasks)


def test_the_choice_is_the_seeds(session: Session, study: Study) -> None:
    completed_prompts(session, study, 8, 9)
    policies = policies_of(session, study)

    def choice(seed: int) -> list[tuple[int, set[int]]]:
        batch = ranking_batch_from_policies(
            session, study, policies, name="x", k_max=4, count=5, seed=seed
        )
        return [(task.prompt_id, shown(session, task)) for task in tasks_of(session, batch)]

    assert choice(1) == choice(1)
    assert choice(1) != choice(2)


def test_progress_counts_labels_as_they_come(session: Session, study: Study) -> None:
    for _ in range(3):
        make_prompt(session, study)
    batch = create_demonstration_batch(session, study, name="x", count=3, labels_per_task=2)
    tasks_of(session, batch)[2].state = LabelTaskState.closed
    session.flush()
    first, second = (make_labeler(session, study) for _ in range(2))
    give_label(session, first)
    give_label(session, second)
    give_label(session, first)
    take_next(session, second)
    session.expire_all()
    progress = batch_progress(session, batch)
    assert progress == BatchProgress(
        tasks=2, tasks_complete=1, tasks_closed=1, labels_wanted=4, labels_done=3, on_screen=1
    )
    assert (progress.fraction, progress.finished) == (0.75, False)
    assert batches_with_progress(session, study) == [(batch, progress)]


def test_a_large_batch_takes_few_statements(session: Session, study: Study) -> None:
    prompts = completed_prompts(session, study, 60, 4)
    statements: list[str] = []
    engine = session.get_bind()
    assert prompts

    def note(*args: object) -> None:
        statements.append(str(args[2]))

    event.listen(engine, "before_cursor_execute", note)
    try:
        ranking_batch_from_policies(session, study, policies_of(session, study), name="x")
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len(statements) <= 10


def test_demonstrations_are_ranked_among_completions_but_not_by_who_wrote_them(
    session: Session, study: Study
) -> None:
    shown_to, plain = completed_prompts(session, study, 2, 3)
    writer, other = (make_labeler(session, study) for _ in range(2))
    create_demonstration_batch(session, study, name="d", prompts=[shown_to.id], labels_per_task=2)
    for labeler, text in ((other, "an older one"), (writer, "the newest one")):
        give_label(session, labeler, {"text": text})
    policies = policies_of(session, study)
    options: dict[str, Any] = {"name": "x", "k_min": 3, "k_max": 3, "labels_wanted": 2}
    batch = ranking_batch_from_policies(
        session, study, policies, **options, include_demonstrations=True
    )
    task = next(task for task in tasks_of(session, batch) if task.prompt_id == shown_to.id)
    ranked = list(
        session.scalars(select(Completion).where(Completion.id.in_(shown(session, task))))
    )
    assert len(ranked) == 3  # two of the policies' three, and the demonstration
    texts = [row.text for row in ranked if row.demonstration_id is not None]
    assert texts == ["the newest one"]

    # The other labeler ranks both prompts; who wrote the demonstration ranks only the plain one.
    done = {
        labeler.user_id: [give_label(session, labeler).label_task.prompt_id for _ in range(n)]
        for labeler, n in ((writer, 1), (other, 2))
    }
    assert done[writer.user_id] == [plain.id]
    assert set(done[other.user_id]) == {plain.id, shown_to.id}
    assert lease_next(session, writer) is None
    assert not work_waits(session, writer)
    assert work_waits(session, make_labeler(session, study))

    # The completion that stands for a demonstration is made once; its policy can be chosen too.
    ranking_batch_from_policies(session, study, policies, **options, include_demonstrations=True)
    stand_ins = select(Completion).where(Completion.demonstration_id.is_not(None))
    assert len(session.scalars(stand_ins).all()) == 1
    chosen = policies_of(session, study)
    assert {policy.name for policy in chosen} - {policy.name for policy in policies} == {
        "demonstrations"
    }
    again = ranking_batch_from_policies(
        session, study, chosen, name="x", include_demonstrations=True
    )
    sizes = {task.prompt_id: len(shown(session, task)) for task in tasks_of(session, again)}
    assert sizes == {shown_to.id: 4}  # K is 4: the plain prompt has but 3


def test_a_corrected_demonstration_is_not_ranked_any_more(session: Session, study: Study) -> None:
    prompt = completed_prompts(session, study, 1, 3)[0]
    create_demonstration_batch(session, study, name="d", prompts=[prompt.id])
    give_label(session, make_labeler(session, study))
    session.execute(update(Demonstration).values(superseded_at=func.now()))
    with pytest.raises(Invalid, match="0 prompts of the chosen splits"):
        ranking_batch_from_policies(
            session, study, policies_of(session, study), name="x", include_demonstrations=True
        )
