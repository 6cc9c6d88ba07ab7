"""How the trainer's cost grows: python -m benchmarks.scaling [--steps N]

Time and memory of a step of the reward model and of SFT as one thing grows and all else stays: the
tokens of a batch, K, the prompt's length, and processes (under `accelerate launch`, gloo). A thread
a process, the 4M GPT-2 of benchmarks/versus.py, float32. Prints a table and one JSON line, and
draws docs/charts/scaling-*.svg. Processor time is drawn, which other work on the machine changes
little; the clock stands beside it in the table.

The exponent says how cost grows from the least size to the greatest: 1 is linear, below 1 is
cheaper than that (what a step costs whatever its size), 2 is quadratic.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chart import Line, line_chart
from benchmarks.versus import ROOT, save_models, words, write_run

CHARTS = ROOT / "docs" / "charts"
COMPLETION = 64  # tokens, end-of-text included
CONFIG = {
    "learning_rate": 1e-4,
    "max_prompt_tokens": 2000,
    "pass_tokens": 4096,
    "checkpoint_seconds": 1e9,
}


def reward_run(directory: Path, home: Path, steps: int, *, size: int, k: int, prompt: int) -> None:
    """A run directory of `steps` batches of `size` rankings."""
    rng = random.Random(1)
    records = [
        {
            "ranking_id": i,
            "prompt_id": i,
            "prompt": words(rng, prompt),
            "completions": [words(rng, COMPLETION - 1) for _ in range(k)],
            "groups": [[place] for place in rng.sample(range(k), k)],
            "split": "train",
            "labeler": "a",
        }
        for i in range(size * steps)
    ]
    write_run(
        directory,
        {"rankings": records},
        kind="reward",
        models={"init": str(home / "reward")},
        config={**CONFIG, "batch_prompts": size},
    )


def sft_run(directory: Path, home: Path, steps: int, *, size: int, prompt: int) -> None:
    """A run directory of `steps` epochs over `size` demonstrations, which are one batch."""
    rng = random.Random(1)
    records = [
        {
            "prompt_id": i,
            "prompt": words(rng, prompt),
            "completion": words(rng, COMPLETION - 1),
            "split": "train",
            "labeler": "a",
            "demonstration_id": i,
        }
        for i in range(size)
    ]
    write_run(
        directory,
        {"demonstrations": records},
        kind="sft",
        models={"init": str(home / "policy")},
        config={**CONFIG, "batch_size": size, "epochs": steps, "residual_dropout": 0.0},
    )


@dataclass(frozen=True)
class Series:
    """Runs in which one thing grows. sizes: what it is, and what a run of it is made with."""

    chart: str
    name: str
    make: Callable[..., None]
    sizes: Mapping[int, Mapping[str, int]]
    processes: bool = False


SERIES = (
    Series(
        "tokens",
        "reward model, K = 4",
        reward_run,
        {n * 384: {"size": n, "k": 4, "prompt": 128} for n in (2, 4, 8, 16)},
    ),
    Series(
        "tokens",
        "SFT",
        sft_run,
        {n * 192: {"size": n, "prompt": 128} for n in (4, 8, 16, 32)},
    ),
    Series(
        "k",
        "reward model",
        reward_run,
        {k: {"size": 4, "k": k, "prompt": 128} for k in (2, 3, 4, 6, 9)},
    ),
    Series(
        "prompt",
        "reward model, K = 4",
        reward_run,
        {n: {"size": 4, "k": 4, "prompt": n} for n in (64, 128, 256, 512, 1024, 1920)},
    ),
    Series(
        "prompt",
        "SFT",
        sft_run,
        {n: {"size": 4, "prompt": n} for n in (64, 128, 256, 512, 1024, 1920)},
    ),
    Series(
        "processes",
        "reward model, K = 4",
        reward_run,
        {n: {"size": 8, "k": 4, "prompt": 128} for n in (1, 2)},
        processes=True,
    ),
    Series(
        "processes",
        "SFT",
        sft_run,
        {n: {"size": 16, "prompt": 128} for n in (1, 2)},
        processes=True,
    ),
)
CHART = {  # title, axes; the figure that is drawn
    "tokens": ("Tokens in a batch", "tokens", "processor seconds a step", "cpu_seconds"),
    "k": ("Completions of a prompt", "K", "processor seconds a step", "cpu_seconds"),
    "prompt": (
        "Length of the prompt",
        "tokens of the prompt",
        "processor seconds a step",
        "cpu_seconds",
    ),
    "processes": (
        "Processes",
        "processes",
        "processor seconds a step, of all together",
        "cpu_seconds",
    ),
}


def measured(arguments: list[str]) -> list[dict[str, Any]]:
    """The JSON lines that benchmarks.timed prints when Python is started with these arguments."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "ACCELERATE_USE_CPU": "true",  # without it accelerate starts one process on a CPU
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    # Two processes may end up on one line.
    return [json.loads(found) for found in re.findall(r'\{"seconds".*?\}', done.stdout)]


def launched(processes: int, run_dir: Path) -> dict[str, Any]:
    """One run in so many processes: the clock of the slowest, processor time and memory of all."""
    if processes == 1:
        return measured(["-m", "benchmarks.timed", str(run_dir)])[0]
    launcher = [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
        *("--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", "-m", "benchmarks.timed", str(run_dir)),
    ]
    own = measured(launcher)
    if len(own) != processes:
        raise SystemExit(f"{run_dir}: {len(own)} processes instead of {processes}")
    return {
        "seconds": max(one["seconds"] for one in own),
        "cpu_seconds": sum(one["cpu_seconds"] for one in own),
        "peak_mb": sum(one["peak_mb"] for one in own),
    }


def figures_of(series: Series, home: Path, steps: int) -> list[dict[str, float]]:
    """Seconds a step, processor seconds a step, and peak memory of each size."""
    run_dirs = []
    for size, made_with in series.sizes.items():
        run_dirs.append(home / f"{series.chart}-{series.make.__name__}-{size}")
        series.make(run_dirs[-1], home, steps + 1, **made_with)
    if series.processes:
        found = [launched(n, run_dir) for n, run_dir in zip(series.sizes, run_dirs, strict=True)]
    else:
        found = measured(["-m", "benchmarks.timed", *map(str, run_dirs)])
    return [
        {
            "seconds": one["seconds"] / steps,
            "cpu_seconds": one["cpu_seconds"] / steps,
            "peak_mb": one["peak_mb"],
        }
        for one in found
    ]


def exponent(sizes: list[int], cost: list[float]) -> float:
    """How cost grows from the first size to the last: cost ~ size ** exponent."""
    return math.log(cost[-1] / cost[0]) / math.log(sizes[-1] / sizes[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=4, help="measured, after one that is not")
    given = parser.parse_args()
    lines: dict[str, list[Line]] = {chart: [] for chart in CHART}
    report = []
    print(f"{'':<32}{'size':>8}{'s a step':>10}{'CPU s':>10}{'peak MB':>10}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        save_models(home, "4M")
        for series in SERIES:
            sizes = list(series.sizes)
            found = figures_of(series, home, given.steps)
            for size, one in zip(sizes, found, strict=True):
                print(
                    f"{series.chart + ', ' + series.name:<32}{size:>8}{one['seconds']:>10.3f}"
                    f"{one['cpu_seconds']:>10.3f}{one['peak_mb']:>10.0f}",
                    flush=True,
                )
            drawn = [one[CHART[series.chart][3]] for one in found]
            lines[series.chart].append(Line(series.name, sizes, drawn))
            grows = exponent(sizes, drawn)
            print(f"{'':<32}exponent {grows:.2f}", flush=True)
            rounded = [{key: round(value, 4) for key, value in one.items()} for one in found]
            report.append(
                {
                    "what": series.chart,
                    "series": series.name,
                    "sizes": sizes,
                    "figures": rounded,
                    "exponent": round(grows, 3),
                }
            )
    for chart, (title, x, y, _) in CHART.items():
        line_chart(
            CHARTS / f"scaling-{chart}.svg",
            title,
            lines[chart],
            x=x,
            y=y,
            low=0.0,
            dots=True,
            x_ticks=(0, 1, 2) if chart == "processes" else None,
        )
    print(json.dumps({"bench": "scaling", "steps": given.steps, "series": report}))


if __name__ == "__main__":
    main()
