"""Withdrawing a labeler or a prompt: what is used no more, and what is marked."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Invalid, NotFound
from app.models import (
    AssignmentState,
    Checkpoint,
    CheckpointKind,
    LabelTaskState,
    PiiState,
    Run,
    RunKindName,
    Snapshot,
    SnapshotPrompt,
    Split,
    Study,
)
from app.services import runs
from app.services.snapshots import freeze_demonstrations, freeze_prompts, freeze_rankings, pseudonym
from app.services.withdrawals import (
    marked_checkpoints,
    readmit_labeler,
    readmit_prompt,
    withdraw_labeler,
    withdraw_prompt,
    withdrawn_since,
)
from tests import factories as make


def checkpoint_from(
    session: Session, study: Study, label: str, **inputs: Snapshot | Checkpoint
) -> Checkpoint:
    run: Run = runs.create_run(
        session, study, kind=RunKindName.sft, stage=label, seed=0, preset="tiny", inputs=inputs
    )
    checkpoint = Checkpoint(
        study_id=study.id, run_id=run.id, kind=CheckpointKind.policy, label=label, uri="file:///x"
    )
    session.add(checkpoint)
    session.flush()
    return checkpoint


def test_a_withdrawn_labelers_labels_enter_no_snapshot_and_mark_earlier_ones(
    session: Session,
) -> None:
    """Two labelers demonstrate two prompts each; a third demonstrates nothing."""
    study = make.make_study(session)
    prompts = [make.make_prompt(session, study) for _ in range(2)]
    make.make_demonstration_batch(session, study, prompts, labels_wanted=3)
    ann, ben = make.make_labeler(session, study), make.make_labeler(session, study)
    for labeler in (ann, ben):
        for _ in prompts:
            make.give_label(session, labeler)
    before = freeze_demonstrations(session, study)
    assert before.counts["labels"] == 4
    assert before.counts["labelers"] == sorted(pseudonym(study, m.user_id) for m in (ann, ben))
    assert before.counts["prompts_by_origin_and_split"] == {"customer": {"train": 2}}
    assert before.counts["guideline_versions"] == [1]
    rankings = freeze_rankings(session, study)
    sft = checkpoint_from(session, study, "sft", demonstrations=before)
    ppo = checkpoint_from(session, study, "ppo", init=sft)
    other = checkpoint_from(session, study, "other", rankings=rankings)
    assert withdrawn_since(session, study) == {}
    assert marked_checkpoints(session, study) == []

    withdraw_labeler(session, study, ben.user_id)
    after = freeze_demonstrations(session, study)
    assert after.counts["labelers"] == [pseudonym(study, ann.user_id)]
    assert withdrawn_since(session, study) == {before.id: 2}
    marked = {mark.checkpoint.id: mark.snapshots for mark in marked_checkpoints(session, study)}
    assert marked == {sft.id: [before.id], ppo.id: [before.id]}
    assert other.id not in marked

    readmit_labeler(session, study, ben.user_id)
    assert freeze_demonstrations(session, study).id == before.id
    assert withdrawn_since(session, study) == {}


def test_a_withdrawn_labelers_open_work_goes_back(session: Session) -> None:
    study = make.make_study(session)
    make.make_demonstration_batch(session, study, 1)
    ann, ben = make.make_labeler(session, study), make.make_labeler(session, study)
    held = make.take_next(session, ann)
    withdraw_labeler(session, study, ann.user_id)
    session.refresh(held)
    assert held.state is AssignmentState.returned
    make.give_label(session, ben)  # there is work for another


def test_a_withdrawn_prompt_is_used_no_more(session: Session) -> None:
    study = make.make_study(session)
    prompts = [make.make_prompt(session, study, split=Split.train) for _ in range(3)]
    batch = make.make_demonstration_batch(session, study, prompts)
    ann = make.make_labeler(session, study)
    done = make.give_label(session, ann).label_task.given_prompt
    demonstrations = freeze_demonstrations(session, study)
    frozen = freeze_prompts(session, study, [prompt.id for prompt in prompts], why="ppo")
    kept = select(SnapshotPrompt.prompt_id).where(SnapshotPrompt.snapshot_id == frozen.id)
    assert set(session.scalars(kept)) == {prompt.id for prompt in prompts}

    withdraw_prompt(session, study, done.id)
    open_one = next(prompt for prompt in prompts if prompt.id != done.id)
    withdraw_prompt(session, study, open_one.id)
    assert withdrawn_since(session, study) == {demonstrations.id: 1, frozen.id: 2}
    states = {task.prompt_id: task.state for task in make.tasks_of(session, batch)}
    assert states[open_one.id] is LabelTaskState.closed
    assert states[done.id] is LabelTaskState.complete
    assert freeze_demonstrations(session, study).records == 0
    readmit_prompt(session, study, done.id)
    assert freeze_demonstrations(session, study).id == demonstrations.id


def test_labels_about_a_prompt_with_personal_data_wait(session: Session) -> None:
    study = make.make_study(session)
    prompt = make.make_prompt(session, study)
    make.make_demonstration_batch(session, study, [prompt])
    make.give_label(session, make.make_labeler(session, study))
    prompt.pii_state = PiiState.held
    session.flush()
    assert freeze_demonstrations(session, study).records == 0
    prompt.pii_state = PiiState.cleared
    session.flush()
    assert freeze_demonstrations(session, study).records == 1


def test_who_and_what_cannot_be_withdrawn(session: Session) -> None:
    study = make.make_study(session)
    researcher = make.make_researcher(session, study)
    elsewhere = make.make_prompt(session, make.make_study(session, "Another"))
    with pytest.raises(Invalid):
        withdraw_labeler(session, study, researcher.id)
    with pytest.raises(NotFound):
        withdraw_labeler(session, study, researcher.id + 1)
    with pytest.raises(NotFound):
        withdraw_prompt(session, study, elsewhere.id)
