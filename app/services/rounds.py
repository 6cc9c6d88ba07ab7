"""Rounds: start one, push it on, stop it, and say where it stands.

`advance` may be called at any time, any number of times: it looks at the rows, starts what can
start and writes down where the round is. Nothing else moves a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db import enqueue
from app.errors import Conflict, NotFound
from app.models import (
    Batch,
    LabelKind,
    LabelTask,
    LabelTaskState,
    Round,
    RoundState,
    Run,
    RunState,
    Study,
    User,
    WebhookEvent,
)
from app.services import runs
from app.services.batch_progress import BatchProgress, batch_progress
from app.services.pretraining import check_base, check_text
from app.services.results import round_report
from app.services.round_baselines import check_baselines
from app.services.round_config import RoundConfig
from app.services.round_context import Context, choose_prompts
from app.services.stages import STAGES, Stage
from app.services.webhooks import announce


class StageState(StrEnum):
    pending = "pending"  # what it needs is not done yet
    running = "running"
    waiting = "waiting"  # for labelers
    done = "done"
    reused = "reused"  # taken over from an earlier round
    failed = "failed"
    cancelled = "cancelled"

    @property
    def over(self) -> bool:
        return self in {StageState.done, StageState.reused}


_RUN_STATES = {
    RunState.queued: StageState.running,
    RunState.running: StageState.running,
    RunState.succeeded: StageState.done,
    RunState.failed: StageState.failed,
    RunState.cancelled: StageState.cancelled,
}


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """Where one stage stands, from the rows that it made."""

    stage: Stage
    state: StageState
    run: Run | None = None
    batch: Batch | None = None
    progress: BatchProgress | None = None

    @property
    def fraction(self) -> float:
        """Share done, 0 to 1: of steps or of labels."""
        if self.state.over:
            return 1.0
        if self.progress is not None:
            return self.progress.fraction
        if self.run is not None and self.run.total_steps:
            return min(1.0, self.run.step / self.run.total_steps)
        return 0.0

    @property
    def began(self) -> datetime | None:
        if self.run is not None:
            return self.run.started_at
        return self.batch.created_at if self.batch is not None else None


def start_round(
    session: Session, study: Study, config: RoundConfig, *, seed: int, started_by: User | None
) -> Round:
    """A new round; its first stages start at once.

    Raises Conflict while another is active in the study, Invalid when there are too few prompts.
    """
    session.execute(select(Study.id).where(Study.id == study.id).with_for_update())
    active = session.scalar(
        select(Round).where(
            Round.study_id == study.id,
            Round.state.in_([RoundState.running, RoundState.waiting, RoundState.failed]),
        )
    )
    if active is not None:
        raise Conflict(f"Round {active.number} is not over yet. Let it finish, or cancel it first.")
    number = session.scalar(
        select(func.coalesce(func.max(Round.number), 0) + 1).where(Round.study_id == study.id)
    )
    assert number is not None
    round_ = Round(
        study_id=study.id,
        number=number,
        stage=STAGES[0].name,
        seed=seed,
        config=config.model_dump(),
        started_by=started_by.id if started_by is not None else None,
        reused={},
    )
    session.add(round_)
    session.flush()
    context = Context.load(session, round_)
    # What is missing for a later stage should be known now, not after hours of SFT.
    check_base(session, study, config)
    check_text(session, study, config)
    choose_prompts(context, LabelKind.ranking, config.ranking_prompts)
    check_baselines(context)
    advance(session, round_.id)
    return round_


def get_round(session: Session, study: Study, number: int) -> Round:
    """Raises NotFound if the study has no such round."""
    round_ = session.scalar(select(Round).where(Round.study_id == study.id, Round.number == number))
    if round_ is None:
        raise NotFound(f"{study.name} has no round {number}.")
    return round_


def rounds_of(session: Session, study: Study) -> list[Round]:
    """All rounds of the study, newest first."""
    return list(
        session.scalars(
            select(Round).where(Round.study_id == study.id).order_by(Round.number.desc())
        )
    )


def _status(context: Context, stage: Stage) -> StageStatus:
    run, batch = context.runs.get(stage.name), context.batches.get(stage.name)
    if stage.name in context.round.reused:
        return StageStatus(stage=stage, state=StageState.reused, run=run, batch=batch)
    if batch is not None:
        progress = batch_progress(context.session, batch)
        state = StageState.done if progress.finished else StageState.waiting
        return StageStatus(stage=stage, state=state, batch=batch, progress=progress)
    if run is not None:
        return StageStatus(stage=stage, state=_RUN_STATES[run.state], run=run)
    return StageStatus(stage=stage, state=StageState.pending)


def statuses(session: Session, round_: Round) -> list[StageStatus]:
    """Where each stage of the round stands."""
    context = Context.load(session, round_)
    return [_status(context, stage) for stage in STAGES]


def advance(session: Session, round_id: int) -> None:
    """Start every stage whose needs are met, and write down where the round is."""
    round_ = session.get(Round, round_id, with_for_update=True, populate_existing=True)
    if round_ is None or round_.state in {RoundState.finished, RoundState.cancelled}:
        return
    context = Context.load(session, round_)
    found: dict[str, StageStatus] = {}
    for stage in STAGES:  # in the order of their needs, so that one pass is enough
        status = _status(context, stage)
        if status.state is StageState.pending and all(found[n].state.over for n in stage.needs):
            stage.start(context)
            status = _status(context, stage)
        found[stage.name] = status
    current = [status for status in found.values() if not status.state.over]
    states = {status.state for status in current}
    if not current:
        round_.state, round_.finished_at = RoundState.finished, func.now()
        session.flush()
        session.refresh(round_)
        round_.report = round_report(session, round_)
        announce(
            session,
            round_.study_id,
            WebhookEvent.round_finished,
            {"round": round_.number, "report": round_.report},
        )
    else:
        round_.stage = current[0].stage.name
        if states & {StageState.failed, StageState.cancelled}:
            round_.state = RoundState.failed
        elif StageState.running in states:
            round_.state = RoundState.running
        else:
            round_.state = RoundState.waiting
    session.flush()


def cancel(session: Session, round_: Round) -> None:
    """Stop a round for good: its runs end, its open label tasks are withdrawn, labels are kept.

    Raises Conflict if it is over.
    """
    session.refresh(round_, with_for_update=True)
    if round_.state in {RoundState.finished, RoundState.cancelled}:
        raise Conflict(f"Round {round_.number} is {round_.state.value} already.")
    for run in session.scalars(select(Run).where(Run.round_id == round_.id)):
        if not run.state.final:
            runs.request_cancel(session, run)
    batch_ids = select(Batch.id).where(Batch.round_id == round_.id)
    session.execute(
        update(LabelTask)
        .where(LabelTask.batch_id.in_(batch_ids), LabelTask.state == LabelTaskState.open)
        .values(state=LabelTaskState.closed)
    )
    round_.state, round_.finished_at = RoundState.cancelled, func.now()
    session.flush()


def retry(session: Session, round_: Round) -> None:
    """Queue the failed and cancelled runs of a failed round again.

    Raises Conflict if the round has not failed.
    """
    session.refresh(round_, with_for_update=True)
    if round_.state is not RoundState.failed:
        raise Conflict(f"Round {round_.number} is {round_.state.value}: nothing to retry.")
    stopped = select(Run).where(
        Run.round_id == round_.id, Run.state.in_([RunState.failed, RunState.cancelled])
    )
    for run in session.scalars(stopped):
        runs.retry(session, run)
    round_.state = RoundState.running
    session.flush()
    enqueue(session, "advance_round", round_.id)


def active_rounds(session: Session) -> list[int]:
    """Ids of the rounds that the sweep should push on."""
    return list(
        session.scalars(
            select(Round.id).where(
                Round.state.in_([RoundState.running, RoundState.waiting, RoundState.failed])
            )
        )
    )
