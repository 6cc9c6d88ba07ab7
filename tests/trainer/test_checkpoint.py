"""What is kept of a run's checkpoints, what counts as one, and which is the best."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer.checkpoint import Best, Checkpoints, StopRequestedError
from trainer.contract import CHECKPOINTS, SPEC, ContractError
from trainer.processes import Processes


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / SPEC).write_text("{}")
    return tmp_path


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Checkpoints take SIGTERM over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def model_of(step: int) -> nn.Linear:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, step)
    return model


def checkpoints_of(
    run_dir: Path, model: nn.Module, *, kept: int = 2, seconds: float = 0
) -> Checkpoints:
    parts = {"model": model, "other": nn.Linear(2, 1)}
    return Checkpoints(run_dir, parts, Processes(), seconds=seconds, kept=kept)


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / CHECKPOINTS).iterdir())


def train(run_dir: Path, figures: dict[int, float | None], kept: int, seconds: float = 0) -> None:
    """A run whose weight is its step, resumed before each of these steps."""
    for step, figure in figures.items():
        checkpoints = checkpoints_of(run_dir, model_of(0), kept=kept, seconds=seconds)
        checkpoints.resume()
        nn.init.constant_(checkpoints.parts["model"].weight, step)  # type: ignore[attr-defined]
        checkpoints.after(step, figure)


def test_the_newest_are_kept(run_dir: Path) -> None:
    train(run_dir, dict.fromkeys(range(1, 6)), kept=3)
    assert names(run_dir) == ["step_3", "step_4", "step_5"]


def test_the_best_is_kept_beside_the_newest_and_can_be_loaded(run_dir: Path) -> None:
    train(run_dir, {1: -3.0, 2: -1.0, 3: None, 4: -1.0, 5: -2.0, 6: None}, kept=2)
    assert names(run_dir) == ["step_2", "step_5", "step_6"]  # the first of two that are even
    model = model_of(0)
    checkpoints = checkpoints_of(run_dir, model)
    other = checkpoints.parts["other"].state_dict()["weight"].clone()
    assert checkpoints.resume() == 6
    assert checkpoints.best == Best(2, -1.0)
    assert model.weight.item() == 6
    assert not torch.equal(checkpoints.parts["other"].state_dict()["weight"], other)
    checkpoints.load_best("model")
    assert model.weight.item() == 2
    checkpoints.after(7, 0.5)
    assert names(run_dir) == ["step_6", "step_7"]


def test_the_best_is_saved_before_its_time(run_dir: Path) -> None:
    train(run_dir, {1: 1.0, 2: 0.5, 3: None, 4: 2.0}, kept=2, seconds=1e9)
    assert names(run_dir) == ["step_1", "step_4"]


def test_half_a_checkpoint_does_not_count(run_dir: Path) -> None:
    train(run_dir, {1: None}, kept=2)
    half = run_dir / CHECKPOINTS / ".step_2"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    assert checkpoints_of(run_dir, model_of(0)).resume() == 1
    assert names(run_dir) == ["step_1"]


def test_a_stop_holds_for_whatever_the_process_does_next(run_dir: Path) -> None:
    """As in cross-validation, where it may come while the figures of one fold are computed."""
    checkpoints_of(run_dir, model_of(0))
    os.kill(os.getpid(), signal.SIGTERM)
    following = checkpoints_of(run_dir, model_of(0), seconds=1e9)
    with pytest.raises(StopRequestedError, match="stopped after step 1"):
        following.after(1)
    assert names(run_dir) == ["step_1"]
    following.after(2)
    assert names(run_dir) == ["step_1"]


def test_a_state_of_another_version_is_refused(run_dir: Path) -> None:
    train(run_dir, {1: None}, kept=2)
    model = nn.Linear(1, 1)
    later = Checkpoints(run_dir, {"model": model, "new": model}, Processes(), seconds=0, kept=2)
    with pytest.raises(ContractError, match="by another version of the trainer, without new"):
        later.resume()
