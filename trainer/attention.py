"""Attention of packed rows, and a last layer that computes only what is asked of it.

A reward model is asked for one hidden state a completion, a language model for those before the
tokens that bear a loss. Keys and values of the last layer come from every token, all else in it
only from the places that are wanted: the same results for less work, the more so the fewer layers.
GPT-2's layers do both in a shorter way (trainer.gpt2).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from trainer.decoding import Decoding
from trainer.packing import Block
from trainer.products import idle, noted_maps, rounded

ATTENTION = "plumbline"  # its name among the attention functions of transformers
# What some models do to the scores of attention, beside their scale.
BENDING = ("softcap", "s_aux", "position_bias", "head_mask")
MANY = 0.75  # of a row's places: where more are wanted the last layer computes all
FEW = 0.25  # of a block's places: up to here queries are picked before attention, not after it


@dataclass(frozen=True)
class Wanted:
    """The places of a row, ascending, whose hidden states are wanted of the last layer."""

    blocks: tuple[Block, ...]
    places: list[int]


@dataclass(frozen=True)
class _Leave:
    """To a last layer's attention: answer for the wanted places only, by leaving the layer."""

    wanted: Wanted


@dataclass(frozen=True)
class _Attended:
    """To a last layer's attention: the answer (1, n, H, D), computed before."""

    output: Tensor


class _AttendedError(Exception):
    """Leaves a layer in the midst of it."""

    def __init__(self, attended: _Attended) -> None:
        self.attended = attended


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    blocks: tuple[Block, ...] | Wanted | _Leave | _Attended | Decoding | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers models: query, key, value (B, H, N, D) to (B, N, H, D).

    With blocks, B is 1 and every block is computed by itself; with Decoding, N is 1; with neither
    transformers' own function for torch's scaled dot product answers.
    """
    for name in BENDING:
        if options.get(name) is not None:
            raise TypeError(f"{name} is not among what packed attention can do")
    if blocks is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    if isinstance(blocks, _Attended):
        return blocks.output, None
    if isinstance(blocks, Decoding):
        return blocks.attend(module.layer_idx, query, scaling), None  # type: ignore[arg-type]
    heads = query.shape[1]
    if key.shape[1] != heads:  # grouped queries
        key = key.repeat_interleave(heads // key.shape[1], dim=1)
        value = value.repeat_interleave(heads // value.shape[1], dim=1)
    leaves = isinstance(blocks, _Leave)
    if isinstance(blocks, _Leave):
        blocks = blocks.wanted
    elif isinstance(blocks, Wanted):  # not of the last layer
        blocks = blocks.blocks
    sizes = sizes_of(blocks)
    each = (x.squeeze(0).transpose(0, 1).split(sizes) for x in (query, key, value))
    attended = attend(list(zip(*each, strict=True)), blocks, scaling=scaling, dropout=dropout)[None]
    if leaves:
        raise _AttendedError(_Attended(attended))
    return attended, None


def sizes_of(blocks: tuple[Block, ...] | Wanted) -> list[int]:
    """The tokens of each block."""
    if isinstance(blocks, Wanted):
        blocks = blocks.blocks
    return [block.tokens for block in blocks]


def attend(
    parts: Sequence[tuple[Tensor, Tensor, Tensor]],
    blocks: tuple[Block, ...] | Wanted,
    *,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """Attention (tokens, H, D) of queries, keys and values (tokens of a block, H, D) of each block;
    (n, H, D) of the n places that are wanted.
    """
    wanted = None
    if isinstance(blocks, Wanted):
        wanted, blocks = blocks.places, blocks.blocks
    outputs = []
    first = 0  # place of the block
    for block, (q, k, v) in zip(blocks, parts, strict=True):
        places = None
        if wanted is not None:
            low, high = (bisect_left(wanted, place) for place in (first, first + block.tokens))
            places = [place - first for place in wanted[low:high]]
        first += block.tokens
        if places == []:
            continue
        k, v = (_rows(x, block) for x in (k, v))
        seen = 0
        if block.parent is not None:
            parent = blocks[block.parent]
            seen = parent.width
            k, v = (
                torch.cat([_rows(of, parent).expand(len(x), -1, -1, -1), x], dim=2)
                for of, x in zip(parts[block.parent][1:], (k, v), strict=True)
            )
        q, mask, kept = _queries(q, block, seen, places)
        output = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
        )
        output = output.transpose(1, 2).flatten(0, 1)
        outputs.append(output if kept is None else output.index_select(0, kept))
    return torch.cat(outputs)


def _rows(x: Tensor, block: Block) -> Tensor:
    """(tokens, H, D) of a block as (rows, H, width, D)."""
    rows: Tensor = x.unflatten(0, (block.rows, block.width))
    return rows.transpose(1, 2)


def _queries(
    query: Tensor, block: Block, seen: int, places: Sequence[int] | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(queries (rows, H, n, D), mask over `seen` and own keys or None where it is causal, indices
    of the outputs to keep or None for all) of a block's queries (rows * width, H, D).
    """
    if places is not None:
        by_row: list[list[int]] = [[] for _ in range(block.rows)]
        for place in places:
            by_row[place // block.width].append(place % block.width)
        count = max(map(len, by_row))
        if count <= FEW * block.width:
            kept = [row * count + i for row, own in enumerate(by_row) for i in range(len(own))]
            at = torch.tensor([own + [0] * (count - len(own)) for own in by_row]).to(query.device)
            index = at + block.width * torch.arange(block.rows, device=query.device)[:, None]
            keys = torch.arange(seen + block.width, device=query.device)
            picked = query.index_select(0, index.flatten()).unflatten(0, at.shape).transpose(1, 2)
            mask = keys <= seen + at[:, None, :, None]
            return picked, mask, torch.tensor(kept).to(query.device)
    causal = None
    if seen:
        shape = block.width, seen + block.width
        causal = torch.ones(shape, dtype=torch.bool, device=query.device).tril(seen)
    kept_all = None if places is None else torch.tensor(places).to(query.device)
    return _rows(query, block), causal, kept_all


def _packs_by_itself(trunk: Any) -> bool:
    """Whether its layers take packed rows without this module's `attention` (trainer.gpt2)."""
    return bool(getattr(trunk, "packs_by_itself", False))


def attention_is_called(trunk: Any) -> bool:
    """Whether a trunk that was told to use this module's attention does: some have their own."""
    if _packs_by_itself(trunk):
        return True
    first = torch.zeros(1, 1, dtype=torch.long, device=trunk.device)
    try:
        trunk(input_ids=first, position_ids=first, blocks=_Leave(Wanted((Block(1, 1),), [0])))
    except _AttendedError:
        return True
    return False


def trim_last_layer(trunk: nn.Module) -> nn.Module | None:
    """Let the last layer heed `Wanted` places. Returns it, None where the trunk has no layers, or
    heeds them by itself.
    """
    if _packs_by_itself(trunk):
        return None
    depth = trunk.config.num_hidden_layers  # type: ignore[union-attr]
    for module in trunk.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            last = module[-1]
            last.forward = partial(_forward, last, last.forward)
            return last
    return None


def untrim(layer: nn.Module) -> None:
    """Take back what `trim_last_layer` did."""
    del layer.forward


def _forward(layer: nn.Module, whole: Any, hidden: Tensor, *args: Any, **options: Any) -> Any:
    """A layer's forward, hidden (1, N, D) to (1, N, D): zeros but at the places that are wanted.

    The layer is left once attention is computed, from keys and values of all places, and entered
    again with the wanted places only, for which attention then has its answer ready: what made
    queries, keys and values need not do so again.
    """
    wanted = options.get("blocks")
    if not isinstance(wanted, Wanted):
        return whole(hidden, *args, **options)
    del options["blocks"]
    try:
        with noted_maps(layer) as before:
            whole(hidden, *args, blocks=_Leave(wanted), **options)
    except _AttendedError as left:
        attended = left.attended
    else:
        raise TypeError("the last layer does not call attention")
    length = hidden.shape[1]
    places = torch.tensor(wanted.places, device=hidden.device)

    def at_places(option: Any) -> Any:
        """Of positions and rotary angles (1, N, ...) those that are wanted; no cache again."""
        if isinstance(option, Decoding):
            return None
        along = isinstance(option, Tensor) and option.ndim > 1 and option.shape[1] == length
        return option.index_select(1, places) if along else option

    args, options = pytree.tree_map(at_places, (args, options))
    with idle(before):
        output = whole(hidden.index_select(1, places), *args, blocks=attended, **options)
    made = output[0] if isinstance(output, tuple) else output
    spread = torch.zeros_like(hidden).index_copy(1, places, made)
    return (spread, *output[1:]) if isinstance(output, tuple) else spread


def wanted_of(
    blocks: tuple[Block, ...], places: Sequence[int] | None, device: torch.device
) -> tuple[Block, ...] | Wanted:
    """What to pass as `blocks`: with places the trim, unless nearly all places are wanted."""
    tokens = sum(block.tokens for block in blocks)
    if places is None or len(places) > MANY * tokens:
        return blocks
    wanted = set(places)
    spare = (place for place in reversed(range(tokens)) if place not in wanted)
    wanted.update(islice(spare, rounded(len(wanted), device) - len(wanted)))
    return Wanted(blocks, sorted(wanted))
