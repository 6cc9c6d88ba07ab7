"""Writing one export.

manifest.json            the query, counts, labelers, what was left out, each file's SHA-256
jsonl/README.md          the card: each of the two folders is a dataset of its own
jsonl/train.jsonl …      a file a split; kinds without splits have one, records.jsonl
parquet/…                the same rows
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from app.models import (
    Demonstration,
    ExportKind,
    ExportShape,
    Ranking,
    Snapshot,
    Study,
)
from app.services.exporting import everything, prompts
from app.services.exporting.card import card
from app.services.exporting.columns import Chunk, Fields, Indexed, Messages, Type
from app.services.exporting.labels import (
    OF_LABEL,
    OF_PROMPT,
    PREFERENCE_FIELDS,
    RATED,
    RATED_PROMPT,
    LabelReader,
)
from app.services.exporting.query import ExportQuery
from app.services.exporting.selection import labels_left_out, prompts_left_out
from app.services.exporting.tally import Tally
from app.services.exporting.writers import SplitFiles

MANIFEST: Final = "manifest.json"
README: Final = "README.md"

Progress = Callable[[int], None]  # told how many rows are written so far; may raise to stop


def fields_of(query: ExportQuery) -> Fields:
    """The columns of the query's files, in their order."""
    texts = Type.messages if query.shape is ExportShape.messages else Type.text
    match query.kind:
        case ExportKind.sft:
            pair = {"prompt": texts, "completion": texts}
            if query.shape is ExportShape.messages:
                pair = {"messages": texts}
            return {**pair, **OF_LABEL, "demonstration_id": Type.integer}
        case ExportKind.rankings:
            return {
                "prompt": Type.text,
                "completions": Type.texts,
                "groups": Type.groups,
                "policies": Type.texts,
                **OF_LABEL,
                "ranking_id": Type.integer,
            }
        case ExportKind.comparisons:
            return {
                "prompt": texts,
                "chosen": texts,
                "rejected": texts,
                "chosen_policy": Type.text,
                "rejected_policy": Type.text,
                "tiers_apart": Type.integer,
                **OF_LABEL,
                "ranking_id": Type.integer,
            }
        case ExportKind.preferences:
            return {"prompt": Type.text, **PREFERENCE_FIELDS, **OF_PROMPT}
        case ExportKind.ratings:
            return {
                "prompt": Type.text,
                "completion": Type.text,
                "policy": Type.text,
                "tier": Type.integer,
                **{name: Type.integer if name == "overall" else Type.flag for name in RATED},
                **{f"prompt_{name}": Type.flag for name in RATED_PROMPT},
                **OF_LABEL,
                "ranking_id": Type.integer,
            }
        case ExportKind.prompts:
            return {"prompt": texts, **prompts.FIELDS}
        case ExportKind.labeler:
            return everything.LABELER
        case ExportKind.prompt:
            return everything.PROMPT


def write_export(
    session: Session,
    study: Study,
    query: ExportQuery,
    folder: Path,
    *,
    frozen: bool = False,
    progress: Progress | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Write the files of an export into an empty folder; returns its manifest.

    Memory does not grow with the data. The session should be a transaction in REPEATABLE READ, so
    that counts and rows are of one moment. `frozen`: the query's snapshot was made for this export,
    so that what did not enter it is left out of it. Raises NotFound for a labeler or prompt that is
    none.
    """
    tally = Tally()
    chunks, left_out, counted = _source(session, study, query, tally, frozen=frozen)
    fields = fields_of(query)
    rows = 0
    with SplitFiles(folder, fields, query.formats) as files:
        for split, chunk in chunks:
            length = _length(chunk)
            files.write(split, chunk, length)
            rows += length
            if progress is not None:
                progress(rows)
        written = files.close()
    snapshot = session.get(Snapshot, query.snapshot_id) if query.snapshot_id else None
    manifest = {
        "study": study.name,
        "rehearsal": study.rehearsal,
        "kind": query.kind.value,
        "query": query.to_json(),
        "made_at": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        "snapshot": snapshot and {"id": snapshot.id, "sha256": snapshot.sha256},
        **tally.to_json(),
        "rows": rows,
        "counted": counted,
        "left_out": left_out,
        "files": [file.to_json() for file in written],
        "sha256": hashlib.sha256(
            "".join(f"{file.sha256}  {file.name}\n" for file in written).encode()
        ).hexdigest(),
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    for form in query.formats:
        mine = [file for file in written if file.format == form.value]
        if mine:
            readme = folder / form.value / README
            readme.write_text(card(manifest, fields, mine), encoding="utf-8")
    return manifest


def _source(
    session: Session, study: Study, query: ExportQuery, tally: Tally, *, frozen: bool
) -> tuple[Iterator[tuple[str, Chunk]], dict[str, int], str]:
    """The chunks, what is left out of them, and what that counts."""
    reader = LabelReader(session, study, query, tally)
    of = replace(query, snapshot_id=None) if frozen else query
    if query.kind is ExportKind.sft:
        left_out = labels_left_out(session, study, of, Demonstration)
        return reader.demonstrations(), left_out, "demonstrations"
    if query.kind is ExportKind.prompts:
        chunks = prompts.read_prompts(session, study, query, tally)
        return chunks, prompts_left_out(session, study, of), "prompts"
    if query.user_id is not None:
        return everything.read_labeler(session, study, query.user_id), {}, "records"
    if query.prompt_id is not None:
        return everything.read_prompt(session, study, query.prompt_id), {}, "records"
    chunks = {
        ExportKind.rankings: reader.rankings,
        ExportKind.comparisons: reader.comparisons,
        ExportKind.preferences: reader.preferences,
        ExportKind.ratings: reader.ratings,
    }[query.kind]()
    counted = "ratings" if query.kind is ExportKind.ratings else "rankings"
    return chunks, labels_left_out(session, study, of, Ranking), counted


def _length(chunk: Chunk) -> int:
    column = next(iter(chunk.values()))
    if isinstance(column, Messages):
        column = column.turns[0][1]
    return len(column.indices) if isinstance(column, Indexed) else len(column)
