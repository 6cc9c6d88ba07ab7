"""Many sequences in one row without padding between them, and the attention that keeps them apart.

A batch is a list of trees: a prompt, and the completions that go on from it. The prompt's tokens
pass through the model once whatever the number of completions; a sequence without completions is
a tree of a prompt alone. The linear layers of a model see one row of tokens. Attention sees blocks,
each a rectangle of sequences of about one length, so that no mask of the whole row is ever made
(trainer.attention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SLACK = 0.05  # of a block's width may be padding, or SLACK_TOKENS where that is more
SLACK_TOKENS = 2

Tree = tuple[Sequence[int], Sequence[Sequence[int]]]  # ids of the prompt, ids of each completion


@dataclass(frozen=True)
class Block:
    """`rows` sequences of `width` tokens, one after another in the row, causal each.

    Where `parent` is the number of another block, of one row, they attend to all of it too.
    """

    rows: int
    width: int
    parent: int | None = None

    @property
    def tokens(self) -> int:
        return self.rows * self.width


@dataclass(frozen=True)
class Packed:
    """One row: tokens, position_ids (1, N), and the blocks that it consists of, in their order.

    prompts holds the place of each tree's first token; completions that of each completion's, tree
    after tree. Sequences of a block that are shorter than it end in tokens that nobody attends to.
    """

    tokens: Tensor
    position_ids: Tensor
    blocks: tuple[Block, ...]
    prompts: list[int]
    completions: list[int]

    def padded(self, tokens: int) -> Packed:
        """With so many tokens, what is more than its own in a block that nobody reads."""
        more = tokens - self.tokens.shape[1]
        if not more:
            return self
        return replace(
            self,
            tokens=F.pad(self.tokens, (0, more)),
            position_ids=F.pad(self.position_ids, (0, more)),
            blocks=(*self.blocks, Block(1, more)),
        )

    def to(self, device: torch.device) -> Packed:
        return Packed(
            self.tokens.to(device),
            self.position_ids.to(device),
            self.blocks,
            self.prompts,
            self.completions,
        )


def pack(trees: Sequence[Tree]) -> Packed:
    """Trees in one row. No sequence may be empty."""
    tokens: list[int] = []
    position_ids: list[int] = []
    blocks: list[Block] = []
    prompts = [0] * len(trees)
    first_completion = [0]
    for _, branches in trees:
        first_completion.append(first_completion[-1] + len(branches))
    completions = [0] * first_completion[-1]

    def add(
        sequences: Sequence[Sequence[int]], places: list[int], at: Sequence[int], **block: Any
    ) -> None:
        """Blocks of these sequences; their places go to places[at[i]]."""
        first_position = block.pop("first_position")
        for group in _of_one_length([len(s) for s in sequences]):
            width = len(sequences[group[0]])
            blocks.append(Block(len(group), width, **block))
            for i in group:
                places[at[i]] = len(tokens)
                tokens.extend(sequences[i])
                tokens.extend([0] * (width - len(sequences[i])))
                position_ids.extend(range(first_position, first_position + width))

    alone = [i for i, (_, branches) in enumerate(trees) if not branches]
    add([trees[i][0] for i in alone], prompts, alone, first_position=0)
    for i, (prompt, branches) in enumerate(trees):
        if branches:
            add([prompt], prompts, [i], first_position=0)
            at = range(first_completion[i], first_completion[i + 1])
            parent = len(blocks) - 1
            add(branches, completions, at, parent=parent, first_position=len(prompt))
    return Packed(
        torch.tensor([tokens]), torch.tensor([position_ids]), tuple(blocks), prompts, completions
    )


def _of_one_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in groups of about one length, the longest of each first."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups:
            width = lengths[groups[-1][0]]
            if width - lengths[i] <= max(SLACK_TOKENS, SLACK * width):
                groups[-1].append(i)
                continue
        groups.append([i])
    return groups
