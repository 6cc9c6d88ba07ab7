"""Statistics against numbers that can be checked by hand, and against scipy."""

from __future__ import annotations

import random

import pytest
from scipy import stats

from app.stats.agreement import agreement
from app.stats.proportion import clustered_proportion, t_quantile
from app.stats.winrate import verdict, win_rate


@pytest.mark.parametrize("df", [1, 2, 3, 5, 10, 30, 149])
def test_t_quantile_is_students(df: int) -> None:
    assert t_quantile(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), rel=0.01)


def test_independent_judgements_give_the_wilson_interval() -> None:
    # 60 of 100, one a prompt: Wilson at z = 1.96 is 0.502 to 0.691; Student's 1.984 widens it.
    result = clustered_proportion((i, float(i < 60)) for i in range(100))
    assert result is not None
    assert result.rate == 0.6
    assert result.low == pytest.approx(0.5009, abs=0.002)
    assert result.high == pytest.approx(0.6917, abs=0.002)


def test_judgements_of_one_prompt_that_always_agree_count_once() -> None:
    once = clustered_proportion((i, float(i < 60)) for i in range(100))
    twice = clustered_proportion((i % 100, float(i % 100 < 60)) for i in range(200))
    assert once is not None
    assert twice is not None
    assert twice.n == 200
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=0.001)


def test_a_clean_sweep_has_an_interval_below_one() -> None:
    result = clustered_proportion((i, 1.0) for i in range(10))
    assert result is not None
    assert result.high == 1.0
    assert 0.6 < result.low < 0.8


def test_nothing_and_one_cluster() -> None:
    assert clustered_proportion([]) is None
    result = clustered_proportion([("p", 1.0), ("p", 1.0)])
    assert result is not None
    assert (result.low, result.high) == (0.0, 1.0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(0)
    covered = 0
    for _ in range(600):
        values = []
        for prompt in range(60):
            p = rng.betavariate(6, 4)  # mean 0.6, differing by prompt
            values += [(prompt, float(rng.random() < p)) for _ in range(2)]
        result = clustered_proportion(values)
        assert result is not None
        covered += result.low <= 0.6 <= result.high
    assert 0.93 <= covered / 600 <= 0.98


def test_a_tie_counts_half() -> None:
    assert [verdict(1, 2), verdict(2, 2), verdict(3, 1)] == [1.0, 0.5, 0.0]
    rankings = [(1, {"ppo": 1, "sft": 2}), (2, {"ppo": 1, "sft": 1}), (3, {"ppo": 1, "base": 2})]
    result = win_rate(rankings, "ppo", "sft")
    assert result is not None
    assert (result.rate, result.n) == (0.75, 2)


def test_agreement_counts_strict_comparisons_of_both() -> None:
    # a>b>c against a>c>b: ab and ac agree, bc differs. A third labeler ties all: no preference.
    rankings = [
        ("t", {"a": 1, "b": 2, "c": 3}),
        ("t", {"a": 1, "b": 3, "c": 2}),
        ("t", {"a": 1, "b": 1, "c": 1}),
        ("alone", {"a": 1, "b": 2}),
    ]
    result = agreement(rankings)
    assert result is not None
    assert result.rate == pytest.approx(2 / 3)
    assert result.n == 3
