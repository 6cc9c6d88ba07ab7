"""Exports at the paper's size: python -m benchmarks.export [--prompts 33000] [--kind comparisons].

A database of its own is filled with so many prompts of K = 9 completions, each ranked
once, without ties, by one of 40 labelers: 36 comparisons a prompt. Each text is about 360
characters that compress little. Printed for each export: seconds, rows, bytes, and the peak of
this process's memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import make_engine
from app.embedded import embedded_services
from app.migrate import migrate
from app.models import ExportFormat, ExportKind, Study
from app.services.exporting.export import write_export
from app.services.exporting.query import ExportQuery
from app.services.studies import create_study

K = 9
LABELERS = 40
HEX = " || ' ' || ".join(f"md5({{0}}::text || '{part}')" for part in range(11))

FILL = [
    """INSERT INTO users (username, password_hash)
       SELECT 'labeler-' || i, 'none' FROM generate_series(1, {labelers}) i""",
    """INSERT INTO memberships (study_id, user_id, role, pool)
       SELECT {study}, id, 'labeler', 'training' FROM users""",
    """INSERT INTO source_users (study_id, name, split)
       SELECT {study}, 'user-' || i, CASE i % 10 WHEN 0 THEN 'valid' WHEN 1 THEN 'test'
              ELSE 'train' END FROM generate_series(0, 999) i""",
    """INSERT INTO prompts (study_id, source_user_id, split, text, text_sha256)
       SELECT {study}, s.id, s.split, {prompt_text}, md5(i::text)
       FROM generate_series(1, {prompts}) i
       JOIN source_users s ON s.name = 'user-' || i % 1000""",
    """INSERT INTO policies (study_id, name, label, kind)
       SELECT {study}, 'policy-' || i, 'policy-' || i, 'external' FROM generate_series(1, {k}) i""",
    """INSERT INTO completions (study_id, prompt_id, policy_id, text)
       SELECT {study}, p.id, o.id, {completion_text}
       FROM prompts p CROSS JOIN policies o ORDER BY p.id, o.id""",
    """INSERT INTO batches (study_id, name, kind, purpose, pool)
       VALUES ({study}, 'all', 'ranking', 'training', 'training')""",
    """INSERT INTO label_tasks (study_id, batch_id, kind, purpose, pool, prompt_id, state)
       SELECT {study}, b.id, 'ranking', 'training', 'training', p.id, 'complete'
       FROM prompts p CROSS JOIN batches b ORDER BY p.id""",
    """INSERT INTO assignments (public_id, study_id, label_task_id, user_id, pool, purpose, state,
                                lease_until, submitted_at)
       SELECT 'a' || t.id, {study}, t.id, m.user_id, 'training', 'training', 'submitted', now(),
              now()
       FROM label_tasks t JOIN memberships m
         ON m.user_id = (SELECT min(user_id) FROM memberships) + t.id % {labelers}""",
    """INSERT INTO assignment_items (assignment_id, position, completion_id)
       SELECT a.id, row_number() OVER (PARTITION BY a.id ORDER BY md5(c.id::text)) - 1, c.id
       FROM assignments a JOIN label_tasks t ON t.id = a.label_task_id
       JOIN completions c ON c.prompt_id = t.prompt_id""",
    """INSERT INTO rankings (assignment_id, study_id, user_id, pool, purpose, simulated, prompt_id,
                             guideline_version_id)
       SELECT a.id, {study}, a.user_id, 'training', 'training', false, t.prompt_id, g.id
       FROM assignments a JOIN label_tasks t ON t.id = a.label_task_id
       CROSS JOIN guideline_versions g""",
    """INSERT INTO ranking_items (ranking_id, completion_id, tier)
       SELECT r.id, i.completion_id, 1 + (i.position * 4 + r.id) % {k}
       FROM rankings r JOIN assignment_items i ON i.assignment_id = r.assignment_id""",
]


def fill(engine: Engine, prompts: int) -> int:
    """The id of a study with so many rankings of K completions."""
    with Session(engine) as session:
        study = create_study(session, name="Large", created_by=None)
        for statement in FILL:
            session.execute(
                text(
                    statement.format(
                        study=study.id,
                        prompts=prompts,
                        labelers=LABELERS,
                        k=K,
                        prompt_text=HEX.format("i"),
                        completion_text=HEX.format("(p.id * 10 + o.id)"),
                    ).replace("::", "\\:\\:")
                )
            )
        session.commit()
        identity = study.id
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return identity


def measure(engine: Engine, study_id: int, query: ExportQuery) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory() as folder,
        engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
        Session(connection) as session,
    ):
        began, worked = time.perf_counter(), time.process_time()
        manifest = write_export(session, session.get_one(Study, study_id), query, Path(folder))
        seconds, busy = time.perf_counter() - began, time.process_time() - worked
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.*"))
    return {
        "kind": query.kind.value,
        "formats": [form.value for form in query.formats],
        "rows": manifest["rows"],
        "seconds": round(seconds, 2),
        "of_them_busy": round(busy, 2),
        "megabytes": round(size / 1e6),
        "peak_memory_megabytes": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=33_000)
    parser.add_argument("--kind", choices=list(ExportKind), action="append")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="plumbline-") as home,
        embedded_services(Settings(home=Path(home))) as services,
    ):
        migrate(services.urls.database_url)
        engine = make_engine(services.urls.database_url)
        study_id = fill(engine, arguments.prompts)
        for kind in arguments.kind or [ExportKind.comparisons, ExportKind.rankings]:
            for formats in ((ExportFormat.jsonl,), (ExportFormat.parquet,), tuple(ExportFormat)):
                query = ExportQuery(kind=ExportKind(kind), formats=formats)
                print(json.dumps(measure(engine, study_id, query)), flush=True)
        engine.dispose()


if __name__ == "__main__":
    main()
