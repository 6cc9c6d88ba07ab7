"""Records to token ids, batches and orders. Every order is a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from trainer.contract import DATA, ContractError, RunSpec, TextRecord, _Record, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

R = TypeVar("R", bound=_Record)


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

    def prompts(self, prompts: list[str]) -> list[list[int]]:
        """Ids of prompts in the template, after the model's beginning-of-text where it has one.

        Raises ContractError where one is longer than max_prompt_tokens: a prompt that is cut is
        another prompt.
        """
        before, after = self.template.split("{prompt}")
        start = self.tokenizer("")["input_ids"][:1]
        if start != [self.tokenizer.bos_token_id]:
            start = []
        rows = [start + ids for ids in self.text([before + p + after for p in prompts])]
        for prompt, ids in zip(prompts, rows, strict=True):
            if len(ids) > self.max_prompt_tokens:
                raise ContractError(
                    f"the prompt {prompt[:60]!r} has {len(ids)} tokens, "
                    f"more than max_prompt_tokens {self.max_prompt_tokens}"
                )
        return rows

    def completions(self, completions: list[str]) -> list[list[int]]:
        """Ids of completions, cut to max_completion_tokens, each ended by end-of-text."""
        limit = self.max_completion_tokens
        return [[*ids[: limit - 1], self.eos] for ids in self.text(completions)]

    def documents(self, records: Sequence[TextRecord]) -> list[list[int]]:
        """Ids of each document, ended by end-of-text."""
        return [[*ids, self.eos] for ids in self.text([r.text for r in records])]


@dataclass(frozen=True)
class Rows:
    """Documents packed into rows: tokens (N, T); segment (N, T) numbers the documents of a row from
    0 and is -1 on padding.
    """

    tokens: Tensor
    segment: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def pick(self, indices: Sequence[int], to: torch.device) -> Rows:
        """Some of the rows, on a device."""
        return Rows(self.tokens[indices].to(to), self.segment[indices].to(to))


def packed_rows(documents: Iterable[Sequence[int]], row_tokens: int, pad: int) -> Rows:
    """Documents in order, as many in a row as fit whole; one longer than a row is cut into pieces.

    Raises ContractError where there is nothing to predict in them.
    """
    rows: list[list[Sequence[int]]] = []
    room = 0
    for document in documents:
        for start in range(0, len(document), row_tokens):
            piece = document[start : start + row_tokens]
            if len(piece) > room:
                rows.append([])
                room = row_tokens
            rows[-1].append(piece)
            room -= len(piece)
    if not any(len(piece) > 1 for row in rows for piece in row):
        raise ContractError("the pretraining text is empty")
    tokens = torch.full((len(rows), row_tokens), pad)
    segment = torch.full((len(rows), row_tokens), -1)
    for i, row in enumerate(rows):
        at = 0
        for number, piece in enumerate(row):
            tokens[i, at : at + len(piece)] = torch.tensor(piece)
            segment[i, at : at + len(piece)] = number
            at += len(piece)
    return Rows(tokens, segment)


@dataclass(frozen=True)
class Batch:
    """Right-padded rows: tokens (B, T) int64, mask (B, T) true on tokens."""

    tokens: Tensor
    mask: Tensor


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> Batch:
    """Rows of ids as one batch. The mask comes from lengths, never from the pad id."""
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return Batch(tokens, mask)


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> Batch:
    """As pad_right, with the padding in front: what sampling continues."""
    batch = pad_right([row[::-1] for row in rows], pad)
    return Batch(batch.tokens.flip(1), batch.mask.flip(1))


def epoch_batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Index batches of one epoch: shuffled, then sorted by length within windows of 16 batches.

    Rows of one batch have about the same length, so little padding is computed; which rows meet
    and in what order the batches come stays random.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    window = 16 * size
    for start in range(0, len(order), window):
        chunk = sorted(order[start : start + window], key=lambda i: lengths[i])
        batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    rng.shuffle(batches)
    return batches


def endless(count: int, seed: int, start: int, take: int) -> list[int]:
    """`take` indices from position `start` of an endless sequence of shuffled epochs."""
    if count < 1:
        raise ContractError("there is no record to draw from")
    return [_epoch_order(count, seed, p // count)[p % count] for p in range(start, start + take)]


_orders: dict[tuple[int, int, int], list[int]] = {}


def _epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    key = (count, seed, epoch)
    if key not in _orders:
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        _orders[key] = order
    return _orders[key]


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """All indices once, in batches of similar length: for evaluation and sampling."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]
