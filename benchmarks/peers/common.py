"""What the scripts that run in TRL's environment share. They import nothing of ours."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from transformers import TrainerCallback

from benchmarks.peers.machine import peak_mb


class Steps(TrainerCallback):
    """Clock and CPU time at the end of every step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seen.append((time.perf_counter(), time.process_time()))

    def report(self, losses: list[float]) -> None:
        (wall, cpu), (wall_end, cpu_end) = self.seen[0], self.seen[-1]
        figures = {"seconds": wall_end - wall, "cpu_seconds": cpu_end - cpu, "peak_mb": peak_mb()}
        print(json.dumps({**figures, "losses": losses}))


def optimizers(model: Any, rate: float, steps: int) -> tuple[Any, Any]:
    """Adam as ours, with the learning rate going by a cosine to a tenth."""
    import torch

    adam = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.95), eps=1e-5, fused=True)

    def factor(step: int) -> float:
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps - 1))))

    return adam, torch.optim.lr_scheduler.LambdaLR(adam, factor)
