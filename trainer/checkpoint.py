"""Checkpoints: atomic, the newest and the best kept, an exact resume, the answer to SIGTERM.

Random numbers need no saving: every step seeds its own generators from (seed, step), and the order
of the data is a pure function of the seed. So the state of a run is its step and its tensors. The
tensors are a safetensors file, everything else is JSON: nothing is ever loaded by pickle.

A checkpoint is written in a directory whose name begins with a dot, and renamed when it is whole
and on the disk; it gets such a name again before it is removed. So what has a name counts.
What has any other name is not ours, and left alone.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.contract import CHECKPOINTS, ContractError, check_inputs, write_json
from trainer.metrics import sync, writing
from trainer.processes import Processes, full, sharded_like

STATE = "state.json"
TENSORS = "tensors.safetensors"


class Part(Protocol):
    """A model, an optimizer, an average: what has a state of tensors and plain numbers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class StopRequestedError(Exception):
    """SIGTERM came: the run goes on from the state that it saved last."""


@dataclass(frozen=True)
class Best:
    """The step whose figure was the highest so far; its checkpoint is kept."""

    step: int
    figure: float


class Checkpoints:
    """Saves `parts` and resumes them. One is made a run, before the first step.

    inputs are what the run is made of (trainer.contract.inputs_of); with others it cannot go on.
    """

    # SIGTERM came. It is the process's: cross-validation makes many of these, one after another.
    stop: ClassVar[bool] = False

    def __init__(
        self,
        run_dir: Path,
        parts: Mapping[str, Part],
        processes: Processes,
        *,
        inputs: dict[str, str],
        seconds: float,
        kept: int,
    ) -> None:
        self.directory = run_dir / CHECKPOINTS
        with writing(self.directory):
            self.directory.mkdir(exist_ok=True)
        self.parts = parts
        self.processes = processes
        self.seconds = seconds
        self.kept = kept
        self.best: Best | None = None
        self.inputs = inputs
        self._saved_at = time.monotonic()
        signal.signal(signal.SIGTERM, self._on_sigterm)

    @staticmethod
    def _on_sigterm(_signal: int, _frame: object) -> None:
        Checkpoints.stop = True

    def resume(self) -> int:
        """Load the newest checkpoint into the parts and return its step, 0 where there is none.

        Raises ContractError when the run's inputs are not those the checkpoint was made with, or
        it is damaged, and TrainingError where what a killed run left cannot be removed.
        """
        if self.processes.main:
            with writing(self.directory):
                for stale in self._saved(hidden=True):
                    shutil.rmtree(stale)
        saved = self._saved()
        if not saved:
            return 0
        before = "go on from the one before" if len(saved) > 1 else "start over"
        state = self._load(saved[-1], self.parts, f"it can be removed, to {before}")
        self.best = Best(**state["best"]) if state.get("best") else None
        return int(state["step"])

    def load_best(self, *names: str) -> None:
        """Load these parts from the best checkpoint. There must be one.

        All processes must call.
        """
        assert self.best is not None
        self.processes.wait()  # until the one that writes has written it
        wanted = {name: self.parts[name] for name in names}
        self._load(self._path(self.best.step), wanted, f"remove {self.directory} to start over")

    def _load(self, path: Path, parts: Mapping[str, Part], advice: str) -> dict[str, Any]:
        """Load the parts from a checkpoint and return its state.json.

        advice says what to do where it is damaged.
        """
        with _reading(path, advice):
            state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
            other = "inputs" not in state or parts.keys() - state["parts"].keys()
        if other:
            raise ContractError(
                f"{path}: made by another version of the trainer; remove {self.directory} to "
                "start over"
            )
        check_inputs(state["inputs"], self.inputs, path, str(self.directory))
        with _reading(path, advice):
            tensors = load_file(path / TENSORS)
            merged = {name: _merged(state["parts"][name], tensors) for name in parts}
        for name, part in parts.items():
            part.load_state_dict(_sharded(part, merged[name]))
        return state

    def after(self, step: int, figure: float | None = None) -> None:
        """To be called when a step is done and logged. Saves when it is time to.

        The figure, where a step has one, says how good the state is, the higher the better; the
        same in every process. The first state with the highest figure so far is saved at once, and
        kept.

        Raises StopRequestedError, once the state is saved, when SIGTERM came during the step, to
        any of the processes. Raises TrainingError where the state cannot be written.
        """
        better = figure is not None and (self.best is None or figure > self.best.figure)
        if figure is not None and better:
            self.best = Best(step, figure)
        due = self.processes.main and time.monotonic() - self._saved_at >= self.seconds
        due = self.processes.sum(float(due)) > 0  # all of them save, or none
        stop = self.processes.sum(float(self.stop)) > 0
        if due or stop or better:
            self.save(step)
        if stop:
            Checkpoints.stop = False
            raise StopRequestedError(f"stopped after step {step}")

    def save(self, step: int) -> None:
        """Write checkpoints/step_N beside and rename, then drop all but the newest and the best.

        All processes must call; one writes.
        """
        tensors: dict[str, Tensor] = {}
        parts = {
            name: _split(part.state_dict(), tensors, kept=self.processes.main)
            for name, part in self.parts.items()
        }
        self._saved_at = time.monotonic()
        if not self.processes.main:
            return
        final = self._path(step)
        if not final.exists():
            temporary = self._path(step, hidden=True)
            best = asdict(self.best) if self.best else None
            state = {"step": step, "inputs": self.inputs, "best": best, "parts": parts}
            try:
                with writing(final):
                    temporary.mkdir()
                    save_file(tensors, temporary / TENSORS)
                    sync(temporary / TENSORS)
                    write_json(temporary / STATE, state)
                    sync(temporary)
                    temporary.rename(final)
                    sync(self.directory)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        with writing(self.directory):
            for path in self._saved()[: -self.kept]:
                if self.best is None or _step(path) != self.best.step:
                    shutil.rmtree(path.rename(self._path(_step(path), hidden=True)))

    def _saved(self, *, hidden: bool = False) -> list[Path]:
        """The checkpoints, from the oldest to the newest, or what is left of those being written or
        removed.
        """
        name = re.compile(rf"{'[.]' if hidden else ''}step_[1-9][0-9]*")
        saved = [p for p in self.directory.iterdir() if name.fullmatch(p.name) and p.is_dir()]
        return sorted(saved, key=_step)

    def _path(self, step: int, *, hidden: bool = False) -> Path:
        return self.directory / f"{'.' if hidden else ''}step_{step}"


@contextmanager
def _reading(path: Path, advice: str) -> Iterator[None]:
    """Around reading a checkpoint. Raises ContractError where it cannot be read or is damaged."""
    try:
        yield
    except PermissionError as error:
        raise ContractError(f"{path}: cannot be read: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ContractError(f"{path}: it is damaged ({error}); {advice}") from error


def _split(state: Any, tensors: dict[str, Tensor], *, kept: bool) -> Any:
    """The state as JSON, its tensors, whole, replaced by their names in `tensors`, if kept there.

    A dict becomes a list of pairs: an optimizer's has keys that are numbers.
    """
    if isinstance(state, Tensor):
        whole = full(state.detach())
        name = str(len(tensors))
        if kept:
            # On the CPU, and tied weights twice: a file holds no tensor that shares its memory.
            tensors[name] = torch.empty(whole.shape, dtype=whole.dtype).copy_(whole)
        return {"tensor": name}
    if isinstance(state, Mapping):
        return {"items": [[key, _split(value, tensors, kept=kept)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return [_split(value, tensors, kept=kept) for value in state]
    return state


def _merged(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_split` took apart; tuples are lists."""
    if isinstance(state, dict):
        if "tensor" in state:
            return tensors[state["tensor"]]
        return {key: _merged(value, tensors) for key, value in state["items"]}
    if isinstance(state, list):
        return [_merged(value, tensors) for value in state]
    return state


def _sharded(part: Part, state: dict[str, Any]) -> dict[str, Any]:
    """The state with its whole tensors sharded as the part's are; as it is where they are whole."""
    if isinstance(part, torch.optim.Optimizer):
        parameters = [p for group in part.param_groups for p in group["params"]]
        for index, own in state["state"].items():
            like = parameters[index]
            state["state"][index] = {
                key: sharded_like(value, like) if value.shape == like.shape else value
                for key, value in own.items()
            }
        return state
    now = part.state_dict()
    return {name: sharded_like(value, now[name]) for name, value in state.items()}


def _step(path: Path) -> int:
    return int(path.name.rpartition("_")[2])
