"""Withdrawing a labeler or a prompt, and what was made of them before.

Nothing is deleted: what is withdrawn enters no later snapshot, export or round. Earlier snapshots
stay as they are, and say that some of what is in them was withdrawn since; so does every checkpoint
that was trained on one, or on a checkpoint that was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.errors import Invalid, NotFound
from app.models import (
    Assignment,
    AssignmentState,
    Checkpoint,
    Demonstration,
    LabelTask,
    LabelTaskState,
    Membership,
    Prompt,
    Ranking,
    RunInput,
    Snapshot,
    SnapshotDemonstration,
    SnapshotPrompt,
    SnapshotRanking,
    Study,
)
from app.services import assignments


def withdraw_labeler(session: Session, study: Study, user_id: int) -> Membership:
    """Use a labeler's labels no more; what is on their screen goes to somebody else.

    Raises NotFound if they are not in the study, Invalid if they are no labeler.
    """
    membership = _labeler(session, study, user_id)
    if membership.withdrawn_at is None:
        membership.withdrawn_at = func.now()
        session.execute(
            update(Assignment)
            .where(
                Assignment.study_id == study.id,
                Assignment.user_id == user_id,
                Assignment.state.in_([AssignmentState.leased, AssignmentState.reserved]),
            )
            .values(lease_until=func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 1))
        )
        session.flush()
        assignments.return_expired(session)
    return membership


def readmit_labeler(session: Session, study: Study, user_id: int) -> Membership:
    """Use a labeler's labels again. Raises as withdraw_labeler does."""
    membership = _labeler(session, study, user_id)
    membership.withdrawn_at = None
    session.flush()
    return membership


def _labeler(session: Session, study: Study, user_id: int) -> Membership:
    membership = session.get(Membership, (study.id, user_id))
    if membership is None:
        raise NotFound("There is nobody like that in this study.")
    if membership.pool is None:
        raise Invalid("Only labelers can be withdrawn: others have no labels.")
    return membership


def withdraw_prompt(session: Session, study: Study, prompt_id: int) -> Prompt:
    """Use a prompt and its labels no more; its open label tasks end. Raises NotFound."""
    prompt = _prompt(session, study, prompt_id)
    if prompt.withdrawn_at is None:
        prompt.withdrawn_at = func.now()
        session.execute(
            update(LabelTask)
            .where(LabelTask.prompt_id == prompt.id, LabelTask.state == LabelTaskState.open)
            .values(state=LabelTaskState.closed)
        )
        session.flush()
    return prompt


def readmit_prompt(session: Session, study: Study, prompt_id: int) -> Prompt:
    """Use a prompt and its labels again; label tasks that ended stay ended. Raises NotFound."""
    prompt = _prompt(session, study, prompt_id)
    prompt.withdrawn_at = None
    session.flush()
    return prompt


def _prompt(session: Session, study: Study, prompt_id: int) -> Prompt:
    prompt = session.scalar(
        select(Prompt).where(Prompt.id == prompt_id, Prompt.study_id == study.id)
    )
    if prompt is None:
        raise NotFound("There is no such prompt in this study.")
    return prompt


def withdrawn_since(session: Session, study: Study) -> dict[int, int]:
    """How many labels or prompts of each snapshot were withdrawn since, where there are any."""
    found: dict[int, int] = {}
    for label, item, identity in (
        (Demonstration, SnapshotDemonstration, SnapshotDemonstration.demonstration_id),
        (Ranking, SnapshotRanking, SnapshotRanking.ranking_id),
    ):
        gone = (
            select(item.snapshot_id, func.count())
            .join(label, label.id == identity)
            .join(Prompt, Prompt.id == label.prompt_id)
            .join(
                Membership,
                (Membership.study_id == label.study_id) & (Membership.user_id == label.user_id),
            )
            .where(
                item.study_id == study.id,
                Prompt.withdrawn_at.is_not(None) | Membership.withdrawn_at.is_not(None),
            )
            .group_by(item.snapshot_id)
        )
        for snapshot_id, count in session.execute(gone):
            found[snapshot_id] = count
    prompts = (
        select(SnapshotPrompt.snapshot_id, func.count())
        .join(Prompt, Prompt.id == SnapshotPrompt.prompt_id)
        .where(SnapshotPrompt.study_id == study.id, Prompt.withdrawn_at.is_not(None))
        .group_by(SnapshotPrompt.snapshot_id)
    )
    for snapshot_id, count in session.execute(prompts):
        found[snapshot_id] = count
    return found


@dataclass(frozen=True, kw_only=True)
class MarkedCheckpoint:
    """A checkpoint that saw something that was withdrawn since, through these snapshots."""

    checkpoint: Checkpoint
    snapshots: list[int]


def marked_checkpoints(
    session: Session, study: Study, since: Mapping[int, int] | None = None
) -> list[MarkedCheckpoint]:
    """The study's checkpoints that stand on a snapshot of `withdrawn_since`, newest first."""
    since = withdrawn_since(session, study) if since is None else since
    if not since:
        return []
    inputs: dict[int, list[tuple[int | None, int | None]]] = {}
    for run_id, snapshot_id, checkpoint_id in session.execute(
        select(RunInput.run_id, RunInput.snapshot_id, RunInput.checkpoint_id).where(
            RunInput.study_id == study.id
        )
    ):
        inputs.setdefault(run_id, []).append((snapshot_id, checkpoint_id))
    checkpoints = list(
        session.scalars(
            select(Checkpoint).where(Checkpoint.study_id == study.id).order_by(Checkpoint.id)
        )
    )
    behind: dict[int, set[int]] = {}
    for checkpoint in checkpoints:  # what a checkpoint was made from is older than it
        mine: set[int] = set(behind.get(checkpoint.parent_id or 0, ()))
        for snapshot_id, earlier in inputs.get(checkpoint.run_id or 0, ()):
            if snapshot_id is not None and snapshot_id in since:
                mine.add(snapshot_id)
            mine |= behind.get(earlier or 0, set())
        behind[checkpoint.id] = mine
    return [
        MarkedCheckpoint(checkpoint=checkpoint, snapshots=sorted(behind[checkpoint.id]))
        for checkpoint in reversed(checkpoints)
        if behind[checkpoint.id]
    ]


def snapshots_of(session: Session, study: Study) -> list[Snapshot]:
    """The study's snapshots, newest first."""
    return list(
        session.scalars(
            select(Snapshot).where(Snapshot.study_id == study.id).order_by(Snapshot.id.desc())
        )
    )
