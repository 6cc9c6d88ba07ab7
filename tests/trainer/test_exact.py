"""A run that is killed, stopped or out of room goes on and ends bit for bit as if it had not been.

PLUMBLINE_KILL_SEED repeats the moments at which a failed run of these tests killed.
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import (
    BASE_CONFIG,
    MakeRun,
    demonstrations,
    metric_lines,
    prompts,
    rankings,
    split_of,
    start_trainer,
    texts,
)
from trainer.base import train_base
from trainer.contract import CHECKPOINTS, EXIT_STOPPED, read_result
from trainer.ppo import train_ppo
from trainer.reward import train_reward
from trainer.sft import train_sft

pytestmark = pytest.mark.train

TRAIN = {"base": train_base, "sft": train_sft, "reward": train_reward, "ppo": train_ppo}
SAVED = {"checkpoint_seconds": 0, "pass_tokens": 100}  # after every step, of several passes each


def spec_of(kind: str, base: str, reward: str) -> dict[str, Any]:
    if kind == "base":
        config = BASE_CONFIG | {"steps": 100, "checkpoint_seconds": 0}
        return {"data": {"pretraining": texts(60)}, "config": config}
    if kind == "sft":
        return {
            "models": {"init": base},
            "data": {"demonstrations": demonstrations(), "pretraining": texts(50)},
            "config": {
                **SAVED,
                "epochs": 20,
                "batch_size": 4,
                "pretraining_fraction": 0.1,
                "pretraining_rows": 2,
                "pretraining_tokens": 16,
            },
        }
    if kind == "reward":
        return {
            "models": {"init": base},
            "data": {"rankings": rankings(8), "demonstrations": demonstrations()},
            "config": {**SAVED, "epochs": 3, "members": 2},
        }
    return {
        "models": {"init": base, "reference": base, "reward": reward},
        "data": {
            "prompts": [
                {"prompt_id": i, "prompt": p, "split": split_of(i)} for i, p in enumerate(prompts())
            ],
            "pretraining": texts(50),
        },
        "config": {
            **SAVED,
            "episodes": 16 * 16,
            "batch_episodes": 16,
            "minibatches": 2,
            "inner_epochs": 2,
            "max_completion_tokens": 12,
            "kl_controller": "adaptive",
            "warmup_iterations": 5,
            "ptx_tokens": 16,
        },
    }


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until the checkpoint of a step is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if newest(run) >= step:
            return
        time.sleep(0.001)
    raise AssertionError(f"{run}: not after step {step}: {process.communicate()[0]}")


def wait_for_a_write(run: Path, last: int) -> bool:
    """Until a checkpoint is being written; False where none was seen up to step `last`."""
    while newest(run) < last:
        if any((run / CHECKPOINTS).glob(".step_*")):
            return True
    return False


def newest(run: Path) -> int:
    names = [path.name for path in (run / CHECKPOINTS).glob("step_*")]
    return max((int(name.removeprefix("step_")) for name in names), default=0)


def same(run: Path, whole: Path) -> None:
    """The two runs wrote the same: weights, figures, card, the whole state after the last step."""
    ours, theirs = (
        [
            (
                line["step"],
                line["phase"],
                {k: v for k, v in line["values"].items() if not k.startswith("speed/")},
            )
            for line in metric_lines(each)
        ]
        for each in (run, whole)
    )
    assert ours == theirs
    ended, expected = read_result(run), read_result(whole)
    assert ended is not None
    assert expected is not None
    assert replace(ended, seconds=expected.seconds) == expected
    last = f"{CHECKPOINTS}/step_{ours[-1][0]}"
    for name in (
        "model/model.safetensors",
        "model/README.md",
        f"{last}/tensors.safetensors",
        f"{last}/state.json",
    ):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["base", "sft", "reward", "ppo"])
def test_a_run_killed_at_any_step_ends_the_same(
    base_run: Path, reward_run: Path, make_run: MakeRun, kind: str
) -> None:
    spec = spec_of(kind, str(base_run / "model"), str(reward_run / "model"))
    whole, killed = (make_run(name, kind=kind, seed=5, **spec) for name in ("whole", "killed"))
    TRAIN[kind](whole)
    total = metric_lines(whole)[-1]["step"]

    seed = int(os.environ.get("PLUMBLINE_KILL_SEED") or random.randrange(1 << 32))
    rng = random.Random(seed)
    third = total // 4  # of what is run through before the last kill, which may have to wait
    kills = [rng.randrange(third * i, third * (i + 1)) for i in range(3)]
    if kind == "base":
        del kills[1:]
    print(f"PLUMBLINE_KILL_SEED={seed}: {kind} killed after steps {kills} of {total}")
    for step in kills:
        process = start_trainer(kind, killed)
        wait_for_step(process, killed, step)
        if step == kills[-1]:
            print("killed in a write:", wait_for_a_write(killed, total - total // 8))
        else:
            time.sleep(rng.uniform(0, 0.1))  # into the next step
        process.kill()
        assert process.wait(60) == -signal.SIGKILL, process.communicate()[0]
        assert len(list((killed / CHECKPOINTS).glob("step_*"))) <= 3  # two, one not yet removed
        assert read_result(killed) is None
        with (killed / "metrics.jsonl").open("a") as file:
            file.write('{"step": 99, "half a li')
    TRAIN[kind](killed)
    same(killed, whole)

    # Killed between the last checkpoint and the result; then also before the last checkpoint.
    for lost in ("result.json", f"{CHECKPOINTS}/step_{total}"):
        (killed / "result.json").unlink()
        shutil.rmtree(killed / lost, ignore_errors=True)
        TRAIN[kind](killed)
        same(killed, whole)


def test_a_stop_while_modules_are_imported_is_a_stop(base_run: Path, make_run: MakeRun) -> None:
    run = make_run("sft", kind="sft", **spec_of("sft", str(base_run / "model"), ""))
    for delay in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6):
        process = start_trainer("sft", run)
        status = Path(f"/proc/{process.pid}/status")
        while not int(re.findall(r"SigCgt:\s*(\w+)", status.read_text())[0], 16) >> 14 & 1:
            time.sleep(0.001)  # until it takes SIGTERM itself
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == EXIT_STOPPED, output
        assert "Traceback" not in output
        assert read_result(run) is None


def test_a_full_disk_leaves_the_last_checkpoint(base_run: Path, make_run: MakeRun) -> None:
    spec = spec_of("sft", str(base_run / "model"), "")
    spec["config"]["epochs"] = 8
    whole, run = (make_run(name, kind="sft", **spec) for name in ("whole", "full"))
    train_sft(whole)

    stopped = start_trainer("sft", run)
    wait_for_step(stopped, run, 3)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == EXIT_STOPPED, stopped.communicate()[0]
    assert read_result(run) is None
    saved = sorted((run / CHECKPOINTS).iterdir())

    limit = saved[-1].joinpath("tensors.safetensors").stat().st_size // 2
    full = start_trainer(
        "sft",
        run,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    output = full.communicate()[0]
    assert full.returncode == 1
    assert "cannot be written" in output
    assert "make room and start the run again" in output
    assert "Traceback" not in output
    assert sorted((run / CHECKPOINTS).iterdir()) == saved

    train_sft(run)
    same(run, whole)
