"""One trainer at a time works on a run directory, and none outlives its launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.trainer.conftest import (
    ROOT,
    MakeRun,
    demonstrations,
    metric_lines,
    start_trainer,
    wait_for_steps,
)
from tests.trainer.test_processes import TWO
from trainer.contract import EXIT_STOPPED, read_result

pytestmark = pytest.mark.train


def long_run(base_run: Path, make_run: MakeRun, epochs: int) -> Path:
    return make_run(
        "sft",
        kind="sft",
        models={"init": str(base_run / "model")},
        data={"demonstrations": demonstrations()},
        config={"epochs": epochs, "batch_size": 4, "checkpoint_seconds": 0.0},
    )


def test_a_second_trainer_is_refused(base_run: Path, make_run: MakeRun) -> None:
    run = long_run(base_run, make_run, 300)
    first = start_trainer("sft", run)
    wait_for_steps(run, 3)
    second = start_trainer("sft", run)
    assert second.communicate()[0] == f"trainer: {run}: another trainer works on it\n"
    assert second.returncode == 1
    first.terminate()
    assert first.wait(60) == EXIT_STOPPED
    steps = [line["step"] for line in metric_lines(run) if line["phase"] == "train"]
    assert steps == sorted(set(steps))
    again = start_trainer("sft", run)  # which a trainer that has ended does not hinder
    wait_for_steps(run, len(steps) + 1)
    again.kill()
    again.wait(60)


def test_trainers_end_with_their_launcher(base_run: Path, make_run: MakeRun) -> None:
    run = long_run(base_run, make_run, 8)

    def launch() -> subprocess.Popen[bytes]:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", *TWO]
        return subprocess.Popen(
            [*launcher, "-m", "trainer", "sft", str(run)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    first = launch()
    wait_for_steps(run, 3)
    trainers = psutil.Process(first.pid).children(recursive=True)
    assert len(trainers) == 2
    first.send_signal(signal.SIGKILL)
    first.wait()
    deadline = time.monotonic() + 60
    while any(trainer.is_running() for trainer in trainers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(trainer.is_running() for trainer in trainers)
    assert read_result(run) is None
    assert launch().wait(120) == 0
    steps = [line["step"] for line in metric_lines(run) if line["phase"] == "train"]
    assert steps == sorted(set(steps))
    assert read_result(run) is not None


ENDS = """
import atexit, sys, time
from accelerate.state import PartialState
from trainer.__main__ import end
from trainer.processes import Processes

processes, parts = Processes(), PartialState.destroy_process_group

def noted(state):
    print("a process parts", flush=True)
    parts(state)

PartialState.destroy_process_group = noted
atexit.register(print, "an interpreter ends")
if processes.main:
    time.sleep(2)
    print("the model is written", flush=True)
end(int(sys.argv[1]))
"""


def test_processes_end_together(tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text(ENDS)
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *TWO, str(script), "0"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("a ", "an ", "the "))]
    assert said == ["the model is written", "a process parts", "a process parts"]
