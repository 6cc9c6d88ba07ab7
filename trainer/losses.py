"""Losses of SFT, of the reward model and of pretraining: pure functions of tensors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def ranking_loss(scores: Tensor, chosen: Tensor, rejected: Tensor, weights: Tensor) -> Tensor:
    """Eq. 1: -log sigmoid(r(x, y_w) - r(x, y_l)), summed with weights.

    scores (N,) of all completions of the batch, or (N, M) of an ensemble's members; chosen,
    rejected (P,) index them, one pair each; weights are of the shape of the pairs' scores. With
    1 / (prompts * the pairs of the pair's prompt) it is the mean over a prompt's pairs, then over
    prompts.
    """
    losses = F.softplus(scores[rejected] - scores[chosen])
    return (losses * weights).sum()


def pairs_of(groups: list[list[int]]) -> list[tuple[int, int]]:
    """All (chosen, rejected) index pairs of ordered tie groups, best first; ties give none."""
    return [
        (chosen, rejected)
        for rank, group in enumerate(groups)
        for lower in groups[rank + 1 :]
        for chosen in group
        for rejected in lower
    ]
