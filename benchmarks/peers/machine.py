"""Where a benchmark runs. It imports little, so that what is measured decides what is loaded."""

from __future__ import annotations

import os
import resource

GPU = os.environ.get("BENCHMARK_GPU") == "1"
WHERE = {"bf16": GPU, "use_cpu": not GPU}  # of a trainer's arguments


def peak_mb() -> float:
    """The most memory that the process held, or its tensors on the GPU."""
    if GPU:
        import torch

        return float(torch.cuda.max_memory_allocated()) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
