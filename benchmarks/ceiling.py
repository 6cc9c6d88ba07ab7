"""What matrix products reach at most on the GPU: python -m benchmarks.ceiling.

Square products in bfloat16, the best of several sizes. One JSON line: tflops.
"""

from __future__ import annotations

import json
import time

import torch

SIZES = (4096, 8192, 12288)
TIMES = 20


def tflops(size: int) -> float:
    """Of TIMES products of two (size, size) matrices."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(TIMES):
        a @ b
    torch.cuda.synchronize()
    return 2 * size**3 * TIMES / (time.perf_counter() - began) / 1e12


if __name__ == "__main__":
    print(json.dumps({"tflops": max(tflops(size) for size in SIZES)}))
