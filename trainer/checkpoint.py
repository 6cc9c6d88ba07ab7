"""Checkpoints: atomic, the newest two kept, an exact resume, and the answer to SIGTERM.

Random numbers need no saving: every step seeds its own generators from (seed, step), and the order
of the data is a pure function of the seed. So the state of a run is its step and its tensors. The
tensors are a safetensors file, everything else is JSON: nothing is ever loaded by pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.contract import CHECKPOINTS, SPEC, ContractError, write_json
from trainer.processes import Processes

STATE = "state.json"
TENSORS = "tensors.safetensors"
KEPT = 2


class Part(Protocol):
    """A model, an optimizer, an average: what has a state of tensors and plain numbers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class StopRequestedError(Exception):
    """SIGTERM came and the state is saved."""


class Checkpoints:
    """Saves `parts` and resumes them. One is made a run, before the first step."""

    def __init__(
        self, run_dir: Path, parts: Mapping[str, Part], processes: Processes, *, seconds: float
    ) -> None:
        self.directory = run_dir / CHECKPOINTS
        self.directory.mkdir(exist_ok=True)
        self.parts = parts
        self.processes = processes
        self.seconds = seconds
        self.spec_digest = hashlib.sha256((run_dir / SPEC).read_bytes()).hexdigest()
        self._saved_at = time.monotonic()
        self._stop = False
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, _signal: int, _frame: object) -> None:
        self._stop = True

    def resume(self) -> int:
        """Load the newest checkpoint into the parts and return its step, 0 where there is none.

        Raises ContractError when the run's spec is not the one the checkpoint was made with.
        """
        if self.processes.main:
            for stale in self.directory.glob(".*"):
                shutil.rmtree(stale)
        newest = max(self.directory.glob("step_*"), key=_step, default=None)
        if newest is None:
            return 0
        state = json.loads((newest / STATE).read_text(encoding="utf-8"))
        if state["spec"] != self.spec_digest:
            raise ContractError(
                f"{newest}: made with another {SPEC}; remove {self.directory} to start over"
            )
        tensors = load_file(newest / TENSORS)
        for name, part in self.parts.items():
            part.load_state_dict(_merged(state["parts"][name], tensors))
        return int(state["step"])

    def after(self, step: int) -> None:
        """To be called when a step is done and logged. Saves when it is time to.

        Raises StopRequestedError, once the state is saved, when SIGTERM came during the step, to
        any of the processes.
        """
        due = self.processes.main and time.monotonic() - self._saved_at >= self.seconds
        stop = self.processes.sum(float(self._stop)) > 0
        if due or stop:
            self.save(step)
        if stop:
            raise StopRequestedError(f"stopped after step {step}")

    def save(self, step: int) -> None:
        """Write checkpoints/step_N beside and rename, then drop all but the newest."""
        if not self.processes.main:  # all processes hold the same state
            return
        final = self.directory / f"step_{step}"
        if not final.exists():
            temporary = self.directory / f".step_{step}"
            temporary.mkdir()
            tensors: dict[str, Tensor] = {}
            parts = {name: _split(part.state_dict(), tensors) for name, part in self.parts.items()}
            save_file(tensors, temporary / TENSORS)
            with (temporary / TENSORS).open("rb") as file:
                os.fsync(file.fileno())
            write_json(temporary / STATE, {"step": step, "spec": self.spec_digest, "parts": parts})
            temporary.rename(final)
        for old in sorted(self.directory.glob("step_*"), key=_step)[:-KEPT]:
            shutil.rmtree(old)
        self._saved_at = time.monotonic()


def _split(state: Any, tensors: dict[str, Tensor]) -> Any:
    """The state as JSON, its tensors replaced by their names in `tensors`.

    A dict becomes a list of pairs: an optimizer's has keys that are numbers.
    """
    if isinstance(state, Tensor):
        name = str(len(tensors))
        tensors[name] = state.detach().clone().contiguous()  # tied weights are saved twice
        return {"tensor": name}
    if isinstance(state, Mapping):
        return {"items": [[key, _split(value, tensors)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return [_split(value, tensors) for value in state]
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


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
