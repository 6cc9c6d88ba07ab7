"""Frozen datasets. Each is a JSONL file of trainer.contract records, addressed by its content.

What may enter is decided three times: by the query here, by the snapshot's rows, and by the
constraints on those rows, which the database refuses to break.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Select, insert, select
from sqlalchemy.orm import Session, selectinload

from app import storage
from app.models import (
    Assignment,
    Demonstration,
    GuidelineVersion,
    Pool,
    Prompt,
    Purpose,
    Ranking,
    RankingItem,
    Snapshot,
    SnapshotDemonstration,
    SnapshotKind,
    SnapshotPrompt,
    SnapshotRanking,
    Study,
    WrittenPrompt,
)
from app.services.bulk import among
from app.services.usable import usable_label
from trainer import contract


def pseudonym(study: Study, user_id: int) -> str:
    """A labeler's name in datasets: stable within the study, telling nothing outside it."""
    digest = hmac.new(study.split_key.encode(), f"labeler:{user_id}".encode(), hashlib.sha256)
    return "labeler-" + digest.hexdigest()[:10]


def _store(
    session: Session,
    study: Study,
    kind: SnapshotKind,
    records: Iterable[Any],
    *,
    counts: dict[str, Any],
    query: dict[str, Any],
) -> tuple[Snapshot, bool]:
    """Write the records, and find or add their snapshot; says whether it is new."""
    digest = hashlib.sha256()
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        with path.open("wb") as file:
            for number, record in enumerate(records, 1):  # noqa: B007 (counted)
                line = json.dumps(record.to_json(), ensure_ascii=False, sort_keys=True) + "\n"
                encoded = line.encode()
                digest.update(encoded)
                file.write(encoded)
        sha256 = digest.hexdigest()
        existing = session.scalar(
            select(Snapshot).where(
                Snapshot.study_id == study.id, Snapshot.kind == kind, Snapshot.sha256 == sha256
            )
        )
        if existing is not None:
            return existing, False
        # The file first: its name is its content, so one that no row comes to name is harmless.
        uri = storage.artifact_url("snapshots", study.slug, f"{kind.value}-{sha256}.jsonl")
        storage.put(path, uri)
    snapshot = Snapshot(
        study_id=study.id,
        rehearsal=study.rehearsal,
        kind=kind,
        sha256=sha256,
        uri=uri,
        records=number,
        counts=counts,
        query=query,
    )
    session.add(snapshot)
    session.flush()
    return snapshot, True


def _label_query(study: Study, label: Any) -> Select[Any]:
    """The study's current training labels, oldest first; simulated ones in rehearsals only.

    Without what was withdrawn, and without what is about a prompt held back for personal data.
    """
    query = select(label).where(
        label.study_id == study.id,
        label.pool == Pool.training,
        label.purpose == Purpose.training,
        label.superseded_at.is_(None),
        usable_label(label),
    )
    if not study.rehearsal:
        query = query.where(~label.simulated)
    return query.order_by(label.id)


def _prompts_of(session: Session, labels: Iterable[Any]) -> dict[int, Prompt]:
    ids = {label.prompt_id for label in labels}
    return {p.id: p for p in session.scalars(select(Prompt).where(among(Prompt.id, ids)))}


def _label_counts(
    session: Session, study: Study, labels: Iterable[Any], prompts: dict[int, Prompt]
) -> dict[str, Any]:
    """As the paper's Table 6 counts, with who gave the labels and by which guidelines."""
    labels = list(labels)
    written = _written(session, prompts)
    versions = select(GuidelineVersion.version).where(
        among(GuidelineVersion.id, {label.guideline_version_id for label in labels})
    )
    return {
        "labels": len(labels),
        "prompts": len(prompts),
        "labelers": sorted({pseudonym(study, label.user_id) for label in labels}),
        "by_split": dict(Counter(prompts[label.prompt_id].split.value for label in labels)),
        "prompts_by_origin_and_split": _table(prompts.values(), written),
        "guideline_versions": sorted(session.scalars(versions)),
    }


def _written(session: Session, prompt_ids: Iterable[int]) -> set[int]:
    """Those of the prompts that labelers wrote; all others are customers'."""
    written = select(WrittenPrompt.prompt_id).where(
        among(WrittenPrompt.prompt_id, list(prompt_ids))
    )
    return set(session.scalars(written))


def _table(prompts: Iterable[Prompt], written: set[int]) -> dict[str, dict[str, int]]:
    """{"labeler" or "customer": {split: prompts}}."""
    found: dict[str, dict[str, int]] = {}
    for prompt in prompts:
        of = found.setdefault("labeler" if prompt.id in written else "customer", {})
        of[prompt.split.value] = of.get(prompt.split.value, 0) + 1
    return found


def freeze_demonstrations(session: Session, study: Study) -> Snapshot:
    """All current demonstrations of the training pool, as contract.DemonstrationRecord."""
    labels = list(session.scalars(_label_query(study, Demonstration)))
    prompts = _prompts_of(session, labels)
    snapshot, new = _store(
        session,
        study,
        SnapshotKind.demonstrations,
        (
            contract.DemonstrationRecord(
                demonstration_id=label.id,
                prompt_id=label.prompt_id,
                prompt=prompts[label.prompt_id].text,
                completion=label.text,
                split=prompts[label.prompt_id].split.value,
                labeler=pseudonym(study, label.user_id),
            )
            for label in labels
        ),
        counts=_label_counts(session, study, labels, prompts),
        query={"labels": "demonstrations", "pool": "training", "simulated": study.rehearsal},
    )
    if new and labels:
        session.execute(
            insert(SnapshotDemonstration),
            [{"demonstration_id": label.id, **_item(snapshot, label)} for label in labels],
        )
    return snapshot


def freeze_rankings(session: Session, study: Study) -> Snapshot:
    """All current rankings of the training pool with their tie groups, as RankingRecord.

    The completions of a record stand in the order in which the labeler saw them.
    """
    query = _label_query(study, Ranking).options(
        selectinload(Ranking.items).joinedload(RankingItem.completion)
    )
    labels = list(session.scalars(query))
    prompts = _prompts_of(session, labels)
    shown = _shown_positions(session, [label.assignment_id for label in labels])
    snapshot, new = _store(
        session,
        study,
        SnapshotKind.rankings,
        (
            _ranking_record(study, label, prompts[label.prompt_id], shown[label.assignment_id])
            for label in labels
        ),
        counts={
            **_label_counts(session, study, labels, prompts),
            "comparisons": sum(_strict_pairs(label) for label in labels),
        },
        query={"labels": "rankings", "pool": "training", "simulated": study.rehearsal},
    )
    if new and labels:
        session.execute(
            insert(SnapshotRanking),
            [{"ranking_id": label.id, **_item(snapshot, label)} for label in labels],
        )
    return snapshot


def _item(snapshot: Snapshot, label: Demonstration | Ranking) -> dict[str, Any]:
    return {
        "snapshot_id": snapshot.id,
        "study_id": snapshot.study_id,
        "rehearsal": snapshot.rehearsal,
        "pool": label.pool,
        "purpose": label.purpose,
        "simulated": label.simulated,
    }


def _shown_positions(session: Session, assignment_ids: list[int]) -> dict[int, dict[int, int]]:
    """{assignment: {completion: position}}."""
    assignments = session.scalars(
        select(Assignment)
        .where(among(Assignment.id, assignment_ids))
        .options(selectinload(Assignment.items))
    )
    return {a.id: {item.completion_id: item.position for item in a.items} for a in assignments}


def _ranking_record(
    study: Study, label: Ranking, prompt: Prompt, shown: dict[int, int]
) -> contract.RankingRecord:
    items = sorted(label.items, key=lambda item: shown[item.completion_id])
    groups: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.tier, []).append(index)
    return contract.RankingRecord(
        ranking_id=label.id,
        prompt_id=prompt.id,
        prompt=prompt.text,
        completions=[item.completion.text for item in items],
        groups=[groups[tier] for tier in sorted(groups)],
        split=prompt.split.value,
        labeler=pseudonym(study, label.user_id),
    )


def _strict_pairs(label: Ranking) -> int:
    sizes = Counter(item.tier for item in label.items).values()
    total = sum(sizes)
    return (total * total - sum(size * size for size in sizes)) // 2


def freeze_prompts(
    session: Session, study: Study, prompt_ids: Iterable[int], *, why: str
) -> Snapshot:
    """The given prompts without any label, as contract.PromptRecord."""
    ids = sorted(set(prompt_ids))
    prompts = list(session.scalars(select(Prompt).where(among(Prompt.id, ids)).order_by(Prompt.id)))
    snapshot, new = _store(
        session,
        study,
        SnapshotKind.prompts,
        (
            contract.PromptRecord(prompt_id=p.id, prompt=p.text, split=p.split.value)
            for p in prompts
        ),
        counts={
            "prompts": len(prompts),
            "by_split": dict(Counter(p.split.value for p in prompts)),
            "prompts_by_origin_and_split": _table(prompts, _written(session, ids)),
        },
        query={"prompts": why},
    )
    if new and prompts:
        session.execute(
            insert(SnapshotPrompt),
            [
                {"snapshot_id": snapshot.id, "study_id": study.id, "prompt_id": prompt.id}
                for prompt in prompts
            ],
        )
    return snapshot


def freeze_texts(session: Session, study: Study, texts: Iterable[str], *, origin: str) -> Snapshot:
    """Pretraining text, as contract.TextRecord."""
    counts: Counter[str] = Counter()

    def records() -> Iterable[contract.TextRecord]:
        for text in texts:
            counts["texts"] += 1
            counts["characters"] += len(text)
            yield contract.TextRecord(text=text)

    snapshot, _ = _store(
        session,
        study,
        SnapshotKind.pretraining,
        records(),
        counts={},
        query={"texts": origin},
    )
    snapshot.counts = dict(counts)
    session.flush()
    return snapshot
