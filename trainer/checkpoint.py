"""Checkpoints: atomic, the newest two kept, an exact resume, and the answer to SIGTERM.

Random numbers need no saving: every step seeds its own generators from (seed, step), and the order
of the data is a pure function of the seed. So the state of a run is its step and its tensors.
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

import torch

from trainer.contract import CHECKPOINTS, SPEC, ContractError, write_json

STATE = "state.json"
TENSORS = "tensors.pt"
KEPT = 2


class Part(Protocol):
    """A model, an optimizer, an average: what has a state of tensors and plain numbers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class StopRequestedError(Exception):
    """SIGTERM came and the state is saved."""


class Checkpoints:
    """Saves `parts` and resumes them. One is made a run, before the first step."""

    def __init__(self, run_dir: Path, parts: Mapping[str, Part], *, seconds: float) -> None:
        self.directory = run_dir / CHECKPOINTS
        self.directory.mkdir(exist_ok=True)
        self.parts = parts
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
        tensors = torch.load(newest / TENSORS, weights_only=True, map_location="cpu")
        for name, part in self.parts.items():
            part.load_state_dict(tensors[name])
        return int(state["step"])

    def after(self, step: int) -> None:
        """To be called when a step is done and logged. Saves when it is time to.

        Raises StopRequestedError, once the state is saved, when SIGTERM came during the step.
        """
        if self._stop or time.monotonic() - self._saved_at >= self.seconds:
            self.save(step)
        if self._stop:
            raise StopRequestedError(f"stopped after step {step}")

    def save(self, step: int) -> None:
        """Write checkpoints/step_N beside and rename, then drop all but the newest."""
        final = self.directory / f"step_{step}"
        if not final.exists():
            temporary = self.directory / f".step_{step}"
            temporary.mkdir()
            with (temporary / TENSORS).open("wb") as file:
                torch.save({name: part.state_dict() for name, part in self.parts.items()}, file)
                file.flush()
                os.fsync(file.fileno())
            write_json(temporary / STATE, {"step": step, "spec": self.spec_digest})
            temporary.rename(final)
        for old in sorted(self.directory.glob("step_*"), key=_step)[:-KEPT]:
            shutil.rmtree(old)
        self._saved_at = time.monotonic()


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
