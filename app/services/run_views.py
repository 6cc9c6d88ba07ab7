"""What pages show of a run: progress, time left, series for charts, the end of its log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.config import get_settings
from app.models import Checkpoint, Run, RunInput, RunMetric, RunState
from trainer import contract

MAX_POINTS = 600  # more than a chart has pixels for
LOG_BYTES = 40_000

# What a progress line shows of a run, in this order, as far as it is there.
HEADLINES: dict[str, str] = {
    contract.LOSS: "loss",
    contract.SFT_VALID_LOSS: "valid loss",
    contract.SFT_VALID_SCORE: "valid score",
    contract.RM_ACCURACY: "held-out accuracy",
    contract.PPO_SCORE: "score",
    contract.PPO_KL: "KL (nats)",
    contract.PPO_PTX_LOSS: "ptx loss",
}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is. `seconds_left` is None where nothing can be said yet."""

    step: int
    total_steps: int
    phase: str
    seconds_left: float | None
    headline: dict[str, float]

    @property
    def fraction(self) -> float:
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


def run_directory(run_id: int) -> Path:
    return get_settings().runs_path / f"{run_id:06d}"


def progress(session: Session, run: Run) -> Progress:
    """Progress from the rows of the run's metrics: time left at the pace of this phase."""
    in_phase = [RunMetric.run_id == run.id, RunMetric.phase == run.phase]
    first, last, low, high = session.execute(
        select(
            func.min(RunMetric.time),
            func.max(RunMetric.time),
            func.min(RunMetric.step),
            func.max(RunMetric.step),
        ).where(*in_phase)
    ).one()
    left = None
    if run.state is RunState.running and first is not None and high > low:
        pace = (last - first).total_seconds() / (high - low)
        since = (datetime.now(UTC) - last).total_seconds()
        left = max(0.0, pace * (run.total_steps - high) - since)
    values = session.scalar(
        select(RunMetric.values).where(*in_phase).order_by(RunMetric.step.desc()).limit(1)
    )
    final = (run.result or {}).get("metrics", {})
    known = {**(values or {}), **final}
    return Progress(
        step=run.step,
        total_steps=run.total_steps,
        phase=run.phase,
        seconds_left=left,
        headline={name: known[key] for key, name in HEADLINES.items() if key in known},
    )


def series(session: Session, run: Run) -> dict[str, Any]:
    """All metrics of a run for charts: {phase: {"step": […], key: [… or null]}}, thinned evenly."""
    rows = session.execute(
        select(RunMetric.phase, RunMetric.step, RunMetric.values)
        .where(RunMetric.run_id == run.id)
        .order_by(RunMetric.phase, RunMetric.step)
    ).all()
    by_phase: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for phase, step, values in rows:
        by_phase.setdefault(phase, []).append((step, values))
    found: dict[str, Any] = {}
    for phase, points in by_phase.items():
        stride = -(-len(points) // MAX_POINTS)
        kept = points[::stride]
        keys = sorted({key for _, values in kept for key in values})
        found[phase] = {
            "step": [step for step, _ in kept],
            **{key: [values.get(key) for _, values in kept] for key in keys},
        }
    return found


def figures(run: Run) -> dict[str, Any] | None:
    """What its kind measured beside numbers, or None.

    Of a reward model trainer.reward_figures.RewardFigures; of SFT the epochs (trainer.selection).
    """
    return (run.result or {}).get("figures") or None


def crossvalidation(run: Run) -> dict[str, Any] | None:
    """What the command that cross-validates the run's labelers found, if it was run on this host.

    See trainer.crossvalidate.
    """
    path = run_directory(run.id) / contract.CROSSVALIDATION
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def log_tail(run: Run) -> str:
    """The end of the trainer's log; empty before it wrote, or where it ran on another host."""
    path = run_directory(run.id) / contract.LOG
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_BYTES))
        text = file.read().decode(errors="replace")
    return text if size <= LOG_BYTES else "…\n" + text.partition("\n")[2]


def used_by(session: Session, checkpoint: Checkpoint) -> list[Run]:
    """The runs that started from a checkpoint."""
    return list(
        session.scalars(
            select(Run)
            .join(RunInput, RunInput.run_id == Run.id)
            .where(RunInput.checkpoint_id == checkpoint.id)
            .order_by(Run.id)
            .distinct()
        )
    )
