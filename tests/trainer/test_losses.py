"""Losses and figures on numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
from torch import tensor

from trainer.losses import pairs_of, ranking_loss
from trainer.run import cosine


def test_pairs_drop_ties() -> None:
    assert pairs_of([[2], [0, 3], [1]]) == [(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)]
    assert pairs_of([[0, 1, 2]]) == []


def test_ranking_loss_is_a_mean_over_pairs_then_over_prompts() -> None:
    # Prompt A: scores 1, 0 (one pair). Prompt B: 0, 0, 0 (three pairs of even odds).
    scores = tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    loss = ranking_loss(
        scores,
        chosen=tensor([0, 2, 2, 3]),
        rejected=tensor([1, 3, 4, 4]),
        weights=tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]),
    )
    expected = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert loss.item() == pytest.approx(expected)


def test_cosine_ends_at_a_tenth() -> None:
    assert cosine(0, 11) == pytest.approx(1)
    assert cosine(5, 11) == pytest.approx(0.55)
    assert cosine(10, 11) == pytest.approx(0.1)
    assert [cosine(s, 12, warmup=2) for s in (0, 1, 2)] == pytest.approx([0.5, 1, 1])
