"""Matrix products on a CPU by oneDNN against torch's own: python -m benchmarks.products.

The four linear maps of a GPT-2 layer of --width, float32, --layers of them one after another so
that the weights do not stay in the nearest cache: forward without gradients, as in sampling, and
forward and backward. Every repeat has another number of rows near the one asked for, rounded as the
trainer rounds it, and both ways in turn. Ours is oneDNN also on a processor on which the trainer
leaves products to torch.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer import products
from trainer.products import linear, rounded

Linear = Callable[[Tensor, Tensor, Tensor], Tensor]


def speed(by: Linear, weights: list[tuple[Tensor, Tensor]], rows: int, training: bool) -> float:
    """GFLOP/s of a pass through the maps, and with `training` back, each given its own inputs."""
    inputs = [torch.randn(rows, weight.shape[1]).requires_grad_(training) for weight, _ in weights]
    gradients = [torch.randn(rows, weight.shape[0]) for weight, _ in weights]
    began = time.perf_counter()
    with torch.set_grad_enabled(training):
        outputs = [by(x, *weight) for x, weight in zip(inputs, weights, strict=True)]
    if training:
        torch.autograd.backward(outputs, gradients)
    took = time.perf_counter() - began
    for weight, bias in weights:
        weight.grad = bias.grad = None
    multiplied = rows * sum(weight.numel() for weight, _ in weights)
    return (6 if training else 2) * multiplied / took / 1e9


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--rows", type=int, nargs="+", default=[32, 256, 2048, 8192])
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    taken = "ours" if products.prefers_onednn() else "peer"
    products.prefers_onednn = cache(lambda: True)
    rng = random.Random(1)
    width = given.width
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    weights = [
        (torch.randn(shape, requires_grad=True), torch.randn(shape[0], requires_grad=True))
        for shape in given.layers * shapes
    ]
    ways: dict[str, Linear] = {"ours": linear, "peer": F.linear}
    lines: list[dict[str, float | str]] = []
    print(f"{'':<22}{'rows':>6}{'ours GFLOP/s':>14}{'peer GFLOP/s':>14}{'ratio':>8}")
    for what, training in (("forward", False), ("forward and backward", True)):
        for near in given.rows:
            found: dict[str, list[float]] = {name: [] for name in ways}
            for repeat in range(given.repeats + 1):
                rows = rounded(rng.randint(max(1, 7 * near // 8), near), torch.device("cpu"))
                for name, by in ways.items():
                    reached = speed(by, weights, rows, training)
                    if repeat:
                        found[name].append(reached)
            ours, peer = (round(statistics.median(found[name]), 1) for name in ways)
            print(f"{what:<22}{near:>6}{ours:>14.0f}{peer:>14.0f}{ours / peer:>8.2f}", flush=True)
            lines.append({"what": what, "rows": near, "ours_gflops": ours, "peer_gflops": peer})
    about = {"width": width, "layers": given.layers, "threads": given.threads, "taken": taken}
    print(json.dumps({"bench": "products", **about, "sizes": lines}))


if __name__ == "__main__":
    main()
