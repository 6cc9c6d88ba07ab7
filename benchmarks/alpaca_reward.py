"""The reward model on real answers: python -m benchmarks.alpaca_reward DATA_DIR [--members M].

DATA_DIR holds prompts.jsonl.gz and completions.jsonl.gz: 805 instructions with the answers of nine
models, each with a judge's score. They are imported as any file is, ranked by score (K = 9), frozen
into a snapshot, and a reward model is trained on the train split for one epoch from a starter model
that has read the train split's texts. Printed: held-out pairwise accuracy with its 95 % interval,
clustered by prompt, beside "the longer answer wins", and the same by margin of rank.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app import storage
from app.config import Settings, get_settings
from app.db import make_engine, task_session
from app.embedded import embedded_services
from app.migrate import migrate
from app.models import Completion, Prompt, Split
from app.services.imports import import_completions, import_prompts
from app.services.judge import rank_by_score
from app.services.snapshots import freeze_rankings
from app.services.studies import create_study
from trainer import contract

BASE: dict[str, Any] = {
    "vocab_size": 4096,
    "context": 2048,
    "row_tokens": 256,
    "batch_rows": 8,
    "steps": 200,
}
REWARD: dict[str, Any] = {
    "epochs": 1,
    "batch_prompts": 4,
    "max_prompt_tokens": 1600,
    "max_completion_tokens": 160,
}


def prepared(data: Path, home: Path) -> tuple[Path, list[str]]:
    """The rankings snapshot's file and the train split's texts, through the application."""
    os.environ["PLUMBLINE_HOME"] = str(home)
    get_settings.cache_clear()
    with embedded_services(Settings(home=home)) as services:
        migrate(services.urls.database_url)
        engine = make_engine(services.urls.database_url)
        with task_session(engine) as session:
            study = create_study(session, name="Alpaca", rehearsal=True, created_by=None)
            for what, importer in (
                ("prompts", import_prompts),
                ("completions", import_completions),
            ):
                path = data / f"{what}.jsonl.gz"
                began = time.monotonic()
                with path.open("rb") as file:
                    report = importer(session, study, file, file_name=path.name)
                print(f"{what}: {'; '.join(report.sentences())} {time.monotonic() - began:.1f} s")
            judged = rank_by_score(session, study)
            print(judged)
            snapshot = freeze_rankings(session, study)
            print(f"snapshot {snapshot.sha256[:12]}: {snapshot.counts}")
            texts = session.execute(
                select(Prompt.text, Completion.text)
                .join(Completion, Completion.prompt_id == Prompt.id)
                .where(Prompt.split == Split.train)
            )
            documents = [f"{prompt}\n\n{completion}" for prompt, completion in texts]
            path = storage.fetch(snapshot.uri)
        engine.dispose()
    return path, documents


def run(run_dir: Path, spec: contract.RunSpec) -> contract.RunResult:
    """Run the trainer in a directory whose data is there."""
    contract.write_json(run_dir / contract.SPEC, spec.to_json())
    with (run_dir / contract.LOG).open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "trainer", spec.kind, str(run_dir)],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    result = contract.read_result(run_dir)
    assert result is not None
    return result


def lines(records: Iterator[contract.TextRecord]) -> Iterator[str]:
    for record in records:
        yield json.dumps(record.to_json(), ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--members", type=int, default=1, help="of an ensemble")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = (given.out or Path(temporary)).resolve()
        rankings, documents = prepared(given.data, out / "home")
        base, reward = out / "base", out / "reward"
        for run_dir in (base, reward):
            (run_dir / contract.DATA).mkdir(parents=True)
        with (base / contract.DATA / "texts.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(lines(contract.TextRecord(text=text) for text in documents))
        (reward / contract.DATA / "rankings.jsonl").write_bytes(rankings.read_bytes())
        began = time.monotonic()
        spec = contract.RunSpec(
            kind="base", preset="starter", config=BASE, data={"pretraining": "texts.jsonl"}
        )
        result = run(base, spec)
        print(f"starter model: {result.metrics}, {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        spec = contract.RunSpec(
            kind="reward",
            preset="starter",
            config={**REWARD, "members": given.members},
            models={"init": str(base / contract.MODEL)},
            data={"rankings": "rankings.jsonl"},
        )
        result = run(reward, spec)
        metrics = result.metrics
        for name in ("by_margin", "by_agreement"):
            for share in result.figures[name]:
                print(
                    f"{share['name']}: {share['rate']:.1%} [{share['low']:.1%}, "
                    f"{share['high']:.1%}] of {share['comparisons']}"
                )
        print(
            json.dumps(
                {
                    "bench": "alpaca_reward",
                    "accuracy": metrics[contract.RM_ACCURACY],
                    "low": metrics[contract.RM_ACCURACY_LOW],
                    "high": metrics[contract.RM_ACCURACY_HIGH],
                    "comparisons": metrics[contract.RM_PAIRS],
                    "calibration_error": metrics[contract.RM_CALIBRATION_ERROR],
                    "spread": metrics.get(contract.RM_SPREAD),
                    "longer_wins": metrics[contract.RM_LONGER_WINS],
                    "seconds": round(time.monotonic() - began),
                }
            )
        )


if __name__ == "__main__":
    main()
