"""Text of the pretraining mix, for base models that come from elsewhere (section 3.5).

A starter base model brings the text that it was trained on. What GPT-2 or another model has read is
not ours to know: a researcher gives the study text like it, and the newest is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid
from app.models import Checkpoint, Snapshot, SnapshotKind, Study
from app.services import snapshots
from app.services.importing import columns
from app.services.importing.lines import Limits
from app.services.importing.problems import Problems, RowProblem
from app.services.importing.records import Names, read_records
from app.services.round_config import RoundConfig

TEXT: Final[Names] = ("text", "content", "document")
ORIGIN: Final = "file "  # before the file's name, in the snapshot's query


def import_text(session: Session, study: Study, file: BinaryIO, *, file_name: str) -> Snapshot:
    """Freeze a file's texts, one a record, as what the study's next rounds mix in.

    Raises ImportRefused with every line that is no text; nothing is stored then. Raises Conflict
    for texts that came before, in the same order, and were followed by others.
    """
    limits, problems = Limits(), Problems(file_name)

    def texts() -> Iterator[str]:
        for record in read_records(file, file_name, [TEXT], limits, problems):
            try:
                text = columns.text(record.values, TEXT, limit=limits.line_bytes)
            except RowProblem as problem:
                problems.add(record.line, str(problem))
                continue
            if text is None or not text.strip():
                problems.add(record.line, "the text is missing")
            else:
                yield text
        if problems.count:
            raise problems.refusal()

    snapshot = snapshots.freeze_texts(session, study, texts(), origin=f"{ORIGIN}{file_name}")
    newest = study_text(session, study)
    if newest is None or newest.id != snapshot.id:
        raise Conflict(f"These texts are snapshot {snapshot.id} already, and not the newest.")
    return snapshot


def study_text(session: Session, study: Study) -> Snapshot | None:
    """The newest text that the study was given, None where it was given none."""
    return session.scalar(
        select(Snapshot)
        .where(
            Snapshot.study_id == study.id,
            Snapshot.kind == SnapshotKind.pretraining,
            Snapshot.query["texts"].as_string().startswith(ORIGIN),
        )
        .order_by(Snapshot.id.desc())
        .limit(1)
    )


def check_text(session: Session, study: Study, config: RoundConfig) -> None:
    """Raises Invalid where a round's PPO would have no text for its mix, hours from now."""
    mixes = config.overrides.get("ppo", {}).get("ptx_coefficient") != 0
    if config.base_model is not None and mixes and study_text(session, study) is None:
        raise Invalid(
            "A base model from elsewhere comes without pretraining text, which PPO-ptx mixes in. "
            f"Give the study some with `plumbline pretraining-text FILE --study {study.slug}`, or "
            'set the override {"ppo": {"ptx_coefficient": 0}} for PPO without the mix.'
        )


def check_base(session: Session, study: Study, config: RoundConfig) -> None:
    """Raises Invalid where a round would make a starter base model with another preset."""
    if config.base_model is not None or config.preset == "starter":
        return
    made = select(Checkpoint.id).where(
        Checkpoint.study_id == study.id,
        Checkpoint.label == "base",
        Checkpoint.run_id.is_not(None),
    )
    if session.scalar(made.limit(1)) is None:
        raise Invalid(
            "Name a base model: the small one that is built here is for the preset starter, and "
            f"{config.preset} is meant for a large one."
        )
