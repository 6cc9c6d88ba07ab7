"""python -m benchmarks.timed RUN_DIR...: runs of the trainer, in this process, measured by step.

One JSON line a run. The peak memory is the process's, those of the runs before included.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from benchmarks.peers.machine import peak_mb
from trainer.__main__ import main
from trainer.contract import CHECKPOINTS, METRICS, MODEL, RESULT, read_spec
from trainer.metrics import Metrics

LOSSES = ("train/loss",)
WRITE = Metrics.write


def timed(run_dir: Path) -> None:
    """Train, and print the seconds between the first step's line and the last one's."""
    for made in (CHECKPOINTS, MODEL):
        shutil.rmtree(run_dir / made, ignore_errors=True)
    for made in (METRICS, RESULT):
        (run_dir / made).unlink(missing_ok=True)
    seen: list[tuple[float, float]] = []
    losses: list[float] = []

    def noted(self: Metrics, step: int, values: dict[str, float], phase: str = "train") -> None:
        if phase == "train":
            seen.append((time.perf_counter(), time.process_time()))
            losses.extend(values[key] for key in LOSSES if key in values)
        WRITE(self, step, values, phase)

    Metrics.write = noted  # type: ignore[method-assign]
    if status := main([read_spec(run_dir).kind, str(run_dir)]):
        raise SystemExit(status)
    (wall, cpu), (wall_end, cpu_end) = seen[0], seen[-1]
    figures = {"seconds": wall_end - wall, "cpu_seconds": cpu_end - cpu, "peak_mb": peak_mb()}
    print(json.dumps({**figures, "losses": losses}), flush=True)


if __name__ == "__main__":
    for given in sys.argv[1:]:
        timed(Path(given))
