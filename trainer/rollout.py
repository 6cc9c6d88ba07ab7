"""Sampling with a key-value cache: many prompts at once, K completions share a prompt's prefill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.data import parts_of
from trainer.decoding import Decoding, SteadyDecoding
from trainer.ensemble import mean_and_spread
from trainer.graphs import recorder
from trainer.models import device
from trainer.packing import Packed, pack
from trainer.passes import float32_head, hidden_states, losses_of, scores_at, token_losses
from trainer.products import ready, rounded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DENSE = 0.95  # of a batch that goes on: where no more do, those that have finished leave it
DENSE_SHARED = 0.75  # where completions share a prompt, whose keys must all be copied then
DENSE_RECORDED = 0.5  # where steps are recorded, which they must be anew then
SHORT = 8  # tokens: for no more than these no step is recorded, and no weight copied


@dataclass(frozen=True)
class Sampled:
    """One sampled completion: its ids, end-of-text included where it was sampled, and their
    logprobs, nats, under the distribution sampled from (temperature applied); none of a server's
    where they are not needed (trainer.engine).
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
        return [rows[part] for part in parts_of(self.lengths(rows), tokens)]

    def lengths(self, rows: Tensor) -> list[int]:
        """Tokens of the episodes of these row indices, prompts included."""
        return [len(self.prompts[i]) + len(self.sampled[i].ids) for i in rows.tolist()]

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


@torch.inference_mode()
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
    leave the batch, so that a long completion does not pay for many short ones: when they are a
    twentieth of it, or a quarter where prompts are shared, or half where steps are recorded
    (trainer.graphs), which they must be anew then.
    """
    counts = [n] * len(prompts) if isinstance(n, int) else list(n)
    prompt_of = [prompt for prompt, count in enumerate(counts) for _ in range(count)]
    packed = pack([(prompt, ()) for prompt in prompts])
    rows, max_tokens = uniform.shape
    lengths = [len(prompt) for prompt in prompts]
    record = recorder(policy) if max_tokens > SHORT else None
    decoding = Decoding(packed.prompts, lengths, device())
    if record is not None:
        decoding = SteadyDecoding(packed.prompts, lengths, device(), tokens=max_tokens)
    ends = [place + length - 1 for place, length in zip(packed.prompts, lengths, strict=True)]
    hidden = hidden_states(policy, packed, ends, decoding)[prompt_of]
    decoding.begin(prompt_of)
    dense = DENSE_SHARED if decoding.shared else DENSE
    if record is not None:
        dense = DENSE_RECORDED
    trunk = getattr(policy, policy.base_model_prefix)
    logits_of = float32_head(policy)

    uniform = uniform.to(device())
    tokens = torch.full((rows, max_tokens), pad, device=device())
    logprobs = torch.zeros(rows, max_tokens, device=device())
    live = torch.arange(rows, device=device())  # the rows still in the batch
    going = torch.ones(rows, dtype=torch.bool, device=device())  # of them, those without an end
    first = torch.tensor([lengths[i] for i in prompt_of], device=device())
    latest = torch.full((rows,), pad, device=device())  # the token that each of them was given
    at = torch.zeros(1, dtype=torch.long, device=device())  # its place in the completion

    def draw(hidden: Tensor) -> None:
        """The tokens at this place, after hidden states (R, D)."""
        logits = logits_of(hidden)
        logits[:, pad] = -torch.inf
        if temperature not in (0, 1):
            logits = logits / temperature
        chances = logits.softmax(-1)
        chosen = logits.argmax(-1) if temperature == 0 else drawn(chances, uniform[live, at])
        logprobs[live, at] = -losses_of(logits, chances, chosen[:, None])[:, 0]
        latest.copy_(torch.where(going, chosen, pad))
        tokens[live, at] = latest
        going.logical_and_(latest != eos)

    def step() -> None:
        """The latest tokens pass and the next are drawn: the same work in the same memory."""
        decoding.advance()
        passed = trunk(
            input_ids=latest[:, None],
            position_ids=(first + at)[:, None],
            past_key_values=decoding,
            use_cache=True,
            blocks=decoding,
        )
        at.add_(1)
        draw(passed.last_hidden_state[:, 0])

    draw(hidden)
    replay: Callable[[], object] | None = None
    with ready(policy, policy.get_output_embeddings()) if max_tokens > SHORT else nullcontext():
        for t in range(1, max_tokens):
            left = int(going.sum())
            if left == 0:
                break
            # Some that have finished stay, for a number seen before.
            staying = rounded(left, live.device)
            if staying <= dense * len(live):
                keep = decoding.select(going, staying)
                live, first, latest, going = live[keep], first[keep], latest[keep], going[keep]
                replay = None
            if replay is not None:
                replay()
            elif record is not None and t + SHORT < max_tokens:
                replay = record(step)
            else:
                step()
    made = (tokens != pad).sum(1).tolist()
    return [
        Sampled(ids[:length], own[:length], ids[length - 1] == eos)
        for ids, own, length in zip(tokens.tolist(), logprobs.tolist(), made, strict=True)
    ]


def drawn(chances: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (B,) of the distributions chances (B, V), one for each number (B,) from [0, 1)."""
    cumulative = chances.cumsum(-1)
    total = cumulative[:, -1:]  # 1 but for rounding
    # A number just below 1 may be rounded up to the total, above which there is no token.
    aim = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, aim, right=True)[:, 0]


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
