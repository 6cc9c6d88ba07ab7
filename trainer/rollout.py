"""Sampling with a key-value cache: many prompts at once, K completions share a prompt's prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.data import Batch, pad_left
from trainer.losses import token_logprobs
from trainer.models import additive, causal_mask, device, logits_of, positions, token_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Rollout:
    """B sampled completions: prompts left-padded to P tokens, completions right-padded to T.

    mask (B, T) is true on sampled tokens, end-of-text included. logprobs (B, T), nats, are those of
    the distribution sampled from (temperature applied), 0 where masked. finished (B,) is true where
    a completion reached end-of-text.
    """

    prompts: Batch
    completions: Tensor
    mask: Tensor
    logprobs: Tensor
    finished: Tensor

    def sequences(self) -> Batch:
        """Prompt and completion in one row: (B, P + T)."""
        return Batch(
            torch.cat([self.prompts.tokens, self.completions], dim=1),
            torch.cat([self.prompts.mask, self.mask], dim=1),
        )

    def select(self, rows: Tensor) -> Rollout:
        """The episodes of these row indices, without the columns that pad all of them."""
        prompt_mask, mask = self.prompts.mask[rows], self.mask[rows]
        first = self.prompts.mask.shape[1] - int(prompt_mask.sum(1).max())
        end = int(mask.sum(1).max())
        return Rollout(
            Batch(self.prompts.tokens[rows, first:], prompt_mask[:, first:]),
            self.completions[rows, :end],
            mask[:, :end],
            self.logprobs[rows, :end],
            self.finished[rows],
        )

    def parts(self, rows: Tensor, size: int) -> list[Tensor]:
        """These row indices in parts of at most `size`, shortest sequences first.

        Sequences of one part have about the same length, so little padding is computed.
        """
        lengths = self.prompts.mask[rows].sum(1) + self.mask[rows].sum(1)
        return list(torch.split(rows[lengths.argsort(stable=True)], size))

    def token_ids(self) -> list[list[int]]:
        """The sampled ids of each completion, end-of-text included where it was sampled."""
        return [
            row[keep].tolist()
            for row, keep in zip(self.completions.cpu(), self.mask.cpu(), strict=True)
        ]


@torch.no_grad()
def sample(
    policy: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    n: Sequence[int] | int = 1,
    max_tokens: int,
    temperature: float,
    eos: int,
    pad: int,
    generator: torch.Generator,
) -> Rollout:
    """Sample n completions of each prompt (or n[i] of prompt i), in the order of the prompts.

    A completion ends at its first end-of-text or after max_tokens. The pad token is never sampled.
    Temperature 0 takes the most likely token and reports its logprob at temperature 1. A prompt
    passes through the model once, whatever n is. Rows that have finished leave the batch when they
    are half of it, so a long completion does not pay for the short ones.
    """
    counts = torch.tensor([n] * len(prompts) if isinstance(n, int) else list(n))
    source = torch.arange(len(prompts)).repeat_interleave(counts).to(device())
    batch = _to_device(pad_left(prompts, pad))
    output = policy(
        input_ids=batch.tokens,
        attention_mask=causal_mask(batch.mask),
        position_ids=positions(batch.mask),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = output.past_key_values
    if len(source) != len(prompts) or not bool((counts == 1).all()):
        cache.batch_select_indices(source)
    logits = output.logits[source, -1]
    prompt = Batch(batch.tokens[source], batch.mask[source])

    rows = len(source)
    tokens = torch.full((rows, max_tokens), pad, device=device())
    logprobs = torch.zeros(rows, max_tokens, device=device())
    mask = torch.zeros(rows, max_tokens, dtype=torch.bool, device=device())
    finished = torch.zeros(rows, dtype=torch.bool, device=device())
    live = torch.arange(rows, device=device())  # the rows still in the batch
    seen = prompt.mask  # (live, P + t): what a new token may attend to
    place = seen.sum(1)  # the position of the next token
    for t in range(max_tokens):
        logits[:, pad] = -torch.inf
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            logits = logits / temperature
            chosen = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
        going = ~finished[live]
        chosen = torch.where(going, chosen, pad)
        tokens[live, t] = chosen
        mask[live, t] = going
        logprobs[live, t] = token_logprobs(logits, chosen).masked_fill(~going, 0.0)
        finished[live] |= chosen == eos
        going = ~finished[live]
        left = int(going.sum())
        if left == 0 or t + 1 == max_tokens:
            break
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
        if 2 * left <= len(live):
            keep = going.nonzero().squeeze(1)
            live, seen, place, chosen = live[keep], seen[keep], place[keep], chosen[keep]
            cache.batch_select_indices(keep)
        output = policy(
            input_ids=chosen[:, None],
            attention_mask=additive(seen[:, None, None, :]),
            position_ids=place[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
        place = place + 1
    longest = int(mask.sum(1).max())
    return Rollout(prompt, tokens[:, :longest], mask[:, :longest], logprobs[:, :longest], finished)


def completion_logits(
    policy: PreTrainedModel, rollout: Rollout, *, temperature: float, pad: int
) -> Tensor:
    """Logits (B, T, V) that each token of a rollout was sampled from, computed again.

    Divided by the temperature and without the pad token, as in `sample`.
    """
    width = rollout.completions.shape[1]
    logits = logits_of(policy, rollout.sequences(), last=width + 1)[:, :-1] / temperature
    unsampled = torch.zeros(logits.shape[-1], device=logits.device)
    unsampled[pad] = torch.finfo(logits.dtype).min
    return logits + unsampled


@torch.no_grad()
def completion_logprobs(
    policy: PreTrainedModel, rollout: Rollout, *, temperature: float, pad: int
) -> Tensor:
    """Logprobs (B, T) of a rollout's tokens under a policy, 0 where masked."""
    logits = completion_logits(policy, rollout, temperature=temperature, pad=pad)
    return token_logprobs(logits, rollout.completions).masked_fill(~rollout.mask, 0.0)


def completion_values(value_model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Values (B, T): what the value function sees just before each token is sampled."""
    before = rollout.prompts.tokens.shape[1] - 1
    return token_scores(value_model, rollout.sequences())[:, before:-1]


def final_scores(reward_model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Scores (B,) at each completion's last token."""
    last = rollout.prompts.tokens.shape[1] - 1 + rollout.mask.sum(1, keepdim=True)
    return token_scores(reward_model, rollout.sequences()).gather(1, last).squeeze(1)


def _to_device(batch: Batch) -> Batch:
    return Batch(batch.tokens.to(device()), batch.mask.to(device()))
