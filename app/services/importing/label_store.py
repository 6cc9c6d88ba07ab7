"""Where imported labels go: the rows that any labeler makes, in the name of accounts for imported
labels, so that snapshots, exports and training use them like others."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from app.models import (
    Batch,
    Completion,
    Demonstration,
    FoldReason,
    LabelKind,
    Prompt,
    Ranking,
    RankingItem,
    Study,
)
from app.services.batch_rows import new_batch
from app.services.bulk import among, copy_rows, next_ids
from app.services.importing.label_accounts import Accounts
from app.services.importing.label_writer import NewLabel, write_labels
from app.services.importing.outside import OutsidePolicies
from app.services.importing.problems import RowProblems
from app.services.preparation.settings import settings_of
from app.services.preparation.sifting import Preparation
from app.services.prompts import AddedPrompts, NameTaken, PromptRow, add_prompts

# Why the study does not take the prompt of a label; with these settings there is no other reason.
NOT_TAKEN = (FoldReason.over_length, FoldReason.other_side)
MAX_OF_A_PROMPT = 100  # labels of one prompt in a file: each but the first begins a batch

# What a label says, whoever gave it: of each text its SHA-256 and its tier.
Content = frozenset[tuple[bytes, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """A demonstration (one text), or a ranking: each text with its tier and its system."""

    prompt: PromptRow
    labeler: str | None = None  # as the file names them
    texts: tuple[str, ...]
    tiers: tuple[int, ...]
    policies: tuple[str, ...]

    @property
    def content(self) -> Content:
        return frozenset(zip(map(_digest, self.texts), self.tiers, strict=True))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class LabelStore:
    """Adds labels of one kind, each once: by its prompt, its texts and their order."""

    def __init__(self, session: Session, study: Study, kind: LabelKind, *, source: str) -> None:
        self._session = session
        self._study = study
        self._kind = kind
        self._source = source
        # Nothing stands for a prompt that was labeled: what is near it becomes one group with it.
        settings = settings_of(study).model_copy(update={"near_duplicates": "keep", "cap": 0})
        self._preparation = Preparation(session, study, settings)
        self._policies = OutsidePolicies(session, study)
        self._accounts = Accounts(session, study)
        self._batches: list[Batch] = []
        self._labels_of: Counter[int] = Counter()  # of this file, by prompt
        self._stored = self._duplicates = 0
        self._prompts = AddedPrompts()
        self._completions: Counter[str] = Counter()
        self._newest_before = 0
        self._made: dict[tuple[int, int, bytes], int] = {}  # completions of the rows at hand

    def is_ours(self, policy: str) -> bool:
        return policy in self._policies.own

    @property
    def source_policy(self) -> str:
        """What stands for the file's completions whose system it does not name."""
        return f"{self._source} (imported)" if self.is_ours(self._source) else self._source

    def counts(self) -> dict[str, Any]:
        return {
            "stored": self._stored,
            "duplicates": self._duplicates,
            "new_prompts": self._prompts.stored,
            "held": self._prompts.held,
            "folded": {reason.value: self._prompts.folded[reason] for reason in NOT_TAKEN},
            "folded_lines": {
                reason.value: self._prompts.lines.get(reason, []) for reason in NOT_TAKEN
            },
            "policies": dict(self._completions),
        }

    def add(self, rows: Sequence[LabelRow], import_id: int) -> None:
        """Store what is new of these rows. Raises RowProblems."""
        users = self._accounts.ids({row.labeler for row in rows})
        # What is not here before these rows has neither labels nor completions to compare with.
        self._newest_before = self._session.scalar(select(func.max(Prompt.id))) or 0
        self._made = {}
        prompt_ids = self._prompt_ids(rows, import_id)
        nobody = self._accounts.nobody()
        known = self._known({nobody, *users.values()}, self._older(prompt_ids))
        fresh: list[tuple[int, int, LabelRow]] = []  # of which prompt, and whose
        for row, prompt_id in zip(rows, prompt_ids, strict=True):
            if prompt_id is None:
                continue
            user_id, content = users[row.labeler], row.content
            # The same of nobody counts too: it came when the file did not say whose it was.
            if {(user_id, prompt_id, content), (nobody, prompt_id, content)} & known:
                self._duplicates += 1
            else:
                known.add((user_id, prompt_id, content))
                fresh.append((prompt_id, user_id, row))
        layers: dict[int, list[tuple[int, int, LabelRow]]] = {}
        for prompt_id, user_id, row in fresh:
            # A batch asks about a prompt once: its second label stands in the second batch.
            layers.setdefault(self._labels_of[prompt_id], []).append((prompt_id, user_id, row))
            self._labels_of[prompt_id] += 1
            if self._labels_of[prompt_id] > MAX_OF_A_PROMPT:
                reason = f"more than {MAX_OF_A_PROMPT} labels of one prompt"
                raise RowProblems([(row.prompt.line, reason)])
        for layer, labels in sorted(layers.items()):
            made = self._new_labels(labels, import_id)
            write_labels(self._session, self._study, self._batch(layer, import_id), made)
        self._stored += len(fresh)

    def _new_labels(
        self, labels: Sequence[tuple[int, int, LabelRow]], import_id: int
    ) -> list[NewLabel]:
        if self._kind is LabelKind.demonstration:
            return [
                NewLabel(prompt_id=prompt_id, user_id=user_id, text=row.texts[0])
                for prompt_id, user_id, row in labels
            ]
        completions = self._completion_ids([(key, row) for key, _, row in labels], import_id)
        return [
            NewLabel(
                prompt_id=prompt_id,
                user_id=user_id,
                tiers=list(zip(ids, row.tiers, strict=True)),
            )
            for ids, (prompt_id, user_id, row) in zip(completions, labels, strict=True)
        ]

    def _older(self, prompt_ids: Iterable[int | None]) -> set[int]:
        return {key for key in prompt_ids if key is not None and key <= self._newest_before}

    def _prompt_ids(self, rows: Sequence[LabelRow], import_id: int) -> list[int | None]:
        """The prompt of each row; None where another stands for it, or the study does not take it:
        the label would be about a text that nobody judged."""
        try:
            added = add_prompts(
                self._session,
                self._study,
                [row.prompt for row in rows],
                import_id=import_id,
                preparation=self._preparation,
            )
        except NameTaken as taken:
            raise RowProblems([(row.line, taken.reason(row)) for row in taken.rows]) from None
        self._prompts.add(added)
        hashes = select(Prompt.id, Prompt.text_sha256).where(
            among(Prompt.id, {key for key in added.prompt_ids if key is not None})
        )
        same = {(prompt_id, sha256) for prompt_id, sha256 in self._session.execute(hashes)}
        return [
            prompt_id if (prompt_id, row.prompt.sha256) in same else None
            for row, prompt_id in zip(rows, added.prompt_ids, strict=True)
        ]

    def _known(
        self, users: Collection[int | None], prompt_ids: Collection[int]
    ) -> set[tuple[int | None, int, Content]]:
        """The labels that these accounts have of these prompts."""
        found: dict[int, tuple[int, int, set[tuple[bytes, int]]]] = {}
        ids = [user_id for user_id in users if user_id is not None]
        for label_id, user_id, prompt_id, tier, digest in self._session.execute(
            _demonstrated(ids, self._study, prompt_ids)
            if self._kind is LabelKind.demonstration
            else _ranked(ids, self._study, prompt_ids)
        ):
            found.setdefault(label_id, (user_id, prompt_id, set()))[2].add((digest, tier))
        return {
            (user_id, prompt_id, frozenset(content))
            for user_id, prompt_id, content in found.values()
        }

    def _batch(self, layer: int, import_id: int) -> Batch:
        if layer == len(self._batches):
            name = f"Imported: {self._source}" + (f" ({layer + 1})" if layer else "")
            batch = new_batch(
                self._session, self._study, kind=self._kind, name=name, lease_minutes=60
            )
            batch.import_id = import_id
            self._session.flush()
            self._batches.append(batch)
        return self._batches[layer]

    def _completion_ids(
        self, labels: Sequence[tuple[int, LabelRow]], import_id: int
    ) -> list[list[int]]:
        """The completions of each label: those that are here by prompt, system and text, and new
        ones."""
        self._policies.make(dict.fromkeys(name for _, row in labels for name in row.policies))
        keys = [
            [
                (prompt_id, self._policies.ids[policy], _digest(text))
                for policy, text in zip(row.policies, row.texts, strict=True)
            ]
            for prompt_id, row in labels
        ]
        here = self._session.execute(
            select(
                Completion.prompt_id,
                Completion.policy_id,
                func.sha256(func.convert_to(Completion.text, "UTF8")),
                Completion.id,
            ).where(
                among(Completion.prompt_id, self._older(prompt_id for prompt_id, _ in labels)),
                among(Completion.policy_id, list(self._policies.ids.values())),
            )
        )
        ids = {(prompt_id, policy_id, digest): key for prompt_id, policy_id, digest, key in here}
        ids |= self._made
        samples = Counter((prompt_id, policy_id) for prompt_id, policy_id, _ in ids)
        fresh: dict[tuple[int, int, bytes], tuple[Any, ...]] = {}
        for (_, row), of_label in zip(labels, keys, strict=True):
            for key, text, policy in zip(of_label, row.texts, row.policies, strict=True):
                if key in ids or key in fresh:
                    continue
                prompt_id, policy_id, _ = key
                sample = samples[prompt_id, policy_id]
                fresh[key] = (self._study.id, prompt_id, policy_id, text, sample, import_id)
                samples[prompt_id, policy_id] += 1
                self._completions[policy] += 1
        if fresh:
            made = next_ids(self._session, Completion, len(fresh))
            columns = ["study_id", "prompt_id", "policy_id", "text", "sample_index", "import_id"]
            rows = ((key, *row) for key, row in zip(made, fresh.values(), strict=True))
            copy_rows(self._session, Completion, ["id", *columns], rows)
            self._made.update(zip(fresh, made, strict=True))
        ids |= self._made
        return [[ids[key] for key in of_label] for of_label in keys]


def _demonstrated(users: Collection[int], study: Study, prompt_ids: Collection[int]) -> Any:
    return select(
        Demonstration.id,
        Demonstration.user_id,
        Demonstration.prompt_id,
        literal(1),
        func.sha256(func.convert_to(Demonstration.text, "UTF8")),
    ).where(
        among(Demonstration.user_id, users),
        Demonstration.study_id == study.id,
        among(Demonstration.prompt_id, prompt_ids),
    )


def _ranked(users: Collection[int], study: Study, prompt_ids: Collection[int]) -> Any:
    return (
        select(
            Ranking.id,
            Ranking.user_id,
            Ranking.prompt_id,
            RankingItem.tier,
            func.sha256(func.convert_to(Completion.text, "UTF8")),
        )
        .join(Ranking.items)
        .join(RankingItem.completion)
        .where(
            among(Ranking.user_id, users),
            Ranking.study_id == study.id,
            among(Ranking.prompt_id, prompt_ids),
        )
    )
