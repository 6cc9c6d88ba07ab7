"""Forward passes over packed rows: language modelling losses, logprobs and scores.

All of them go through a model's trunk and then through its head where it is needed only: logits
are computed for the tokens that are predicted, a reward model's score for those that are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainer.attention import wanted_of
from trainer.data import Encoder
from trainer.decoding import Decoding
from trainer.ensemble import mean_and_spread
from trainer.packing import Packed, Tree, pack
from trainer.processes import Processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCORED_PROMPTS = 32  # in one pass of score_completions
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
    packed = packed.to(model.device)
    output = trunk(
        input_ids=packed.tokens,
        position_ids=packed.position_ids,
        blocks=wanted_of(packed.blocks, places),
        past_key_values=decoding,
        use_cache=decoding is not None,
    )
    hidden: Tensor = output.last_hidden_state[0]
    if places is not None:
        hidden = hidden[torch.tensor(places, device=hidden.device)]
    return hidden.float()


def token_losses(
    policy: PreTrainedModel,
    hidden: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    without: int | None = None,
    reduction: Literal["none", "sum"] = "none",
) -> Tensor:
    """Negative log-likelihood (n,), nats, of targets (n,) after hidden states (n, D), or its sum.

    The logits are divided by the temperature; the token `without` is left out of the distribution.
    """
    head = policy.get_output_embeddings()
    bias = None if head.bias is None else head.bias / temperature
    if without is not None:
        barred = torch.zeros(head.out_features, device=hidden.device, dtype=hidden.dtype)
        barred[without] = torch.finfo(hidden.dtype).min
        bias = barred if bias is None else bias + barred
    if temperature != 1:
        hidden = hidden / temperature
    loss = partial(F.linear_cross_entropy, linear_bias=bias, reduction=reduction)
    logits = len(targets) * head.out_features
    if torch.is_autocast_enabled(hidden.device.type):  # which torch's chunks know nothing of
        if logits <= HELD_LOGITS:
            return loss(hidden, head.weight, targets)
        rows = max(1, HELD_LOGITS // head.out_features)
        parts = [
            checkpoint(loss, states, head.weight, aims, use_reentrant=False)
            for states, aims in zip(hidden.split(rows), targets.split(rows), strict=True)
        ]
        return torch.cat(parts) if reduction == "none" else torch.stack(parts).sum()
    # Of a summed loss chunks cost nothing, and on a CPU they save memory's time.
    cached = reduction == "sum" and hidden.device.type == "cpu"
    options = None
    if logits > HELD_LOGITS or (cached and len(targets) > CHUNK):
        rows = max(1, min(CHUNK, HELD_LOGITS // head.out_features))
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
    return loss(hidden, head.weight, targets, options=options)


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
    return token_losses(policy, hidden, aims, reduction="sum")


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
    scores: Tensor = head(hidden_states(model, packed, places)).squeeze(-1).float()
    return scores + float(model.config.reward_bias)


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
    model: PreTrainedModel, encoder: Encoder, prompts: list[str], completions: list[str]
) -> tuple[list[float], list[float] | None]:
    """(scores, spreads) of the completions, each under its prompt, spreads None but of an ensemble.

    Neighbours with one prompt share its pass.
    """
    trees: list[tuple[list[int], list[list[int]]]] = []
    for prompt, completion in zip(
        encoder.prompts(prompts), encoder.completions(completions), strict=True
    ):
        if not trees or trees[-1][0] != prompt:
            trees.append((prompt, []))
        trees[-1][1].append(completion)
    parts = [
        tree_scores(model, trees[first : first + SCORED_PROMPTS])
        for first in range(0, len(trees), SCORED_PROMPTS)
    ]
    scores, spreads = mean_and_spread(torch.cat(parts))
    return scores.tolist(), None if spreads is None else spreads.tolist()
