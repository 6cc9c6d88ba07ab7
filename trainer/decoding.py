"""Keys and values while completions are sampled: a prompt's once, whatever is sampled after it.

What transformers' caches do by repeating a prompt's keys for each of its completions and copying
all of them at every token is done here without: attention to the prompt is computed for all rows of
the prompt at once, the tokens sampled after it lie in a buffer that doubles when it is full. Where
every prompt has one completion there is nothing to share: its keys are the beginning of that buffer
and torch's own attention answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

ROOM = 32  # sampled tokens that a buffer holds at first


class Decoding:
    """Takes the place of a transformers cache, for R rows that continue P prompts.

    First the prompts pass as one packed row, at `places` (their first tokens) of it, and their keys
    and values are kept. After `begin` each pass holds one token a row.
    """

    def __init__(
        self, places: Sequence[int], lengths: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        width = max(lengths)
        steps = torch.arange(width)
        self._device = device
        self._inside = steps < torch.tensor(lengths)[:, None]  # (P, width)
        self._index = (torch.tensor(places)[:, None] + steps * self._inside).to(device)
        # Keys and values by layer, one above the other.
        self._prompts: dict[int, Tensor] = {}  # (2, P, H, width, D)
        self._own: dict[int, Tensor] = {}  # (2, R, H, first + room, D)
        self._begun = False
        self._first = 0  # how much of it is the prompt's: its width, or 0 where prompts are shared
        self._step = -1  # the token of the rows that passes
        self._room = ROOM
        self._mask: Tensor | None = None  # 0 inside a prompt and -inf after it; None: no padding

    @property
    def shared(self) -> bool:
        """Whether prompts' keys lie apart: not every prompt has one completion."""
        return not self._first

    def begin(self, prompt_of: Sequence[int]) -> None:
        """The rows to sample: each one's prompt, those of a prompt side by side."""
        self._begun = True
        if list(prompt_of) == list(range(len(self._inside))):
            self._first = self._inside.shape[1]
            self._own = {layer: _with_room(x, self._room) for layer, x in self._prompts.items()}
            self._prompts = {}
        self._place_rows(torch.tensor(prompt_of))

    def advance(self) -> None:
        """The next token of each row is about to pass."""
        self._step += 1
        if self._first and self._mask is not None:
            self._mask = F.pad(self._mask, (0, 1))

    def select(self, going: Tensor, rows: int) -> Tensor:
        """Go on with so many rows, all that `going` (R,) says among them. Returns their indices.

        Those of one prompt stay side by side; where each has its own, those behind the last that is
        left move to where one is free, and the others stay where they are.
        """
        going = going.cpu()
        if not self.shared:
            chosen = torch.arange(rows)
            free, behind = (~going[:rows]).nonzero()[:, 0], going[rows:].nonzero()[:, 0] + rows
            free = free[: len(behind)]
            chosen[free] = behind
            to, source = free.to(self._device), behind.to(self._device)
            for layer, kept in self._own.items():
                kept[:, to] = kept[:, source]
                self._own[layer] = kept[:, :rows]
            self._inside = self._inside[chosen]
            self._place_rows(torch.arange(rows))
        else:
            chosen = going.byte().argsort(descending=True, stable=True)[:rows].sort().values
            prompts, prompt_of = self._prompt_of[chosen].unique_consecutive(return_inverse=True)
            for layers, index in ((self._prompts, prompts), (self._own, chosen)):
                index = index.to(self._device)
                for layer, kept in layers.items():
                    layers[layer] = kept[:, index]
            self._inside = self._inside[prompts]
            self._place_rows(prompt_of)
        return chosen.to(self._device)

    def _place_rows(self, prompt_of: Tensor) -> None:
        """Row r is the query number _slots[r] of P * _each, _each for every prompt."""
        counts = prompt_of.bincount(minlength=len(self._inside))
        before = torch.arange(len(prompt_of)) - (counts.cumsum(0) - counts)[prompt_of]
        self._prompt_of = prompt_of
        self._each = int(counts.max())
        self._slots: Tensor | None = (prompt_of * self._each + before).to(self._device)
        if bool((counts == self._each).all()):  # the rows are the slots
            self._slots = None
        self._mask = None
        if not bool(self._inside.all()):
            self._mask = _barred(~self._inside).to(self._device)
            if self._first:
                self._mask = F.pad(self._mask, (0, self._step + 1))

    def get_seq_length(self, _layer: int = 0) -> int:
        """For transformers, which are given all positions and need not count."""
        return 0

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """As a transformers cache: keep keys and values (B, H, N, D), and return them."""
        # In half precision rotary keys may come whole; attention rounds them in any case.
        self.keep(layer, torch.stack([key.to(value.dtype), value]).permute(1, 3, 0, 2, 4))
        return key, value

    def keep(self, layer: int, both: Tensor) -> None:
        """Keep keys and values: (1, N, 2, H, D) of the prompts' row, (R, 1, 2, H, D) of tokens."""
        if not self._begun:
            self._prompts[layer] = both[0][self._index].permute(2, 0, 3, 1, 4).contiguous()
            return
        new = both.permute(2, 0, 3, 1, 4)
        if layer not in self._own:
            self._own[layer] = _with_room(new[:, :, :, :0], self._room)
        self._write(layer, new)

    def _write(self, layer: int, new: Tensor) -> None:
        at = self._first + self._step
        if self._own[layer].shape[3] == at:
            self._own[layer] = _with_room(self._own[layer], max(ROOM, self._step))
        self._own[layer][:, :, :, at] = new[:, :, :, 0]

    def _read(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """(keys and values (2, R, H, n, D) of the rows' own buffer, mask (n,) of what is no token
        yet). Where the prompts lie in that buffer, `_mask` is all there is.
        """
        return self._own[layer][:, :, :, : self._first + self._step + 1], None

    def attend(self, layer: int, query: Tensor, scaling: float | None) -> Tensor:
        """Attention of one token a row: queries (R, heads, 1, D) to outputs (R, 1, heads, D)."""
        rows, heads, _, depth = query.shape
        kept, unreached = self._read(layer)
        keys, values = kept.unbind(0)
        if self._first:
            if self._mask is not None:
                self._mask = self._mask.to(query)
            mask = None if self._mask is None else self._mask[:, None, None]
            grouped = keys.shape[1] != heads
            output = F.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=grouped
            )
            return output.transpose(1, 2)
        prompt_keys, prompt_values = self._prompts[layer]
        prompts, kv_heads, width, _ = prompt_keys.shape
        shared = heads // kv_heads  # queries of one head of keys
        query = query.reshape(rows, kv_heads, shared, depth)
        query = query * (depth**-0.5 if scaling is None else scaling)

        def by_prompt(x: Tensor) -> Tensor:
            """(R, kv_heads, shared, n) to (P, kv_heads, each * shared, n)."""
            if self._slots is not None:
                empty = x.new_zeros(prompts * self._each, *x.shape[1:])
                x = empty.index_copy(0, self._slots, x)
            x = x.unflatten(0, (prompts, self._each)).transpose(1, 2)
            return x.flatten(2, 3)

        def by_row(x: Tensor) -> Tensor:
            """And back."""
            x = x.unflatten(2, (self._each, shared)).transpose(1, 2).flatten(0, 1)
            return x if self._slots is None else x[self._slots]

        seen = by_prompt(query) @ prompt_keys.transpose(2, 3)
        if self._mask is not None:
            seen = seen + self._mask[:, None, None]
        own = query @ keys.transpose(2, 3)
        if unreached is not None:
            own = own + unreached
        weights = torch.cat([by_row(seen), own], dim=-1)
        weights = weights.softmax(-1, dtype=torch.float32).to(values.dtype)
        output = by_row(by_prompt(weights[..., :width]) @ prompt_values)
        output = output + weights[..., width:] @ values
        return output.reshape(rows, 1, heads, depth)


class SteadyDecoding(Decoding):
    """The same in buffers that have room for all `tokens` from the beginning.

    Where a step writes and what it sees follow from a tensor that it moves on. So each step does
    the same work in the same memory, and one that was recorded may be replayed (trainer.graphs).
    """

    def __init__(
        self,
        places: Sequence[int],
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        tokens: int,
    ) -> None:
        super().__init__(places, lengths, device)
        self._room = tokens
        self._at = torch.full((1,), -1, device=device)  # the token of the rows that passes
        self._tokens = torch.arange(tokens, device=device)

    def advance(self) -> None:
        self._at += 1
        self._unreached = _barred(self._tokens > self._at)
        if self._first:
            own = self._unreached.expand(len(self._padding), -1)
            self._mask = torch.cat([self._padding, own], dim=1)

    def _place_rows(self, prompt_of: Tensor) -> None:
        super()._place_rows(prompt_of)
        if self._first:
            self._padding = _barred(~self._inside).to(self._device)

    def _write(self, layer: int, new: Tensor) -> None:
        self._own[layer].index_copy_(3, self._first + self._at, new)

    def _read(self, layer: int) -> tuple[Tensor, Tensor | None]:
        return self._own[layer], self._unreached


def _barred(places: Tensor) -> Tensor:
    """Zeros, -inf where true: what is added to scores of attention."""
    return torch.zeros(places.shape, device=places.device).masked_fill(places, -torch.inf)


def _with_room(kept: Tensor, tokens: int) -> Tensor:
    """Keys and values (2, R, H, n, D) with room for so many more tokens."""
    return F.pad(kept, (0, 0, 0, tokens))
