"""Speed and memory of importing prompts: `python -m benchmarks.import_prompts [--prompts N]`.

Writes a JSONL file of N prompts (60 words on average, drawn from 20,000; of 50,000 users; one in
fifty is a near-duplicate, one in a hundred holds an e-mail address), imports it into a new bundled
database with all of preparation on, and prints prompts a second and the most memory that the
importing process held. The sizes of the index stand in docs/data.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
from pathlib import Path

from app.config import Settings
from app.db import make_engine, task_session
from app.embedded import embedded_services
from app.migrate import migrate


def write_prompts(path: Path, count: int, *, seed: int = 1) -> None:
    draw = random.Random(seed)
    words = [
        "".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(2, 9))) for _ in range(20_000)
    ]
    openings = ["Write a", "Explain the", "Summarize this:", "What is the", "List ten"]
    earlier: list[str] = []
    with path.open("w") as file:
        for number in range(count):
            if earlier and draw.random() < 0.02:
                text = draw.choice(earlier) + " please"
            else:
                body = draw.choices(words, k=draw.randint(10, 110))
                text = f"{draw.choice(openings)} {' '.join(body)}."
                if len(earlier) < 1_000:
                    earlier.append(text)
            if draw.random() < 0.01:
                text += f" Reply to {draw.choice(words)}@posteo.de."
            row = {"prompt_id": f"p{number}", "prompt": text, "user": f"u{draw.randrange(50_000)}"}
            file.write(json.dumps(row) + "\n")


def megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.jsonl"
        write_prompts(path, arguments.prompts)
        home = Path(folder) / "home"
        with embedded_services(Settings(home=home)) as running:
            migrate(running.urls.database_url)
            engine = make_engine(running.urls.database_url)
            _import(engine, path, arguments.prompts)
            engine.dispose()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"The database's processes worked {used.ru_utime + used.ru_stime:.1f} s, its start "
            f"included; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
        )


def _import(engine: object, path: Path, count: int) -> None:
    from sqlalchemy import Engine

    from app.services.imports import import_prompts
    from app.services.studies import create_study

    assert isinstance(engine, Engine)
    before = megabytes()
    began, worked = time.monotonic(), time.process_time()
    with task_session(engine) as session, path.open("rb") as file:
        study = create_study(session, name="Benchmark", created_by=None)
        report = import_prompts(session, study, file, file_name=path.name)
    seconds = time.monotonic() - began
    print("\n".join(report.sentences()))
    print(
        f"{count:,} prompts in {seconds:.1f} s: {count / seconds:,.0f} a second "
        f"({time.process_time() - worked:.1f} s of them at work here); "
        f"{megabytes()} MB at most, {before} MB before."
    )


if __name__ == "__main__":
    main()
