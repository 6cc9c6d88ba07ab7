"""Forward passes over packed rows: language modelling losses, logprobs and scores.

All of them go through a model's trunk and then through its head where it is needed only: logits
are computed for the tokens that are predicted, a reward model's score for those that are asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainer.attention import Wanted, wanted_of
from trainer.data import Encoder, parts_of
from trainer.decoding import Decoding
from trainer.ensemble import mean_and_spread
from trainer.packing import Packed, Tree, pack
from trainer.processes import Processes
from trainer.products import linear, matmul, rounded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HELD_LOGITS = 1 << 26  # more are computed in chunks, forward and backward, and never held at once
CHUNK = 512  # tokens: enough for the products, and few where chunks are to spare memory


def hidden_states(
    model: PreTrainedModel,
    packed: Packed,
    places: Sequence[int] | None = None,
    decoding: Decoding | None = None,
) -> Tensor:
    """The trunk's last hidden states (n, D), float32, at n places of a packed row, or at all.

    Decoding, if given, keeps the row's keys and values.
    """
    trunk = getattr(model, model.base_model_prefix)
    packed = packed.padded(rounded(packed.tokens.shape[1], model.device)).to(model.device)
    blocks = wanted_of(packed.blocks, places, model.device)
    output = trunk(
        input_ids=packed.tokens,
        position_ids=packed.position_ids,
        blocks=blocks,
        past_key_values=decoding,
        use_cache=decoding is not None,
    )
    hidden: Tensor = output.last_hidden_state[0]
    if places is not None:
        # GPT-2's last layer gives no others, the last layer of other models zeros for others.
        if isinstance(blocks, Wanted) and len(hidden) == len(blocks.places):
            places = [bisect_left(blocks.places, place) for place in places]
        hidden = hidden.index_select(0, torch.tensor(places, device=hidden.device))
    return hidden.float()


def _head_of(policy: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """Weight (V, D) and bias (V,) of the policy's head in float32: copies only where they were
    gathered from shards in half precision.
    """
    head = policy.get_output_embeddings()
    return head.weight.float(), None if head.bias is None else head.bias.float()


def float32_head(policy: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Logits (..., V) of hidden states (..., D), float32 in half precision too, by the weights as
    they are now; without gradients.
    """
    head = policy.get_output_embeddings()
    multiply: Callable[[Tensor], Tensor] = head
    if head.weight.dtype != torch.float32:
        weight, bias = _head_of(policy)
        multiply = partial(F.linear, weight=weight, bias=bias)

    def logits(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return multiply(hidden.float())

    return logits


def token_losses(
    policy: PreTrainedModel,
    hidden: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    without: int | None = None,
) -> Tensor:
    """Negative log-likelihoods (n,), nats, of targets (n,) after hidden states (n, D).

    The logits are divided by the temperature; the token `without` is left out of the distribution.
    They are float32 in half precision too: of logits far from 0, as GPT-2's are, it would keep
    steps of a quarter, and a logprob would be another each time that it is computed.
    """
    weight, bias = _head_of(policy)
    if bias is not None and temperature != 1:
        bias = bias / temperature
    if without is not None:
        barred = torch.zeros(len(weight), device=hidden.device, dtype=hidden.dtype)
        barred[without] = torch.finfo(hidden.dtype).min
        bias = barred if bias is None else bias + barred
    if temperature != 1:
        hidden = hidden / temperature

    def losses(states: Tensor, aims: Tensor) -> Tensor:
        count = len(aims)
        padding = rounded(count, hidden.device) - count
        with torch.autocast(states.device.type, enabled=False):
            logits = linear(F.pad(states, (0, 0, 0, padding)), weight, bias)
        made: Tensor = _Losses.apply(logits, F.pad(aims, (0, padding)))  # type: ignore[no-untyped-call]
        return made[:count]

    rows = max(1, HELD_LOGITS // len(weight))
    if len(targets) <= rows:
        return losses(hidden, targets)
    return torch.cat(
        [
            checkpoint(losses, *part, use_reentrant=False)
            for part in zip(hidden.split(rows), targets.split(rows), strict=True)
        ]
    )


def losses_of(logits: Tensor, chances: Tensor, aims: Tensor) -> Tensor:
    """Negative log-likelihoods (n, 1), nats, of aims (n, 1) under logits (n, V), whose softmax is
    chances (n, V): finite also where an aim's own chance is too small for a number.
    """
    largest, wanted = logits.amax(-1, keepdim=True), logits.gather(1, aims)
    # The largest logit's chance is e^0 over the sum of all e^(logit - largest).
    return (largest - wanted) - chances.amax(-1, keepdim=True).log()


class _Losses(torch.autograd.Function):
    """Negative log-likelihoods (n,) of aims (n,) under logits (n, V), of which nothing is kept but
    the distributions; the gradient takes their place. So one backward pass is all there can be.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, aims: Tensor) -> Tensor:
        aims = aims[:, None]
        chances = logits.softmax(-1)
        ctx.save_for_backward(chances, aims)
        return losses_of(logits, chances, aims)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        chances, aims = ctx.saved_tensors
        gradient = gradient[:, None]
        return chances.mul_(gradient).scatter_add_(1, aims, -gradient), None


class _SummedLoss(torch.autograd.Function):
    """The sum of `token_losses`, in float32, whose gradients are computed with it, chunk by chunk.

    So logits are computed once and only a chunk's are held, which on a CPU stays in its cache.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int
    ) -> Tensor:
        total = hidden.new_zeros(())
        of_hidden = []
        of_weight = weight.new_zeros(weight.shape[::-1])
        of_bias = None if bias is None else torch.zeros_like(bias)
        for states, aims in zip(hidden.split(rows), targets.split(rows), strict=True):
            count = len(aims)
            padding = rows - count
            states, aims = F.pad(states, (0, 0, 0, padding)), F.pad(aims, (0, padding))[:, None]
            logits = linear(states, weight, bias)
            chances = logits.softmax(-1)
            total += losses_of(logits, chances, aims)[:count].sum()
            gradient = chances.scatter_add_(1, aims, chances.new_full(aims.shape, -1))
            gradient[count:] = 0
            of_hidden.append(matmul(gradient, weight)[:count])
            of_weight += matmul(states.t(), gradient)
            if of_bias is not None:
                of_bias += gradient.sum(0)
        ctx.save_for_backward(torch.cat(of_hidden).to(hidden.dtype), of_weight.t(), of_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        own = (None if of is None else of * gradient for of in ctx.saved_tensors)
        return (*own, None, None)


def summed_loss(policy: PreTrainedModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """The sum of `token_losses`, nats, of which no more than a chunk's logits are ever held."""
    head = policy.get_output_embeddings()
    most = max(1, HELD_LOGITS // head.out_features)
    if hidden.device.type == "cpu":
        most = min(CHUNK, most)
    chunks = max(1, -(-len(targets) // most))
    rows = rounded(-(-len(targets) // chunks), hidden.device)
    if torch.is_grad_enabled():
        with torch.autocast(hidden.device.type, enabled=False):
            total: Tensor = _SummedLoss.apply(hidden, *_head_of(policy), targets, rows)  # type: ignore[no-untyped-call]
        return total
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.stack([token_losses(policy, *part).sum() for part in parts]).sum()


def language_loss(
    policy: PreTrainedModel, documents: Sequence[Sequence[int]], first: Sequence[int] | None = None
) -> Tensor:
    """Summed negative log-likelihood, nats, of each document's tokens from first[i] on.

    `first` is at least 1 (what nothing stands before cannot be predicted), which is its default.
    A document sees only itself, and its positions begin at 0: as a prompt stands when it is
    answered. Small models learn to take words up from the text before many times sooner so.
    """
    packed = pack([(document, ()) for document in documents])
    before: list[int] = []
    targets: list[int] = []
    for i, (document, place) in enumerate(zip(documents, packed.prompts, strict=True)):
        start = 1 if first is None else first[i]
        before += range(place + start - 1, place + len(document) - 1)
        targets += document[start:]
    hidden = hidden_states(policy, packed, before)
    aims = torch.tensor(targets, device=hidden.device)
    return summed_loss(policy, hidden, aims)


def mean_language_loss(
    processes: Processes,
    policy: nn.Module,
    documents: Sequence[Sequence[int]],
    pass_tokens: int,
    *,
    first: Sequence[int] | None = None,
    weight: float = 0.0,
) -> float:
    """Mean negative log-likelihood, nats a token, in passes of at most `pass_tokens` tokens.

    policy is as `Processes.prepare` returned it, documents those of all processes. With a weight
    the gradient times the weight is added to the policy's.
    """
    starts = [1] * len(documents) if first is None else first
    tokens = sum(len(d) - start for d, start in zip(documents, starts, strict=True))
    total = 0.0
    with torch.set_grad_enabled(weight != 0):
        for part, counts, last in processes.parts([len(d) for d in documents], pass_tokens):
            with processes.synced(last or not weight, policy):
                loss = policy(
                    language_loss, [documents[i] for i in part], [starts[i] for i in part]
                )
                loss = counts * loss
                if weight:
                    processes.backward(weight / tokens * loss)
            total += loss.item()
    return processes.sum(total) / tokens


def scores_at(model: PreTrainedModel, packed: Packed, places: Sequence[int]) -> Tensor:
    """A reward model's scores (n,) at n places of a packed row; (n, M) where it has M heads."""
    head: nn.Linear = model.score  # type: ignore[assignment]
    hidden = hidden_states(model, packed, places)
    bias = None if head.bias is None else head.bias.float()
    with torch.autocast(hidden.device.type, enabled=False):  # rounded, scores would be ties
        scores = F.linear(hidden, head.weight.float(), bias)
    return scores.squeeze(-1) + float(model.config.reward_bias)


def tree_scores(model: PreTrainedModel, trees: Sequence[Tree]) -> Tensor:
    """The score (n,) of every completion, tree after tree: that of its last token, end-of-text.

    (n, M) where the model has M heads.
    """
    packed = pack(trees)
    lengths = [len(completion) for _, completions in trees for completion in completions]
    ends = [p + n - 1 for p, n in zip(packed.completions, lengths, strict=True)]
    return scores_at(model, packed, ends)


@torch.no_grad()
def score_completions(
    model: PreTrainedModel,
    encoder: Encoder,
    prompts: list[str],
    completions: list[str],
    pass_tokens: int,
) -> tuple[list[float], list[float] | None]:
    """(scores, spreads) of the completions, each under its prompt, spreads None but of an ensemble.

    Neighbours with one prompt share its pass. A pass has at most `pass_tokens` tokens, or those of
    one prompt.
    """
    trees: list[tuple[list[int], list[list[int]]]] = []
    for prompt, completion in zip(
        encoder.prompts(prompts), encoder.completions(completions), strict=True
    ):
        if not trees or trees[-1][0] != prompt:
            trees.append((prompt, []))
        trees[-1][1].append(completion)
    lengths = [len(prompt) + sum(map(len, own)) for prompt, own in trees]
    by_tree: dict[int, Tensor] = {}
    for part in parts_of(lengths, pass_tokens):
        made = tree_scores(model, [trees[i] for i in part])
        by_tree |= zip(part, made.split([len(trees[i][1]) for i in part]), strict=True)
    scores, spreads = mean_and_spread(torch.cat([by_tree[i] for i in range(len(trees))]))
    return scores.tolist(), None if spreads is None else spreads.tolist()
