"""Losses of SFT, of the reward model and of pretraining: pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability in nats of each target (B, T) under logits (B, T, V)."""
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def ranking_loss(scores: Tensor, chosen: Tensor, rejected: Tensor, weights: Tensor) -> Tensor:
    """Eq. 1: -log sigmoid(r(x, y_w) - r(x, y_l)), averaged over a prompt's pairs, then prompts.

    scores (N,) of all completions of the batch; chosen, rejected (P,) index them, one pair each;
    weights (P,) are 1 / (the pairs of the pair's prompt). Prompts without a pair are not in the
    batch: their sum of weights would be 0.
    """
    losses = F.softplus(scores[rejected] - scores[chosen])
    return (losses * weights).sum() / weights.sum()


def pairs_of(groups: list[list[int]]) -> list[tuple[int, int]]:
    """All (chosen, rejected) index pairs of ordered tie groups, best first; ties give none."""
    return [
        (chosen, rejected)
        for rank, group in enumerate(groups)
        for lower in groups[rank + 1 :]
        for chosen in group
        for rejected in lower
    ]


def clustered_accuracy(wins: list[list[float]]) -> tuple[float, float, float]:
    """Share of pairs won with its 95 % interval: (share, low, high).

    `wins` holds one list a prompt, one number a pair: 1 won, 0 lost, 0.5 even. Pairs of one prompt
    are not independent, so the variance is the one of a ratio of sums over prompts (linearised,
    with the G / (G - 1) correction); a single prompt gives the interval [0, 1].
    """
    sums = torch.tensor([sum(w) for w in wins], dtype=torch.float64)
    counts = torch.tensor([len(w) for w in wins], dtype=torch.float64)
    share = float(sums.sum() / counts.sum())
    prompts = len(wins)
    if prompts < 2:
        return share, 0.0, 1.0
    squares = float(((sums - share * counts) ** 2).sum())
    error = (prompts / (prompts - 1) * squares) ** 0.5 / float(counts.sum())
    return share, max(0.0, share - 1.96 * error), min(1.0, share + 1.96 * error)
