"""SFT and reward model have TRL's losses, step by step: the benchmarks compare them, run by run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.trainer.conftest import ROOT

pytestmark = pytest.mark.train
SMALL = {
    "sft": ("--batch", "4", "--steps", "3", "--together", "2"),
    "reward": ("--k", "4", "--prompt", "24", "--completion", "12", "--rankings", "6"),
}


@pytest.mark.parametrize("bench", SMALL)
def test_losses_are_trl_s(bench: str) -> None:
    asked = ["--peer", sys.executable, "--runs", "1", "--threads", "1", *SMALL[bench]]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{bench}", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr  # as where losses differ
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["bench"] == bench
    assert min(line[key] for key in ("ours_s", "peer_s", "ours_peak_mb", "peer_peak_mb")) > 0
