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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Select, insert, select
from sqlalchemy.orm import Session

from app import storage
from app.models import (
    Demonstration,
    GuidelineVersion,
    Pool,
    Prompt,
    Purpose,
    Ranking,
    Snapshot,
    SnapshotDemonstration,
    SnapshotKind,
    SnapshotPrompt,
    SnapshotRanking,
    Split,
    Study,
    WrittenPrompt,
)
from app.services.bulk import among
from app.services.ranked import ranked_items, tie_groups
from app.services.usable import usable_label
from trainer import contract

CHUNK = 500  # labels that are held at a time


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
    counts: Callable[[], dict[str, Any]],
    query: dict[str, Any],
) -> tuple[Snapshot, bool]:
    """Write the records, and find or add their snapshot; says whether it is new.

    `counts` is asked once all records are written.
    """
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
        counts=counts(),
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


class _Labels:
    """Reads labels by the chunk, and counts them: as the paper's Table 6, with who and by what.

    All that it keeps of a label is what its row in the snapshot needs.
    """

    def __init__(self, session: Session, study: Study, label: Any) -> None:
        self._session = session
        self._study = study
        self._label = label
        self._versions: set[int] = set()
        self._users: set[int] = set()
        self._prompts: dict[int, Split] = {}
        self._splits: Counter[str] = Counter()
        self.rows: list[dict[str, Any]] = []

    def chunks(self) -> Iterator[Sequence[tuple[Any, Prompt]]]:
        """Each label with its prompt."""
        query = _label_query(self._study, self._label).join(
            Prompt, Prompt.id == self._label.prompt_id
        )
        found = self._session.execute(
            query.add_columns(Prompt), execution_options={"yield_per": CHUNK}
        )
        for chunk in found.partitions():
            for label, prompt in chunk:
                self._versions.add(label.guideline_version_id)
                self._users.add(label.user_id)
                self._prompts[prompt.id] = prompt.split
                self._splits[prompt.split.value] += 1
                self.rows.append(
                    {
                        "label_id": label.id,
                        "pool": label.pool,
                        "purpose": label.purpose,
                        "simulated": label.simulated,
                    }
                )
            yield [(label, prompt) for label, prompt in chunk]

    def counts(self) -> dict[str, Any]:
        written = _written(self._session, self._prompts)
        versions = select(GuidelineVersion.version).where(
            among(GuidelineVersion.id, self._versions)
        )
        return {
            "labels": len(self.rows),
            "prompts": len(self._prompts),
            "labelers": sorted(pseudonym(self._study, user_id) for user_id in self._users),
            "by_split": dict(self._splits),
            "prompts_by_origin_and_split": _table(self._prompts, written),
            "guideline_versions": sorted(self._session.scalars(versions)),
        }

    def store_rows(self, snapshot: Snapshot, item: Any, name: str) -> None:
        """The snapshot's rows, which the database checks: `name` is the label's column in them."""
        if self.rows:
            about = {
                "snapshot_id": snapshot.id,
                "study_id": snapshot.study_id,
                "rehearsal": snapshot.rehearsal,
            }
            self._session.execute(
                insert(item),
                [{name: row.pop("label_id"), **about, **row} for row in self.rows],
            )


def _written(session: Session, prompt_ids: Iterable[int]) -> set[int]:
    """Those of the prompts that labelers wrote; all others are customers'."""
    written = select(WrittenPrompt.prompt_id).where(
        among(WrittenPrompt.prompt_id, list(prompt_ids))
    )
    return set(session.scalars(written))


def _table(prompts: Mapping[int, Split], written: set[int]) -> dict[str, dict[str, int]]:
    """{"labeler" or "customer": {split: prompts}}."""
    found: dict[str, dict[str, int]] = {}
    for prompt_id, split in prompts.items():
        of = found.setdefault("labeler" if prompt_id in written else "customer", {})
        of[split.value] = of.get(split.value, 0) + 1
    return found


def freeze_demonstrations(session: Session, study: Study) -> Snapshot:
    """All current demonstrations of the training pool, as contract.DemonstrationRecord."""
    labels = _Labels(session, study, Demonstration)
    snapshot, new = _store(
        session,
        study,
        SnapshotKind.demonstrations,
        (
            contract.DemonstrationRecord(
                demonstration_id=label.id,
                prompt_id=prompt.id,
                prompt=prompt.text,
                completion=label.text,
                split=prompt.split.value,
                labeler=pseudonym(study, label.user_id),
            )
            for chunk in labels.chunks()
            for label, prompt in chunk
        ),
        counts=labels.counts,
        query={"labels": "demonstrations", "pool": "training", "simulated": study.rehearsal},
    )
    if new:
        labels.store_rows(snapshot, SnapshotDemonstration, "demonstration_id")
    return snapshot


def freeze_rankings(session: Session, study: Study) -> Snapshot:
    """All current rankings of the training pool with their tie groups, as RankingRecord.

    The completions of a record stand in the order in which the labeler saw them.
    """
    labels = _Labels(session, study, Ranking)
    comparisons = 0

    def records() -> Iterator[contract.RankingRecord]:
        nonlocal comparisons
        for chunk in labels.chunks():
            items = ranked_items(session, [label.id for label, _ in chunk])
            for label, prompt in chunk:
                shown = items[label.id]
                groups = tie_groups([item.tier for item in shown])
                comparisons += _strict_pairs([len(group) for group in groups])
                yield contract.RankingRecord(
                    ranking_id=label.id,
                    prompt_id=prompt.id,
                    prompt=prompt.text,
                    completions=[item.text for item in shown],
                    groups=groups,
                    split=prompt.split.value,
                    labeler=pseudonym(study, label.user_id),
                )

    snapshot, new = _store(
        session,
        study,
        SnapshotKind.rankings,
        records(),
        counts=lambda: {**labels.counts(), "comparisons": comparisons},
        query={"labels": "rankings", "pool": "training", "simulated": study.rehearsal},
    )
    if new:
        labels.store_rows(snapshot, SnapshotRanking, "ranking_id")
    return snapshot


def _strict_pairs(sizes: Sequence[int]) -> int:
    """Comparisons of tie groups of these sizes."""
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
        counts=lambda: {
            "prompts": len(prompts),
            "by_split": dict(Counter(p.split.value for p in prompts)),
            "prompts_by_origin_and_split": _table(
                {p.id: p.split for p in prompts}, _written(session, ids)
            ),
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
        counts=lambda: dict(counts),
        query={"texts": origin},
    )
    return snapshot
