"""metrics.jsonl: one MetricLine a step, and the same on standard output for log.txt."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors import SafetensorError

from trainer.contract import METRICS, MetricLine

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TrainingError(RuntimeError):
    """Training cannot go on, in plain words: a loss that is not finite, a broken invariant."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around writing a file of the run. Raises TrainingError where it fails, as on a full disk."""
    try:
        yield
    except Exception as error:  # tokenizers raises nothing narrower
        number = _os_error(error)
        if number is None and not isinstance(error, OSError | SafetensorError):
            raise
        sentence = f"{path} cannot be written: {error}"
        if number in FULL:
            sentence += "; make room and start the run again: it goes on from its last checkpoint"
        raise TrainingError(sentence) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _os_error(error: Exception) -> int | None:
    """The system's number; safetensors and tokenizers, which raise no OSError, end with it."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)$", str(error))
    return int(found[1]) if found else None


class Metrics:
    """Appends lines. How many there are is a part of the run's state: a resume drops the others."""

    def __init__(self, run_dir: Path, *, total_steps: int, written: bool = True) -> None:
        self.total_steps = total_steps
        self.path = run_dir / METRICS
        self.written = written  # by one of the run's processes only
        self.lines = 0

    def begin(self) -> None:
        """Before the first line, once the state is loaded: drop what is to be written again.

        Raises TrainingError where the file cannot be written.
        """
        if self.written:
            with writing(self.path):
                self.lines = _keep_lines(self.path, self.lines)

    def write(self, step: int, values: dict[str, float], phase: str = "train") -> None:
        """Append one line. Raises TrainingError where a value is not finite or the disk is full."""
        for key, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(f"step {step}: {key} is {value}; try a lower learning rate")
        self.lines += 1
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

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lines = state_dict["lines"]


def _keep_lines(path: Path, count: int) -> int:
    """Cut the file after so many lines, and return how many it has: its end may have been lost."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        lines = [len(line) for line in islice(file, count) if line.endswith(b"\n")]
    os.truncate(path, sum(lines))
    return len(lines)


class Recent:
    """The last figures of a run, of which its result is the mean: a part of its state."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows: list[dict[str, float]] = []

    def add(self, figures: dict[str, float]) -> None:
        self.rows = [*self.rows, figures][-self.count :]

    def means(self) -> dict[str, float]:
        """By key; each has the keys of the first."""
        return {key: fmean(row[key] for row in self.rows) for key in self.rows[0]}

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
