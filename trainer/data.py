"""Records to token ids, batches and orders. Every order is a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from trainer.config import PPOConfig
from trainer.contract import (
    DATA,
    ContractError,
    RunSpec,
    TextRecord,
    _Record,
    read_records,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

R = TypeVar("R", bound=_Record)


class Prompted(Protocol):
    """A record with a prompt."""

    @property
    def prompt(self) -> str: ...


P = TypeVar("P", bound=Prompted)


def load_records(run_dir: Path, spec: RunSpec, name: str, kind: type[R]) -> list[R]:
    """The records of one data file of the spec. Raises ContractError: unnamed, missing, broken."""
    if name not in spec.data:
        raise ContractError(f"spec.json: kind {spec.kind} needs data {name!r}")
    path = run_dir / DATA / spec.data[name]
    try:
        return list(read_records(path, kind))
    except FileNotFoundError:
        raise ContractError(f"{path}: not found") from None
    except UnicodeDecodeError as error:
        raise ContractError(f"{path}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Text to token ids, the same way in every kind. Text never becomes a special token."""

    tokenizer: PreTrainedTokenizerFast
    template: str
    max_prompt_tokens: int
    max_completion_tokens: int

    @property
    def eos(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def text(self, texts: list[str]) -> list[list[int]]:
        """Ids of plain texts, without any special token."""
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
        return list(encoded["input_ids"])

    @cached_property
    def start(self) -> list[int]:
        """The model's beginning-of-text, which prompts and documents begin with; [] without one."""
        start: list[int] = self.tokenizer("")["input_ids"][:1]
        return start if start == [self.tokenizer.bos_token_id] else []

    def _in_template(self, prompts: list[str]) -> list[list[int]]:
        """Ids of prompts of any length. Raises ContractError where one has no token."""
        before, after = self.template.split("{prompt}")
        rows = [self.start + ids for ids in self.text([before + p + after for p in prompts])]
        if [] in rows:
            raise ContractError(
                f"the prompt {prompts[rows.index([])]!r} has no token in the template "
                f"{self.template!r}: there is nothing to continue"
            )
        return rows

    def fitting(self, records: Sequence[P]) -> tuple[list[P], list[list[int]]]:
        """The records whose prompts have at most max_prompt_tokens, and their prompts' ids.

        The paper drops prompts that are longer than 1,000 tokens (appendix A).
        """
        rows = self._in_template([record.prompt for record in records])
        pairs = zip(records, rows, strict=True)
        kept = [(record, ids) for record, ids in pairs if len(ids) <= self.max_prompt_tokens]
        return [record for record, _ in kept], [ids for _, ids in kept]

    def prompts(self, prompts: list[str]) -> list[list[int]]:
        """Ids of prompts in the template, after the model's beginning-of-text where it has one.

        Raises ContractError where one is longer than max_prompt_tokens: a prompt that is cut is
        another prompt.
        """
        rows = self._in_template(prompts)
        for prompt, ids in zip(prompts, rows, strict=True):
            if len(ids) > self.max_prompt_tokens:
                raise ContractError(
                    f"the prompt {prompt[:60]!r} has {len(ids)} tokens, "
                    f"more than max_prompt_tokens {self.max_prompt_tokens}"
                )
        return rows

    def completions(self, completions: list[str]) -> list[list[int]]:
        """Ids of completions, cut to max_completion_tokens, each ended by end-of-text."""
        return self.cut_completions(completions)[0]

    def cut_completions(
        self, completions: list[str], *, ended: bool = True
    ) -> tuple[list[list[int]], int]:
        """Ids as `completions`, and how many were cut; ended says whether these have an end too."""
        limit = self.max_completion_tokens
        rows = [[*ids, self.eos] for ids in self.text(completions)]
        cut = sum(len(ids) > limit for ids in rows)
        end = [self.eos] if ended else []
        return [ids if len(ids) <= limit else [*ids[: limit - len(end)], *end] for ids in rows], cut

    def documents(self, records: Sequence[TextRecord]) -> list[list[int]]:
        """Ids of each document, after the model's beginning-of-text, ended by end-of-text."""
        return [[*self.start, *ids, self.eos] for ids in self.text([r.text for r in records])]


def packed_rows(documents: Iterable[Sequence[int]], row_tokens: int) -> list[list[Sequence[int]]]:
    """Documents in order, as many in a row as fit whole; one longer than a row is cut into pieces.

    A row is the unit of drawing; its documents never see each other. Pieces of one token, of which
    there is nothing to predict, are left out. Raises ContractError where nothing is left.
    """
    rows: list[list[Sequence[int]]] = []
    room = 0
    for document in documents:
        for start in range(0, len(document), row_tokens):
            piece = document[start : start + row_tokens]
            if len(piece) < 2:
                continue
            if len(piece) > room:
                rows.append([])
                room = row_tokens
            rows[-1].append(piece)
            room -= len(piece)
    if not rows:
        raise ContractError("the pretraining text is empty")
    return rows


def load_pretraining(
    run_dir: Path, spec: RunSpec, config: PPOConfig, encoder: Encoder
) -> tuple[list[list[Sequence[int]]], list[Sequence[int]]]:
    """PPO's pretraining mix in rows of ptx_tokens, and documents held out of it, to be read only.

    Both are empty where they are not asked for. Without the mix there may be documents to read.
    Raises ContractError: a mix of no data.
    """
    if "pretraining" not in spec.data and config.ptx_coefficient:
        raise ContractError(
            f"ptx_coefficient is {config.ptx_coefficient} and the spec names no pretraining data; "
            "set it to 0 for PPO without the pretraining mix"
        )
    if "pretraining" not in spec.data or not (config.ptx_coefficient or config.ptx_held_out):
        return [], []
    documents = load_records(run_dir, spec, "pretraining", TextRecord)
    rows = packed_rows(encoder.documents(documents), config.ptx_tokens)
    count = min(config.ptx_held_out, len(rows) // 10)
    held_out = set(random.Random(f"{spec.seed}/held out").sample(range(len(rows)), count))
    mix = [row for i, row in enumerate(rows) if i not in held_out]
    return mix if config.ptx_coefficient else [], [d for i in sorted(held_out) for d in rows[i]]


def epoch_batches(count: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """Index batches of one epoch, shuffled: the fewest of at most `size`, as even as can be."""
    order = _epoch_order(count, seed, epoch)
    batches = -(-count // size)
    return [order[i * count // batches : (i + 1) * count // batches] for i in range(batches)]


def parts_of(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """All indices once, sequences of about one length together, in parts of at most `tokens`.

    A sequence that is longer than that is a part of its own.
    """
    parts: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not parts or lengths[i] > room:
            parts.append([])
            room = tokens
        parts[-1].append(i)
        room -= lengths[i]
    return parts


def endless(count: int, seed: int, start: int, take: int) -> list[int]:
    """`take` indices from position `start` of an endless sequence of shuffled epochs."""
    return [_epoch_order(count, seed, p // count)[p % count] for p in range(start, start + take)]


@lru_cache(maxsize=8)
def _epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
