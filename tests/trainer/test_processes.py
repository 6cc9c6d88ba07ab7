"""Two processes under accelerate's launcher do what one does, sharded or not, and in bfloat16."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.conftest import (
    ROOT,
    demonstrations,
    metric_lines,
    prompts,
    rankings,
    split_of,
    texts,
    write_run,
)
from trainer.contract import (
    CHECKPOINTS,
    COMPLETIONS,
    LOSS,
    PPO_HELD_OUT_LOSS,
    PPO_KL,
    PPO_SCORE,
    ContractError,
)
from trainer.ppo import RATIO_TOLERANCE, train_ppo
from trainer.processes import Processes
from trainer.reward import train_reward
from trainer.sample import run_sample
from trainer.sft import train_sft

TRAIN = {"sft": train_sft, "reward": train_reward, "ppo": train_ppo, "sample": run_sample}
pytestmark = pytest.mark.train

SEVERAL_PASSES = {"pass_tokens": 60}
CONFIGS = ROOT / "trainer" / "accelerate"
TWO = ("--config_file", str(CONFIGS / "two_processes.yaml"))
SHARDED = ("--config_file", str(CONFIGS / "fsdp2.yaml"), "--mixed_precision", "no")


def start(run_dirs: list[Path], *launcher: str) -> subprocess.Popen[str]:
    """These runs under accelerate's launcher, one run after another."""
    module = ("-m", "tests.trainer.play_runs")
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", *launcher, *module]
        + [str(run) for run in run_dirs],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """The launcher, and what it started."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in started:
        child.kill()
    process.communicate()


def launch(run_dirs: list[Path], *launcher: str, processes: int, sharded: bool = False) -> None:
    """The same, to the end."""
    process = start(run_dirs, *launcher)
    output = process.communicate()[0]
    assert process.returncode == 0, output[-6000:]
    number = "1 process" if processes == 1 else f"{processes} processes"
    said = f"{number}{', sharded' if sharded else ''} on cpu, passes in "
    assert output.count(said) == len(run_dirs)


def spec_of(kind: str, base: str, reward: str) -> dict[str, Any]:
    if kind == "sft":
        return {
            "models": {"init": base, "reward": reward},
            "data": {"demonstrations": demonstrations(), "pretraining": texts(30)},
            "config": {
                **SEVERAL_PASSES,
                "epochs": 2,
                "batch_size": 5,
                "residual_dropout": 0.0,  # each process draws its own
                "pretraining_fraction": 0.1,
                "pretraining_rows": 1,  # fewer documents than processes
                "pretraining_tokens": 16,
                "max_completion_tokens": 12,
            },
        }
    if kind == "reward":
        return {
            "models": {"init": base},
            "data": {"rankings": rankings(2), "demonstrations": demonstrations()},
            "config": {**SEVERAL_PASSES, "epochs": 1, "batch_prompts": 5, "members": 2},
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
                **SEVERAL_PASSES,
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


@pytest.fixture(scope="module")
def make(
    base_run: Path, reward_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Makes a run directory of a kind."""

    def made(kind: str, **config: Any) -> Path:
        spec = spec_of(kind, str(base_run / "model"), str(reward_run / "model"))
        spec["config"] |= config
        return write_run(tmp_path_factory.mktemp(kind) / "run", kind=kind, seed=7, **spec)

    return made


@pytest.fixture(scope="module")
def one(make: Callable[..., Path]) -> dict[str, Path]:
    """A run of each kind, in one process."""
    runs = {kind: make(kind) for kind in TRAIN}
    for kind, run in runs.items():
        TRAIN[kind](run)
    return runs


def test_two_processes_do_what_one_does(one: dict[str, Path], make: Callable[..., Path]) -> None:
    two = {kind: make(kind) for kind in TRAIN}
    launch(list(two.values()), *TWO, processes=2)
    for kind in TRAIN:
        same_figures(metric_lines(one[kind]), metric_lines(two[kind]))
        if kind == "sample":
            assert texts_of(one[kind]) == texts_of(two[kind])
        else:
            same_weights(one[kind], two[kind])


@pytest.mark.parametrize("minibatches", [1, 2])
def test_processes_with_unlike_shares_take_turns(
    make: Callable[..., Path], minibatches: int
) -> None:
    """One has the long prompts and so more passes than the other."""
    prompts = [
        "Name a cat.",
        "Name a cat, or a dog, or a red bird, or what else there is, and why.",
    ]
    runs = []
    for count in (1, 2):
        run = make(
            "ppo",
            episodes=4 * 8,
            batch_episodes=8,
            minibatches=minibatches,
            ptx_coefficient=0.0,
            max_completion_tokens=4,
            pass_tokens=60,
        )
        records = [
            {"prompt_id": i, "prompt": prompts[i % 2], "split": "train"} for i in range(2 * 8)
        ]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (run / "data" / "prompts.jsonl").write_text(lines)
        if count == 1:
            train_ppo(run)
        else:
            launch([run], *TWO, processes=2)
        runs.append(run)
    same_figures(*map(metric_lines, runs))
    same_weights(*runs)


def test_two_sharded_processes_do_what_one_does_and_resume(
    one: dict[str, Path], make: Callable[..., Path], tmp_path: Path
) -> None:
    two = {kind: make(kind, checkpoint_seconds=0) for kind in ("sft", "reward", "ppo")}
    process = start(list(two.values()), *SHARDED)
    checkpoint = two["ppo"] / CHECKPOINTS / "step_2"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    kill(process)
    assert checkpoint.exists()
    alone = shutil.copytree(two["ppo"], tmp_path / "alone")
    train_ppo(alone)
    launch([two["ppo"]], *SHARDED, processes=2, sharded=True)
    for kind, run in two.items():
        same_figures(metric_lines(one[kind]), metric_lines(run))
        same_weights(one[kind], run)
    # What two sharded processes saved one whole process goes on from.
    same_figures(metric_lines(one["ppo"]), metric_lines(alone))
    same_weights(one["ppo"], alone)


def test_bfloat16_trains_with_weights_and_optimizer_in_float32(
    one: dict[str, Path], make: Callable[..., Path]
) -> None:
    more: dict[str, Any] = {"sft": {"epochs": 8}, "reward": {"epochs": 8, "learning_rate": 3e-3}}
    more["ppo"] = {"episodes": 32 * 16}
    runs = {kind: make(kind, checkpoint_seconds=0, **config) for kind, config in more.items()}
    launch(list(runs.values()), "--config_file", str(CONFIGS / "bf16.yaml"), processes=1)
    for kind in ("sft", "reward"):
        losses = [v[LOSS] for v in values_of(runs[kind]) if LOSS in v]
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5]), losses
    iterations = values_of(runs["ppo"])
    assert len(iterations) == 32
    # Sixteen episodes at a high learning rate: up and down, but up from one half to the next.
    scores = [v[PPO_SCORE] for v in iterations]
    assert sum(scores[16:]) > sum(scores[:16]), scores
    computed_in_half_and_kept_in_full(runs, one["ppo"])


def test_sharded_bfloat16_keeps_weights_and_optimizer_in_float32(
    one: dict[str, Path], make: Callable[..., Path]
) -> None:
    runs = {kind: make(kind, checkpoint_seconds=0) for kind in ("sft", "ppo")}
    config = str(CONFIGS / "fsdp2.yaml")
    launch(list(runs.values()), "--config_file", config, processes=2, sharded=True)
    losses = [v[LOSS] for v in values_of(runs["sft"]) if LOSS in v]
    assert losses[-1] < losses[0] - 1
    computed_in_half_and_kept_in_full(runs, one["ppo"])
    assert abs(values_of(runs["ppo"])[0][PPO_KL]) < 1e-5  # of the reference, rounded alike


def computed_in_half_and_kept_in_full(runs: dict[str, Path], whole: Path) -> None:
    """PPO's first loss on held-out text is off by what bfloat16 rounds from that of the float32 run
    `whole`, and every tensor of a state is float32.
    """
    loss, expected = (values_of(run)[0][PPO_HELD_OUT_LOSS] for run in (runs["ppo"], whole))
    assert 1e-5 < abs(loss / expected - 1) < 0.02
    errors = [v["ppo/first_ratio_error"] for v in values_of(runs["ppo"])]
    assert max(errors) < RATIO_TOLERANCE["bf16"][1]
    for run in runs.values():
        newest = run / CHECKPOINTS / f"step_{metric_lines(run)[-1]['step']}"
        state = load_file(newest / "tensors.safetensors")
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def values_of(run_dir: Path) -> list[dict[str, float]]:
    return [line["values"] for line in metric_lines(run_dir)]


def same_weights(ours: Path, theirs: Path) -> None:
    one, two = (load_file(run / "model" / "model.safetensors") for run in (ours, theirs))
    assert one.keys() == two.keys()
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=0, atol=1e-5)


def same_figures(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) > 2
    for one, two in zip(ours, theirs, strict=True):
        assert one["step"] == two["step"]
        for key, value in one["values"].items():
            if not key.startswith(("speed/", "ppo/first_ratio")):
                relative = 0 if "loss" in key else 1e-4
                assert two["values"][key] == pytest.approx(value, abs=1e-5, rel=relative), key


def texts_of(run_dir: Path) -> list[str]:
    lines = (run_dir / COMPLETIONS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_a_precision_that_needs_scaled_losses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.processes.PRECISIONS", ("bf16",))
    with pytest.raises(ContractError, match="mixed precision no: the trainer computes in"):
        Processes()
