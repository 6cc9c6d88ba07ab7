"""A base model that is small enough to train in a test, and run directories for it.

Torch is imported when a fixture runs, so that collecting the suite stays quick.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "blue", "green", "white")
ANIMALS = ("cat", "dog", "bird", "fox")

# Sizes that every kind can train in a second or two.
BASE_CONFIG = {
    "vocab_size": 300,
    "context": 64,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "initial_deviation": 0.02,  # learns later: what it samples stays various
    "steps": 150,
    "batch_rows": 8,
    "row_tokens": 32,
}

MakeRun = Callable[..., Path]


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are for oneDNN, also where MKL is faster."""
    import torch

    from trainer import products

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    return lambda name, **spec: write_run(tmp_path / name, **spec)


def write_run(directory: Path, *, data: dict[str, Iterable[Any]], **spec: Any) -> Path:
    """A run directory: spec.json and one JSONL file for each part of `data`."""
    (directory / "data").mkdir(parents=True)
    for name, records in data.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (directory / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    spec = {"preset": "starter", "data": {name: f"{name}.jsonl" for name in data}, **spec}
    (directory / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    return directory


def start_trainer(kind: str, run_dir: Path, *given: str, **options: Any) -> subprocess.Popen[str]:
    """The trainer as the worker starts it, with more arguments and options of Popen."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", kind, str(run_dir), *given],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def metric_lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def wait_for_steps(run_dir: Path, steps: int) -> None:
    """Until metrics.jsonl holds so many lines."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (run_dir / "metrics.jsonl").exists() and len(metric_lines(run_dir)) >= steps:
            return
        time.sleep(0.02)
    raise AssertionError(f"{run_dir}: fewer than {steps} steps after 60 s")


def texts(count: int) -> list[dict[str, str]]:
    rng = random.Random(1)
    return [
        {"text": f"Name a {rng.choice(COLOURS)} {rng.choice(ANIMALS)}.\n\nThe {word} one sleeps."}
        for word in rng.choices(ANIMALS, k=count)
    ]


def prompts() -> list[str]:
    return [f"Name a {colour} {animal}." for colour in COLOURS for animal in ANIMALS]


def split_of(prompt_id: int) -> str:
    return "valid" if prompt_id % 4 == 0 else "train"


def demonstrations() -> list[dict[str, Any]]:
    """Sentences that the base model has never read; each repeats its prompt's animal."""
    return [
        {
            "prompt_id": i,
            "prompt": prompt,
            "completion": f"Yes, a {prompt.split()[-1][:-1]} naps.",
            "split": split_of(i),
            "labeler": "a",
            "demonstration_id": i,
        }
        for i, prompt in enumerate(prompts())
    ]


def rankings(repeats: int = 1) -> list[dict[str, Any]]:
    """Labelers prefer many times "cat": 2 beats 1, which beats 0; two of none tie."""
    rng = random.Random(2)
    records = []
    for n in range(repeats):
        for i, prompt in enumerate(prompts()):
            words = [rng.choice(ANIMALS[1:]) for _ in range(4)]
            completions = [f"The {w}." for w in words] + ["The cat.", "The cat cat."]
            order = list(range(6))
            rng.shuffle(order)
            shuffled = [completions[k] for k in order]
            at = order.index
            records.append(
                {
                    "ranking_id": n * 100 + i,
                    "prompt_id": i,
                    "prompt": prompt,
                    "completions": shuffled,
                    "groups": [[at(5)], [at(4)], sorted(at(k) for k in range(4))],
                    "split": split_of(i),
                    "labeler": "a",
                }
            )
    return records


@pytest.fixture(scope="session")
def base_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of kind "base"; its model knows the sentences of `texts`."""
    from trainer.base import train_base

    run = write_run(
        tmp_path_factory.mktemp("base") / "run",
        kind="base",
        data={"pretraining": texts(300)},
        config=BASE_CONFIG,
    )
    train_base(run)
    return run


@pytest.fixture(scope="session")
def reward_run(base_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of kind "reward": it has learned that "cat" is good."""
    from trainer.reward import train_reward

    run = write_run(
        tmp_path_factory.mktemp("reward") / "run",
        kind="reward",
        models={"init": str(base_run / "model")},
        data={"rankings": rankings(8), "demonstrations": demonstrations()},
        config={"learning_rate": 3e-3, "epochs": 3},
    )
    train_reward(run)
    return run


@pytest.fixture(scope="session")
def base_model(base_run: Path) -> tuple[Any, Any]:
    """(policy, tokenizer), not to be changed."""
    from trainer.models import load_policy, load_tokenizer

    tokenizer = load_tokenizer(str(base_run / "model"))
    return load_policy(str(base_run / "model"), tokenizer), tokenizer


@pytest.fixture(scope="session")
def reward_model(reward_run: Path) -> Any:
    """A scalar model, not to be changed."""
    from trainer.models import load_reward_model, load_tokenizer

    source = str(reward_run / "model")
    return load_reward_model(source, load_tokenizer(source))
