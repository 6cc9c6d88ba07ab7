"""Held-out figures on scores that can be checked by hand."""

from __future__ import annotations

import math

import pytest

from trainer.contract import RM_LONGER_WINS, RM_PAIRS, RM_SPREAD, RankingRecord
from trainer.reward_figures import (
    Comparison,
    calibration,
    clustered_share,
    comparisons_of,
    held_out_figures,
)


def ranking(groups: list[list[int]], *, prompt: int = 1, labeler: str = "a") -> RankingRecord:
    count = sum(map(len, groups))
    return RankingRecord(
        ranking_id=prompt,
        prompt_id=prompt,
        prompt="?",
        completions=["x" * (i + 1) for i in range(count)],
        groups=groups,
        split="valid",
        labeler=labeler,
    )


def comparison(difference: float, *, prompt: int = 1) -> Comparison:
    return Comparison(
        prompt_id=prompt, labeler="a", margin=1, difference=difference, longer=1.0, agreed=True
    )


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_a_wilson_interval_at_the_size_that_clusters_leave() -> None:
    wins = {1: [1, 1], 2: [1, 0], 3: [0, 0], 4: [1, 0.5, 0]}
    share = clustered_share("all", [(p, w) for p, values in wins.items() for w in values])
    # 4.5 of 9. Sums minus rate * counts: 1, 0, -1, 0, so the variance is 4/3 * 2 / 81, and as many
    # independent values are 0.25 / that. At 0.5 Wilson's interval is symmetric.
    size = 0.25 / (4 / 3 * 2 / 81)
    half = 1.96 / (1 + 1.96**2 / size) * math.sqrt(0.25 / size + (1.96 / (2 * size)) ** 2)
    assert (share.rate, share.comparisons, share.prompts) == (0.5, 9, 4)
    assert share.low == pytest.approx(0.5 - half)
    assert share.high == pytest.approx(0.5 + half)


def test_pairs_of_one_prompt_are_no_sample() -> None:
    share = clustered_share("all", [(1, 1.0)] * 100)
    assert (share.rate, share.low, share.high) == (1.0, 0.0, 1.0)


def test_many_pairs_of_a_prompt_do_not_narrow_the_interval() -> None:
    few = clustered_share("all", [(1, 1), (2, 0), (3, 1), (4, 1)])
    many = clustered_share("all", [(p, w) for p, w in enumerate((1, 0, 1, 1)) for _ in range(36)])
    assert (many.low, many.high) == pytest.approx((few.low, few.high))
    assert few.low < 0.75 < few.high


def test_all_won_on_few_prompts_is_no_certainty() -> None:
    share = clustered_share("all", [(p, 1.0) for p in range(4)])
    assert share.high == 1.0
    assert share.low == pytest.approx(4 / (4 + 1.96**2))  # Wilson's bound for 4 of 4


def test_margins_count_tie_groups() -> None:
    found = list(comparisons_of(ranking([[2], [0, 3], [1]]), [[0.0], [1.0], [2.0], [2.0]]))
    assert [(c.margin, c.difference) for c in found] == [
        (1, 2.0),  # 2 over 0
        (1, 0.0),  # 2 over 3
        (2, 1.0),  # 2 over 1
        (1, -1.0),  # 0 over 1
        (1, 1.0),  # 3 over 1
    ]
    assert [c.won for c in found] == [1, 0.5, 1, 0, 1]
    assert [c.longer for c in found] == [1, 0, 1, 0, 1]


def test_calibration_is_read_from_the_favourite() -> None:
    # Nine at 0.82, of which the favourite wins eight; one at 0.62 that it loses.
    rows = [comparison(logit(0.82) * (1 if i else -1), prompt=i) for i in range(9)]
    bins, error = calibration([*rows, comparison(-logit(0.62), prompt=9)])
    assert [(b.low, b.won.comparisons) for b in bins] == [(0.6, 1), (0.8, 9)]
    assert bins[1].predicted == pytest.approx(0.82)
    assert bins[1].won.rate == pytest.approx(8 / 9)
    assert error == pytest.approx(0.1 * 0.62 + 0.9 * (8 / 9 - 0.82))


def test_even_scores_are_half_won_and_huge_ones_certain() -> None:
    bins, error = calibration([comparison(0.0), comparison(1000.0)])
    assert [(b.low, b.predicted, b.won.rate) for b in bins] == [(0.5, 0.5, 0.5), (0.95, 1.0, 1.0)]
    assert error == 0


def test_figures_of_rankings_by_margin_and_labeler() -> None:
    records = [ranking([[0], [1], [2], [3]]), ranking([[1], [0]], prompt=2, labeler="b")]
    figures, metrics = held_out_figures(records, [[[3.0], [2.0], [1.0], [4.0]], [[1.0], [0.0]]])
    assert [(s.name, s.rate, s.comparisons) for s in figures.by_margin] == [
        ("1", 0.5, 4),  # 0 over 1 and 1 over 2; not 2 over 3, nor 1 over 0 of the other prompt
        ("2", 0.5, 2),
        ("3+", 0.0, 1),
    ]
    assert [(s.name, s.rate, s.prompts) for s in figures.by_labeler] == [("a", 0.5, 1), ("b", 0, 1)]
    assert figures.accuracy.rate == pytest.approx(3 / 7)
    assert metrics[RM_PAIRS] == 7
    assert metrics[RM_LONGER_WINS] == pytest.approx(1 / 7)
    assert RM_SPREAD not in metrics
    assert figures.by_agreement == []


def test_members_agree_or_not() -> None:
    # Member one: 2, 1, 0; member two: 2, 0, 1. They differ on the last two only.
    figures, metrics = held_out_figures(
        [ranking([[0], [1], [2]])], [[[2.0, 2.0], [1.0, 0.0], [0.0, 1.0]]]
    )
    assert [(s.name, s.rate, s.comparisons) for s in figures.by_agreement] == [
        ("all members agree", 1.0, 2),
        ("members disagree", 0.5, 1),
    ]
    deviation = math.sqrt(0.5)  # of 0 and 1, and of 2 and 2 none
    assert metrics[RM_SPREAD] == pytest.approx(2 / 3 * deviation)
    assert (figures.members, figures.spread) == (2, metrics[RM_SPREAD])
