"""metrics.jsonl: one MetricLine a step, and the same on standard output for log.txt."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from trainer.contract import METRICS, MetricLine


class TrainingError(RuntimeError):
    """Training cannot go on, in plain words: a loss that is not finite, a broken invariant."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around writing a file of the run. Raises TrainingError where it fails, as on a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path} cannot be written: {error}; make room and start the run again: it goes on "
            "from its last checkpoint"
        ) from error


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
        """Append one line. Raises TrainingError where a value is not finite or the disk is full."""
        for key, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(f"step {step}: {key} is {value}; try a lower learning rate")
        if not self.written:
            return
        line = MetricLine(
            step=step, total_steps=self.total_steps, time=time.time(), values=values, phase=phase
        )
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        with writing(self.path):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line.to_json()) + "\n")
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
