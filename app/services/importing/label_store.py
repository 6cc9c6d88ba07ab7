"""Where imported labels go: the rows that any labeler makes, in the name of the study's account for
imported labels, so that snapshots, exports and training use them like others."""

from __future__ import annotations

import hashlib
import random
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, literal, select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import (
    Assignment,
    AssignmentItem,
    AssignmentState,
    Batch,
    Completion,
    Demonstration,
    LabelKind,
    LabelTask,
    LabelTaskCompletion,
    LabelTaskState,
    Policy,
    PolicyKind,
    Prompt,
    Ranking,
    RankingItem,
    Role,
    Study,
    User,
)
from app.services import people
from app.services.batch_rows import new_batch
from app.services.bulk import among
from app.services.importing.problems import RowProblems
from app.services.preparation.settings import settings_of
from app.services.preparation.sifting import Preparation
from app.services.prompts import NameTaken, PromptRow, add_prompts
from app.services.studies import current_guidelines

MAX_OF_A_PROMPT = 100  # labels of one prompt in a file: each but the first begins a batch

# What a label says, whoever gave it: of each text its SHA-256 and its tier.
Content = frozenset[tuple[bytes, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """A demonstration (one text), or a ranking: each text with its tier and its system."""

    prompt: PromptRow
    texts: tuple[str, ...]
    tiers: tuple[int, ...]
    policies: tuple[str, ...]

    @property
    def content(self) -> Content:
        return frozenset(zip(map(_digest, self.texts), self.tiers, strict=True))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def importer_name(study: Study) -> str:
    return f"imported.{study.id}"


def _importer(session: Session, study: Study) -> User:
    """The study's account for imported labels: a labeler of the training pool, never signed in to.

    Raises Invalid when somebody made it their own.
    """
    name = importer_name(study)
    user = session.scalar(select(User).where(func.lower(User.username) == name))
    if user is None:
        user = people.create_user(
            session,
            username=name,
            password=secrets.token_urlsafe(32),
            display_name="Imported labels",
        )
        user.active = False
    if user.active:
        raise Invalid(f"The account {name} is a person's: imported labels need it for themselves.")
    people.add_member(session, study, user, Role.labeler)
    session.flush()
    return user


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
        policies = session.execute(
            select(Policy.name, Policy.id, Policy.kind).where(Policy.study_id == study.id)
        ).all()
        self._policy_ids = {name: key for name, key, kind in policies if kind == "external"}
        self._ours = {name for name, _, kind in policies if kind == "checkpoint"}
        self._batches: list[Batch] = []
        self._labels_of: Counter[int] = Counter()  # of this file, by prompt
        self._stored = self._duplicates = self._new_prompts = self._held = 0
        self._prompt_not_taken = 0
        self._completions: Counter[str] = Counter()
        self._newest_before = 0
        self._made: dict[tuple[int, int, bytes], int] = {}  # completions of the rows at hand

    def is_ours(self, policy: str) -> bool:
        return policy in self._ours

    @property
    def source_policy(self) -> str:
        """What stands for the file's completions whose system it does not name."""
        return f"{self._source} (imported)" if self.is_ours(self._source) else self._source

    def counts(self) -> dict[str, Any]:
        return {
            "stored": self._stored,
            "duplicates": self._duplicates,
            "new_prompts": self._new_prompts,
            "held": self._held,
            "prompt_not_taken": self._prompt_not_taken,
            "policies": dict(self._completions),
        }

    def add(self, rows: Sequence[LabelRow], import_id: int) -> None:
        """Store what is new of these rows. Raises RowProblems."""
        user = _importer(self._session, self._study)
        # What is not here before these rows has neither labels nor completions to compare with.
        self._newest_before = self._session.scalar(select(func.max(Prompt.id))) or 0
        self._made = {}
        prompt_ids = self._prompt_ids(rows, import_id)
        known = self._known(user, self._older(prompt_ids))
        fresh: list[tuple[int, LabelRow]] = []
        for row, prompt_id in zip(rows, prompt_ids, strict=True):
            if prompt_id is None:
                self._prompt_not_taken += 1
            elif (prompt_id, row.content) in known:
                self._duplicates += 1
            else:
                known.add((prompt_id, row.content))
                fresh.append((prompt_id, row))
        layers: dict[int, list[tuple[int, LabelRow]]] = {}
        for prompt_id, row in fresh:
            # A batch asks about a prompt once: its second label stands in the second batch.
            layers.setdefault(self._labels_of[prompt_id], []).append((prompt_id, row))
            self._labels_of[prompt_id] += 1
            if self._labels_of[prompt_id] > MAX_OF_A_PROMPT:
                reason = f"more than {MAX_OF_A_PROMPT} labels of one prompt"
                raise RowProblems([(row.prompt.line, reason)])
        for layer, labels in sorted(layers.items()):
            self._submit(self._batch(layer, import_id), user, labels, import_id)
        self._stored += len(fresh)

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
        self._new_prompts += added.stored
        self._held += added.held
        hashes = select(Prompt.id, Prompt.text_sha256).where(
            among(Prompt.id, {key for key in added.prompt_ids if key is not None})
        )
        same = {(prompt_id, sha256) for prompt_id, sha256 in self._session.execute(hashes)}
        return [
            prompt_id if (prompt_id, row.prompt.sha256) in same else None
            for row, prompt_id in zip(rows, added.prompt_ids, strict=True)
        ]

    def _known(self, user: User, prompt_ids: Collection[int]) -> set[tuple[int, Content]]:
        """The imported labels of these prompts that the study has."""
        found: dict[int, tuple[int, set[tuple[bytes, int]]]] = {}
        for label_id, prompt_id, tier, digest in self._session.execute(
            _demonstrated(user, self._study, prompt_ids)
            if self._kind is LabelKind.demonstration
            else _ranked(user, self._study, prompt_ids)
        ):
            found.setdefault(label_id, (prompt_id, set()))[1].add((digest, tier))
        return {(prompt_id, frozenset(content)) for prompt_id, content in found.values()}

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

    def _submit(
        self, batch: Batch, user: User, labels: Sequence[tuple[int, LabelRow]], import_id: int
    ) -> None:
        """Complete tasks, submitted assignments and current labels, in bulk."""
        where = {"study_id": self._study.id, "pool": batch.pool, "purpose": batch.purpose}
        tasks = self._insert(
            LabelTask,
            [
                where
                | {
                    "batch_id": batch.id,
                    "kind": batch.kind,
                    "prompt_id": prompt_id,
                    "state": LabelTaskState.complete,
                    "labels_done": 1,
                    "slots_taken": 1,
                }
                for prompt_id, _ in labels
            ],
        )
        now = self._session.scalar(select(func.now()))
        assignments = self._insert(
            Assignment,
            [
                where
                | {
                    "user_id": user.id,
                    "public_id": secrets.token_urlsafe(16),
                    "label_task_id": task_id,
                    "state": AssignmentState.submitted,
                    "lease_until": now,
                    "submitted_at": now,
                }
                for task_id in tasks
            ],
        )
        guidelines = current_guidelines(self._session, self._study)
        about = [
            where
            | {
                "user_id": user.id,
                "assignment_id": assignment_id,
                "simulated": user.simulated,
                "prompt_id": prompt_id,
                "guideline_version_id": guidelines.id,
            }
            for assignment_id, (prompt_id, _) in zip(assignments, labels, strict=True)
        ]
        if self._kind is LabelKind.demonstration:
            texts = [{"text": row.texts[0]} for _, row in labels]
            self._insert(Demonstration, [one | own for one, own in zip(about, texts, strict=True)])
            return
        rankings = self._insert(Ranking, about)
        completions = self._completion_ids(labels, import_id)
        asked, shown, ranked = [], [], []
        for task_id, assignment_id, ranking_id, ids, (_, row) in zip(
            tasks, assignments, rankings, completions, labels, strict=True
        ):
            tier_of = dict(zip(ids, row.tiers, strict=True))
            order = list(ids)
            # Files put the better one first: what stands in the place of a screen must not tell.
            random.Random(assignment_id).shuffle(order)
            for position, completion_id in enumerate(order):
                key = {"completion_id": completion_id}
                asked.append(key | {"label_task_id": task_id})
                shown.append(key | {"assignment_id": assignment_id, "position": position})
                ranked.append(key | {"ranking_id": ranking_id, "tier": tier_of[completion_id]})
        self._session.execute(insert(LabelTaskCompletion), asked)
        self._session.execute(insert(AssignmentItem), shown)
        self._session.execute(insert(RankingItem), ranked)

    def _insert(self, model: Any, values: Sequence[Mapping[str, Any]]) -> Sequence[int]:
        """The ids of the new rows, in the order of `values`."""
        return self._session.scalars(
            insert(model).returning(model.id, sort_by_parameter_order=True), list(values)
        ).all()

    def _completion_ids(
        self, labels: Sequence[tuple[int, LabelRow]], import_id: int
    ) -> list[list[int]]:
        """The completions of each label: those that are here by prompt, system and text, and new
        ones."""
        self._make_policies(dict.fromkeys(name for _, row in labels for name in row.policies))
        keys = [
            [
                (prompt_id, self._policy_ids[policy], _digest(text))
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
                among(Completion.policy_id, list(self._policy_ids.values())),
            )
        )
        ids = {(prompt_id, policy_id, digest): key for prompt_id, policy_id, digest, key in here}
        ids |= self._made
        samples = Counter((prompt_id, policy_id) for prompt_id, policy_id, _ in ids)
        fresh: dict[tuple[int, int, bytes], dict[str, Any]] = {}
        for (_, row), of_label in zip(labels, keys, strict=True):
            for key, text, policy in zip(of_label, row.texts, row.policies, strict=True):
                if key in ids or key in fresh:
                    continue
                prompt_id, policy_id, _ = key
                fresh[key] = {
                    "study_id": self._study.id,
                    "prompt_id": prompt_id,
                    "policy_id": policy_id,
                    "text": text,
                    "sample_index": samples[prompt_id, policy_id],
                    "import_id": import_id,
                }
                samples[prompt_id, policy_id] += 1
                self._completions[policy] += 1
        if fresh:
            made = self._insert(Completion, list(fresh.values()))
            self._made.update(zip(fresh, made, strict=True))
        ids |= self._made
        return [[ids[key] for key in of_label] for of_label in keys]

    def _make_policies(self, names: Collection[str]) -> None:
        fresh = [name for name in names if name not in self._policy_ids]
        if not fresh:
            return
        values = [
            {
                "study_id": self._study.id,
                "name": name,
                "label": name,
                "kind": PolicyKind.external,
            }
            for name in fresh
        ]
        self._policy_ids.update(zip(fresh, self._insert(Policy, values), strict=True))


def _demonstrated(user: User, study: Study, prompt_ids: Collection[int]) -> Any:
    return select(
        Demonstration.id,
        Demonstration.prompt_id,
        literal(1),
        func.sha256(func.convert_to(Demonstration.text, "UTF8")),
    ).where(
        Demonstration.user_id == user.id,
        Demonstration.study_id == study.id,
        among(Demonstration.prompt_id, prompt_ids),
    )


def _ranked(user: User, study: Study, prompt_ids: Collection[int]) -> Any:
    return (
        select(
            Ranking.id,
            Ranking.prompt_id,
            RankingItem.tier,
            func.sha256(func.convert_to(Completion.text, "UTF8")),
        )
        .join(Ranking.items)
        .join(RankingItem.completion)
        .where(
            Ranking.user_id == user.id,
            Ranking.study_id == study.id,
            among(Ranking.prompt_id, prompt_ids),
        )
    )
