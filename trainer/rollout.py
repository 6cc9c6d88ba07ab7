"""Sampling with a key-value cache: many prompts at once, K completions share a prompt's prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.data import pad_left, parts_of
from trainer.ensemble import mean_and_spread
from trainer.losses import token_logprobs
from trainer.models import device
from trainer.packing import Packed, pack
from trainer.passes import hidden_states, scores_at, token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sampled:
    """One sampled completion: its ids, end-of-text included where it was sampled, and their
    logprobs, nats, under the distribution sampled from (temperature applied).
    """

    ids: list[int]
    logprobs: list[float]
    finished: bool  # by end-of-text


@dataclass(frozen=True)
class Rollout:
    """B episodes: completions (B, T), right-padded, of prompts given as token ids.

    mask (B, T) is true on sampled tokens, end-of-text included; logprobs (B, T) are 0 where masked;
    finished (B,) is true where a completion reached end-of-text.
    """

    prompts: Sequence[Sequence[int]]
    sampled: list[Sampled]
    completions: Tensor
    mask: Tensor
    logprobs: Tensor
    finished: Tensor

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], sampled: list[Sampled], pad: int) -> Rollout:
        """The tensors of these episodes."""
        shape = len(sampled), max(len(s.ids) for s in sampled)
        completions, logprobs = torch.full(shape, pad), torch.zeros(shape)
        for row, episode in enumerate(sampled):
            completions[row, : len(episode.ids)] = torch.tensor(episode.ids)
            logprobs[row, : len(episode.ids)] = torch.tensor(episode.logprobs)
        lengths = torch.tensor([len(s.ids) for s in sampled])
        mask = torch.arange(shape[1]) < lengths[:, None]
        finished = torch.tensor([s.finished for s in sampled])
        tensors = (x.to(device()) for x in (completions, mask, logprobs, finished))
        return cls(prompts, sampled, *tensors)

    def parts(self, rows: Tensor, tokens: int) -> list[Tensor]:
        """These row indices in parts of at most `tokens` tokens, prompts included."""
        lengths = [len(self.prompts[i]) + len(self.sampled[i].ids) for i in rows.tolist()]
        return [rows[part] for part in parts_of(lengths, tokens)]

    def pack(self, rows: Tensor) -> Episodes:
        """The episodes of these row indices as one packed row."""
        picked = rows.tolist()
        packed = pack([([*self.prompts[i], *self.sampled[i].ids], ()) for i in picked])
        before: list[int] = []
        for place, i in zip(packed.prompts, picked, strict=True):
            start = place + len(self.prompts[i]) - 1
            before += range(start, start + len(self.sampled[i].ids))
        return Episodes(packed, before, self.completions[rows], self.mask[rows])


@dataclass(frozen=True)
class Episodes:
    """Some episodes of a rollout in one row. before are the n places just before each of their
    sampled tokens, episode after episode; completions, mask (B, T) as in the rollout.
    """

    packed: Packed
    before: list[int]
    completions: Tensor
    mask: Tensor

    @property
    def last(self) -> list[int]:
        """The places (B,) of the last tokens."""
        return [self.before[n - 1] + 1 for n in self.mask.sum(1).cumsum(0).tolist()]

    def spread(self, values: Tensor) -> Tensor:
        """Values (n,) of the sampled tokens as (B, T), 0 where masked."""
        return torch.zeros(self.mask.shape, device=values.device).masked_scatter(
            self.mask, values.float()
        )


@torch.no_grad()
def sample(
    policy: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    n: Sequence[int] | int = 1,
    uniform: Tensor,
    temperature: float,
    eos: int,
    pad: int,
) -> list[Sampled]:
    """Sample n completions of each prompt (or n[i] of prompt i), in the order of the prompts.

    uniform (completions, max_tokens) are the random numbers from [0, 1): a token is the first whose
    cumulative probability is above its number, so that what is sampled does not depend on what is
    sampled beside it. A completion ends at its first end-of-text or after max_tokens. The pad token
    is never sampled. Temperature 0 takes the most likely token and reports its logprob at
    temperature 1. A prompt passes through the model once, whatever n is. Rows that have finished
    leave the batch when they are half of it, so a long completion does not pay for the short ones.
    """
    counts = torch.tensor([n] * len(prompts) if isinstance(n, int) else list(n))
    source = torch.arange(len(prompts)).repeat_interleave(counts).to(device())
    padded, padded_mask = (x.to(device()) for x in pad_left(prompts, pad))
    output = policy(
        input_ids=padded,
        attention_mask=causal_mask(padded_mask),
        position_ids=positions(padded_mask),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = output.past_key_values
    if len(source) != len(prompts) or not bool((counts == 1).all()):
        cache.batch_select_indices(source)
    logits = output.logits[source, -1]

    rows, max_tokens = uniform.shape
    uniform = uniform.to(device())
    tokens = torch.full((rows, max_tokens), pad, device=device())
    logprobs = torch.zeros(rows, max_tokens, device=device())
    lengths = torch.zeros(rows, dtype=torch.long, device=device())
    finished = torch.zeros(rows, dtype=torch.bool, device=device())
    live = torch.arange(rows, device=device())  # the rows still in the batch
    seen = padded_mask[source]  # (live, P + t): what a new token may attend to
    place = seen.sum(1)  # the position of the next token
    for t in range(max_tokens):
        logits = logits.float()
        logits[:, pad] = -torch.inf
        if temperature not in (0, 1):
            logits = logits / temperature
        chosen = logits.argmax(-1) if temperature == 0 else drawn(logits, uniform[live, t])
        going = ~finished[live]
        chosen = torch.where(going, chosen, pad)
        tokens[live, t] = chosen
        lengths[live] += going
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
    return [
        Sampled(ids[:length], own[:length], done)
        for ids, own, length, done in zip(
            tokens.tolist(), logprobs.tolist(), lengths.tolist(), finished.tolist(), strict=True
        )
    ]


def drawn(logits: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (B,) of the distributions logits (B, V), one for each number (B,) from [0, 1)."""
    cumulative = logits.softmax(-1).cumsum(-1)
    aim = uniform[:, None] * cumulative[:, -1:]  # the sum is 1 but for rounding
    chosen = torch.searchsorted(cumulative, aim, right=True).squeeze(1)
    # A number just below 1 may be rounded up to the sum: then the last token that is possible.
    last = (logits > -torch.inf).long().cumsum(-1).argmax(-1)
    return torch.minimum(chosen, last)


def completion_logprobs(
    policy: PreTrainedModel, episodes: Episodes, temperature: float, pad: int
) -> Tensor:
    """Logprobs (B, T) of the sampled tokens under a policy, 0 where masked.

    The logits are divided by the temperature and without the pad token, as in `sample`.
    """
    losses = token_losses(
        policy,
        hidden_states(policy, episodes.packed, episodes.before),
        episodes.completions[episodes.mask],
        temperature=temperature,
        without=pad,
    )
    return episodes.spread(-losses)


def completion_values(value_model: PreTrainedModel, episodes: Episodes) -> Tensor:
    """Values (B, T): what the value function sees just before each token is sampled."""
    return episodes.spread(scores_at(value_model, episodes.packed, episodes.before))


def final_scores(reward_model: PreTrainedModel, episodes: Episodes) -> Tensor:
    """(2, B): scores at each completion's last token, and their spread, 0 but of an ensemble."""
    scores, spread = mean_and_spread(scores_at(reward_model, episodes.packed, episodes.last))
    return torch.stack([scores, torch.zeros_like(scores) if spread is None else spread])


def additive(allowed: Tensor) -> Tensor:
    """A bool attention mask as one to be added: 0 where allowed, the lowest float32 elsewhere.

    Not minus infinity: a padding row that may attend to nothing would become NaN.
    """
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, lowest)


def causal_mask(mask: Tensor) -> Tensor:
    """(B, T) token mask to the additive causal mask (B, 1, T, T)."""
    lower = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
    return additive((lower & mask[:, None, :])[:, None])


def positions(mask: Tensor) -> Tensor:
    """Position ids (B, T) counted from the first true position, 0 on padding before it."""
    return (mask.long().cumsum(1) - 1).clamp_(min=0)
