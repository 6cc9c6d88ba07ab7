"""Speed of importing labels: `python -m benchmarks.import_labels [--rows N]`.

Imports N demonstrations, N comparisons and N rankings of nine into a new bundled database each, by
40 labelers, of prompts and completions of 60 made-up words. Prints rows a second, and the
processor time that a row took here and in the database. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from sqlalchemy import text

from app.config import Settings
from app.db import make_engine, task_session
from app.embedded import embedded_services
from app.migrate import migrate
from app.services.imports import IMPORTERS
from app.services.studies import create_study
from benchmarks.import_prompts import processor_seconds

COMPLETIONS = {"demonstrations": 1, "comparisons": 2, "rankings": 9}


def write_labels(path: Path, kind: str, count: int) -> None:
    draw = random.Random(2)
    words = [
        "".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(2, 9))) for _ in range(20_000)
    ]

    def some() -> str:
        return " ".join(draw.choices(words, k=draw.randint(20, 100)))

    with path.open("w") as file:
        for _ in range(count):
            texts = [some() for _ in range(COMPLETIONS[kind])]
            row = {"prompt": some(), "labeler": f"w{draw.randrange(40)}"}
            if kind == "demonstrations":
                file.write(json.dumps(row | {"completion": texts[0]}) + "\n")
            elif kind == "comparisons":
                file.write(json.dumps(row | {"chosen": texts[0], "rejected": texts[1]}) + "\n")
            else:
                ranks = [draw.randint(1, 5) for _ in texts]
                file.write(json.dumps(row | {"completions": texts, "ranks": ranks}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    count = parser.parse_args().rows
    for kind in COMPLETIONS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "labels.jsonl"
            write_labels(path, kind, count)
            with embedded_services(Settings(home=Path(folder) / "home")) as running:
                migrate(running.urls.database_url)
                engine = make_engine(running.urls.database_url)
                with task_session(engine) as session, path.open("rb") as file:
                    study = create_study(session, name="Benchmark", created_by=None)
                    backend = session.scalar(text("SELECT pg_backend_pid()")) or 0
                    before, theirs = time.process_time(), processor_seconds(backend)
                    report = IMPORTERS[kind](session, study, file, file_name=path.name)
                    here, there = time.process_time() - before, processor_seconds(backend) - theirs
                engine.dispose()
        print(
            f"{report.stored:,} {kind} in {report.seconds:.1f} s: {count / report.seconds:,.0f} a "
            f"second; {1000 * here / count:.2f} ms of processor time here and "
            f"{1000 * there / count:.2f} ms in the database each."
        )


if __name__ == "__main__":
    main()
