"""What the round page shows: each stage with its state, progress, time and figures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from app.models import Round, RoundState, Study
from app.services import rounds, run_views
from app.services.rounds import StageState, StageStatus


@dataclass(frozen=True, kw_only=True)
class StageView:
    """One stage for a page, a terminal line, or JSON."""

    name: str
    title: str
    labels: bool
    state: StageState
    done: int
    total: int
    seconds: float | None
    seconds_left: float | None
    phase: str
    figures: dict[str, float]
    run_id: int | None
    batch_id: int | None
    error: str | None


def _stage_view(session: Session, status: StageStatus) -> StageView:
    run, batch, labels = status.run, status.batch, status.progress
    progress = run_views.progress(session, run) if run is not None else None
    began = status.began
    ended = run.finished_at if run is not None else None
    running = status.state in {StageState.running, StageState.waiting}
    if began is not None and ended is None and running:
        ended = datetime.now(UTC)
    done, total = (labels.labels_done, labels.labels_wanted) if labels else (0, 0)
    if progress is not None:
        done, total = progress.step, progress.total_steps
    seconds = (ended - began).total_seconds() if began is not None and ended is not None else None
    left = progress.seconds_left if progress is not None else None
    if labels is not None and seconds and running and 0 < done < total:
        left = seconds / done * (total - done)
    return StageView(
        name=status.stage.name,
        title=status.stage.title,
        labels=status.stage.labels,
        state=status.state,
        done=done,
        total=total,
        seconds=seconds,
        seconds_left=left,
        phase=progress.phase if progress is not None else "",
        figures=progress.headline if progress is not None else {},
        run_id=run.id if run is not None else None,
        batch_id=batch.id if batch is not None else None,
        error=run.error if run is not None else None,
    )


@dataclass(frozen=True, kw_only=True)
class RoundView:
    """A round with its stages, as the page, the terminal and JSON show it."""

    number: int
    state: RoundState
    stages: list[StageView]
    report: dict[str, Any] | None
    seconds: float

    @property
    def over(self) -> bool:
        return self.state in {RoundState.finished, RoundState.cancelled}


def round_view(session: Session, study: Study, number: int) -> RoundView:
    """Raises NotFound if the study has no such round."""
    round_ = rounds.get_round(session, study, number)
    return view_of(session, round_)


def view_of(session: Session, round_: Round) -> RoundView:
    stages = [_stage_view(session, status) for status in rounds.statuses(session, round_)]
    end = round_.finished_at or datetime.now(UTC)
    return RoundView(
        number=round_.number,
        state=round_.state,
        stages=stages,
        report=round_.report,
        seconds=(end - round_.created_at).total_seconds(),
    )
