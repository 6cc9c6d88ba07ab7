"""`plumbline starter-model`: a base model without a model hub, as an ordinary checkpoint folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from app import storage
from app.simulation.corpus import starter_texts
from trainer import contract

STARTER_TEXTS = 30_000  # documents of the demo's world
MAX_DOCUMENT = 20_000  # characters; a longer paragraph is cut, so that one file is many documents


class StarterError(RuntimeError):
    """The model cannot be built. The message says why."""


def documents(paths: Iterable[Path]) -> Iterator[str]:
    """The documents of text files: paragraphs, as blank lines divide them.

    Raises StarterError for a file that is not UTF-8, or that has no text.
    """
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise StarterError(f"{path}: not UTF-8 at byte {error.start}.") from None
        found = [part.strip() for part in text.split("\n\n") if part.strip()]
        if not found:
            raise StarterError(f"{path}: there is no text in it.")
        for part in found:
            for start in range(0, len(part), MAX_DOCUMENT):
                yield part[start : start + MAX_DOCUMENT]


def build_starter(
    out: Path,
    paths: Sequence[Path],
    *,
    seed: int,
    steps: int | None,
    say: Callable[[str], None],
) -> None:
    """Train the starter base model into `out`. Raises StarterError, leaving nothing there."""
    if out.exists():
        raise StarterError(f"{out} exists already: choose a new folder.")
    texts = documents(paths) if paths else starter_texts(seed, STARTER_TEXTS)
    with tempfile.TemporaryDirectory(prefix="plumbline-starter-") as folder:
        run_dir = Path(folder)
        data = run_dir / contract.DATA
        data.mkdir()
        with (data / "pretraining.jsonl").open("w", encoding="utf-8") as file:
            for text in texts:
                record = contract.TextRecord(text=text).to_json()
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        config: dict[str, Any] = {} if steps is None else {"steps": steps}
        spec = contract.RunSpec(
            kind="base",
            seed=seed,
            preset="starter",
            config=config,
            data={"pretraining": "pretraining.jsonl"},
        )
        contract.write_json(run_dir / contract.SPEC, spec.to_json())
        say(f"Training a starter base model; its figures are in {run_dir / contract.METRICS}")
        command = [sys.executable, "-m", "trainer", "base", str(run_dir)]
        root = Path(__file__).resolve().parent.parent
        ended = subprocess.run(command, cwd=root, check=False)
        result = contract.read_result(run_dir)
        if ended.returncode != 0 or result is None or result.model is None:
            raise StarterError("The trainer did not finish; its words stand above.")
        storage.put(run_dir / result.model, out.resolve().as_uri())
    figures = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
    say(f"{out}: {figures}")
