"""metrics.jsonl: one MetricLine a step, and the same on standard output for log.txt."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

from trainer.contract import METRICS, MetricLine


class TrainingError(RuntimeError):
    """Training cannot go on, in plain words: a loss that is not finite, a broken invariant."""


class Metrics:
    """Appends lines; after a resume, drops those of steps that will be done again."""

    def __init__(
        self, run_dir: Path, *, total_steps: int, resumed_step: int, written: bool = True
    ) -> None:
        self.total_steps = total_steps
        self.path = run_dir / METRICS
        self.written = written  # by one of the run's processes only
        if written:
            _truncate_after(self.path, resumed_step)

    def write(self, step: int, values: dict[str, float], phase: str = "train") -> None:
        """Append one line. Raises TrainingError where a value is not finite."""
        for key, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(f"step {step}: {key} is {value}; try a lower learning rate")
        if not self.written:
            return
        line = MetricLine(
            step=step, total_steps=self.total_steps, time=time.time(), values=values, phase=phase
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line.to_json()) + "\n")
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        print(f"{phase} {step}/{self.total_steps}  {shown}", flush=True)


def _truncate_after(path: Path, step: int) -> None:
    """Cut the file where a line of a later step, or half a line of a killed run, begins."""
    if not path.exists():
        return
    keep = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            keep += len(line)
    if step == 0:  # nothing was saved: every line will be written again
        keep = 0
    os.truncate(path, keep)
