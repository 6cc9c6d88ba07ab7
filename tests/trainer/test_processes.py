"""Two processes under accelerate's launcher do what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.conftest import (
    ROOT,
    MakeRun,
    demonstrations,
    metric_lines,
    prompts,
    rankings,
    split_of,
    texts,
)
from trainer.contract import COMPLETIONS
from trainer.ppo import train_ppo
from trainer.reward import train_reward
from trainer.sample import run_sample
from trainer.sft import train_sft

TRAIN = {"sft": train_sft, "reward": train_reward, "ppo": train_ppo, "sample": run_sample}
pytestmark = pytest.mark.train

# Adam divides a gradient by its own size: with the usual epsilon a difference of 1e-9 in a weight
# that has next to no gradient would become one of the learning rate.
STEADY = {"adam_eps": 1e-4, "pass_tokens": 60}


def launch(run_dirs: list[Path]) -> None:
    """These runs in two processes each, one run after another."""
    launcher = [
        *("-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"),
        *("--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", "-m", "tests.trainer.play_runs"),
    ]
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, run_dirs)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def spec_of(kind: str, base: str, reward: str) -> dict[str, Any]:
    if kind == "sft":
        return {
            "models": {"init": base},
            "data": {"demonstrations": demonstrations(), "pretraining": texts(30)},
            "config": {
                **STEADY,
                "epochs": 2,
                "batch_size": 5,
                "residual_dropout": 0.0,  # each process draws its own
                "pretraining_fraction": 0.1,
                "pretraining_rows": 2,
                "pretraining_tokens": 16,
            },
        }
    if kind == "reward":
        return {
            "models": {"init": base},
            "data": {"rankings": rankings(2), "demonstrations": demonstrations()},
            "config": {**STEADY, "epochs": 1, "batch_prompts": 5, "members": 2},
        }
    if kind == "ppo":
        return {
            "models": {"init": base, "reference": base, "reward": reward},
            "data": {
                "prompts": [
                    {"prompt_id": i, "prompt": p, "split": split_of(i)}
                    for i, p in enumerate(prompts())
                ],
                "pretraining": texts(50),
            },
            "config": {
                **STEADY,
                "episodes": 4 * 16,
                "batch_episodes": 16,
                "max_completion_tokens": 12,
                "warmup_iterations": 2,
                "ptx_tokens": 16,
                "ptx_coefficient": 0.1,
            },
        }
    return {
        "models": {"base": base, "reward": reward},
        "data": {
            "requests": [
                {
                    "prompt_id": i,
                    "prompt": p,
                    "policy": "base",
                    "n": 1 + i % 3,
                    "best_of": 1 + i % 2,
                }
                for i, p in enumerate(prompts())
            ]
        },
        "config": {"batch_completions": 7, "max_completion_tokens": 12},
    }


def test_two_processes_do_what_one_does(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    kinds = ("sft", "reward", "ppo", "sample")
    runs: dict[int, list[Path]] = {1: [], 2: []}
    for processes, made in runs.items():
        for kind in kinds:
            spec = spec_of(kind, str(base_run / "model"), str(reward_run / "model"))
            made.append(make_run(f"{kind}-{processes}", kind=kind, seed=7, **spec))
    for kind, run in zip(kinds, runs[1], strict=True):
        TRAIN[kind](run)
    launch(runs[2])
    for kind, one, two in zip(kinds, runs[1], runs[2], strict=True):
        same_figures(metric_lines(one), metric_lines(two))
        if kind == "sample":
            assert texts_of(one) == texts_of(two)
            continue
        ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (one, two))
        for name, weights in ours.items():
            torch.testing.assert_close(theirs[name], weights, rtol=0, atol=1e-5)


def same_figures(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) > 2
    for one, two in zip(ours, theirs, strict=True):
        assert one["step"] == two["step"]
        for key, value in one["values"].items():
            if not key.startswith(("speed/", "ppo/first_ratio")):
                assert two["values"][key] == pytest.approx(value, abs=1e-5, rel=1e-4), key


def texts_of(run_dir: Path) -> list[str]:
    lines = (run_dir / COMPLETIONS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]
