"""Runs as a queue of rows: claim, beat, metrics, and the three ways to end.

    queued → running → succeeded | failed | cancelled
       ↑        │
       └────────┘  the worker stopped, or its lease ran out

A claim raises `attempt`, the fencing token. Every later write of the claimant carries it; one that
was overtaken gets StaleClaim and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, selectinload

from app.config import get_settings
from app.db import enqueue
from app.errors import Conflict, DomainError, NotFound
from app.models import (
    Checkpoint,
    Run,
    RunInput,
    RunKindName,
    RunMetric,
    RunState,
    Snapshot,
    Study,
)
from trainer.contract import MetricLine


class StaleClaim(DomainError):
    """The run was claimed again since, or has ended: this claimant may write nothing."""

    status = 409

    def __init__(self, run_id: int) -> None:
        super().__init__(f"Run {run_id} was taken over or has ended.")


@dataclass(frozen=True)
class Claim:
    """The right to write to a run: its id and the fencing token."""

    run_id: int
    attempt: int


def create_run(
    session: Session,
    study: Study,
    *,
    kind: RunKindName,
    stage: str,
    seed: int,
    preset: str,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Snapshot | Checkpoint],
    requests: Sequence[Mapping[str, Any]] = (),
    round_id: int | None = None,
) -> Run:
    """A queued run; a worker hears of it at the commit. `inputs` go by their part in RunSpec."""
    run = Run(
        study_id=study.id,
        round_id=round_id,
        stage=stage,
        kind=kind,
        seed=seed,
        preset=preset,
        config=dict(config or {}),
        requests=[dict(request) for request in requests],
    )
    session.add(run)
    session.flush()
    for part, source in inputs.items():
        session.add(
            RunInput(
                run_id=run.id,
                study_id=study.id,
                part=part,
                snapshot_id=source.id if isinstance(source, Snapshot) else None,
                checkpoint_id=source.id if isinstance(source, Checkpoint) else None,
            )
        )
    session.flush()
    enqueue(session, "execute_run", run.id)
    return run


def get_run(session: Session, study: Study, run_id: int) -> Run:
    """The run with its inputs. Raises NotFound if it is not of this study."""
    run = session.scalar(
        select(Run)
        .where(Run.id == run_id, Run.study_id == study.id)
        .options(
            selectinload(Run.inputs).joinedload(RunInput.snapshot),
            selectinload(Run.inputs).joinedload(RunInput.checkpoint),
        )
    )
    if run is None:
        raise NotFound("There is no such run in this study.")
    return run


def claim(session: Session, run_id: int, worker: str) -> Claim | None:
    """Take a run that is due, on the database's clock; None if it is not, or another was faster."""
    attempt = session.scalar(
        update(Run)
        .where(
            Run.id == run_id,
            ~Run.cancel_requested,
            or_(
                Run.state == RunState.queued,
                (Run.state == RunState.running) & (Run.lease_until < func.now()),
            ),
        )
        .values(
            state=RunState.running,
            attempt=Run.attempt + 1,
            worker=worker,
            lease_until=_lease(),
            started_at=func.coalesce(Run.started_at, func.now()),
        )
        .returning(Run.attempt)
        .execution_options(synchronize_session=False)
    )
    return None if attempt is None else Claim(run_id, attempt)


def _lease() -> Any:
    return func.now() + timedelta(seconds=get_settings().run_lease_seconds)


def _write(session: Session, claim: Claim, **values: Any) -> None:
    """The one fenced write. Raises StaleClaim when the token no longer fits."""
    result = session.execute(
        update(Run)
        .where(Run.id == claim.run_id, Run.attempt == claim.attempt, Run.state == RunState.running)
        .values(**values)
        .execution_options(synchronize_session="fetch")
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        raise StaleClaim(claim.run_id)


def beat(session: Session, claim: Claim, lines: Sequence[MetricLine] = ()) -> bool:
    """Renew the lease and store new metric lines; returns whether a cancel was asked for."""
    values: dict[str, Any] = {"lease_until": _lease()}
    if lines:
        last = lines[-1]
        values.update(step=last.step, total_steps=last.total_steps, phase=last.phase)
    _write(session, claim, **values)
    if lines:
        rows = {(line.phase, line.step): line for line in lines}  # a resumed run repeats steps
        statement = insert(RunMetric).values(
            [
                {
                    "run_id": claim.run_id,
                    "phase": line.phase,
                    "step": line.step,
                    "values": line.values,
                    "time": datetime.fromtimestamp(line.time, UTC),
                }
                for line in rows.values()
            ]
        )
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["run_id", "phase", "step"],
                set_={"values": statement.excluded["values"], "time": statement.excluded.time},
            )
        )
    return bool(session.scalar(select(Run.cancel_requested).where(Run.id == claim.run_id)))


def succeed(session: Session, claim: Claim, result: Mapping[str, Any]) -> Run:
    """End a run well; what it made is registered in the same transaction by the caller."""
    _write(
        session,
        claim,
        state=RunState.succeeded,
        result=dict(result),
        finished_at=func.now(),
        lease_until=None,
    )
    return _ended(session, claim)


def fail(session: Session, claim: Claim, error: str) -> Run:
    """End a run with a reason in plain words."""
    _write(
        session,
        claim,
        state=RunState.failed,
        error=error or "The trainer ended without a word.",
        finished_at=func.now(),
        lease_until=None,
    )
    return _ended(session, claim)


def cancelled(session: Session, claim: Claim) -> Run:
    """End a run that was asked to stop and did."""
    _write(
        session,
        claim,
        state=RunState.cancelled,
        finished_at=func.now(),
        lease_until=None,
    )
    return _ended(session, claim)


def _ended(session: Session, claim: Claim) -> Run:
    run = session.get_one(Run, claim.run_id, populate_existing=True)
    if run.round_id is not None:
        enqueue(session, "advance_round", run.round_id)
    return run


def release(session: Session, claim: Claim) -> None:
    """Put a run back in the queue: its worker stops, its checkpoints stay."""
    _write(session, claim, state=RunState.queued, lease_until=None, worker=None)


def request_cancel(session: Session, run: Run) -> None:
    """Ask a run to stop. One that waits ends at once; one that runs, when its worker sees it.

    Raises Conflict if it has ended.
    """
    session.refresh(run, with_for_update=True)
    if run.state.final:
        raise Conflict(f"Run {run.id} has already ended: {run.state.value}.")
    run.cancel_requested = True
    if run.state is RunState.queued:
        run.state = RunState.cancelled
        run.finished_at = func.now()
        if run.round_id is not None:
            enqueue(session, "advance_round", run.round_id)
    session.flush()


def retry(session: Session, run: Run) -> None:
    """Queue a failed or cancelled run again: it goes on from its last checkpoint.

    Raises Conflict if it has neither failed nor been cancelled.
    """
    session.refresh(run, with_for_update=True)
    if run.state not in {RunState.failed, RunState.cancelled}:
        raise Conflict(f"Run {run.id} is {run.state.value}: only a failed one can be retried.")
    run.state = RunState.queued
    run.error = None
    run.cancel_requested = False
    run.finished_at = None
    session.flush()
    enqueue(session, "execute_run", run.id)
    if run.round_id is not None:
        enqueue(session, "advance_round", run.round_id)


def due(session: Session) -> list[int]:
    """Ids of runs that a worker should look at: queued ones, and running ones that fell silent."""
    return list(
        session.scalars(
            select(Run.id)
            .where(
                or_(
                    Run.state == RunState.queued,
                    (Run.state == RunState.running) & (Run.lease_until < func.now()),
                )
            )
            .order_by(Run.id)
        )
    )


def release_orphans(session: Session, worker: str) -> int:
    """Requeue what a worker of this name left behind, when it is known that none lives any more."""
    result = session.execute(
        update(Run)
        .where(Run.state == RunState.running, Run.worker == worker)
        .values(state=RunState.queued, lease_until=None, worker=None, attempt=Run.attempt + 1)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount


def end_silent_cancelled(session: Session) -> None:
    """A run that was asked to stop and whose worker died ends as cancelled, not in limbo."""
    rows = session.scalars(
        update(Run)
        .where(Run.state == RunState.running, Run.cancel_requested, Run.lease_until < func.now())
        .values(state=RunState.cancelled, finished_at=func.now(), lease_until=None)
        .returning(Run.round_id)
        .execution_options(synchronize_session=False)
    )
    for round_id in rows:
        if round_id is not None:
            enqueue(session, "advance_round", round_id)


def checkpoint_of(session: Session, run: Run) -> Checkpoint | None:
    return session.scalar(select(Checkpoint).where(Checkpoint.run_id == run.id))
