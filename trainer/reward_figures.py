"""How good a reward model is on rankings that it was not trained on: pure functions of its scores.

A comparison is a pair of completions of one ranking that its labeler did not tie. The model wins it
by scoring the preferred one higher. Comparisons of one prompt are not independent, so that every
interval is clustered by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from trainer.contract import (
    RM_ACCURACY,
    RM_ACCURACY_HIGH,
    RM_ACCURACY_LOW,
    RM_CALIBRATION_ERROR,
    RM_LONGER_WINS,
    RM_PAIRS,
    RM_SPREAD,
    RankingRecord,
)

BINS = 10  # of the favourite's probability, from 0.5 to 1
WIDEST = 3  # margins from here on are one row
Z = 1.96  # 95 %


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of held-out comparisons that the reward model wins, with its 95 % interval.

    Won is where it scores the completion higher that the labeler preferred; even counts half.
    """

    name: str  # whose or which comparisons
    rate: float
    low: float
    high: float
    comparisons: int
    prompts: int  # the clusters of the interval


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Comparisons where the reward model gives its favourite a probability in [low, high)."""

    low: float
    high: float
    predicted: float  # their mean probability, sigmoid(score difference)
    won: Share  # how often labelers preferred that favourite


@dataclass(frozen=True, kw_only=True)
class RewardFigures:
    """What RunResult.figures holds of a reward model."""

    accuracy: Share
    by_margin: list[Share]  # places between the tie groups of the two: "1", "2", "3+"
    by_labeler: list[Share]
    by_agreement: list[Share]  # whether an ensemble's members agree; empty without one
    calibration: list[CalibrationBin]
    calibration_error: float  # expected: the mean of |predicted - won| over comparisons
    members: int
    spread: float | None  # mean over completions of the std of the members' scores


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One pair: what the labeler said, and what the reward model and its members say."""

    prompt_id: int
    labeler: str
    margin: int  # from tie group to tie group: 1 for neighbours
    difference: float  # score of the preferred completion minus that of the other, nats
    longer: float  # 1 where the preferred one is the longer text, 0.5 where they are even
    agreed: bool  # whether every member has the same favourite

    @property
    def won(self) -> float:
        return _win(self.difference)


def _win(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def comparisons_of(
    record: RankingRecord, scores: Sequence[Sequence[float]]
) -> Iterable[Comparison]:
    """The comparisons of a ranking; scores[i] are the members' scores of completion i."""
    for place, group in enumerate(record.groups):
        for lower, others in enumerate(record.groups[place + 1 :], place + 1):
            for i in group:
                for j in others:
                    differences = [a - b for a, b in zip(scores[i], scores[j], strict=True)]
                    lengths = len(record.completions[i]) - len(record.completions[j])
                    yield Comparison(
                        prompt_id=record.prompt_id,
                        labeler=record.labeler,
                        margin=lower - place,
                        difference=fmean(differences),
                        longer=_win(lengths),
                        agreed=len({_win(d) for d in differences}) == 1,
                    )


def clustered_share(name: str, values: Iterable[tuple[int, float]]) -> Share:
    """The mean of (cluster, value in [0, 1]) with a Wilson interval at the effective sample size.

    That is the number of independent values which would give the same variance as the cluster-
    robust one (linearised, with the G / (G - 1) correction), at most n; where all are alike it is
    the number of clusters. One cluster says nothing of the spread: its interval is [0, 1].
    """
    sums: dict[int, tuple[int, float]] = {}
    for cluster, value in values:
        count, total = sums.get(cluster, (0, 0.0))
        sums[cluster] = (count + 1, total + value)
    n, groups = sum(count for count, _ in sums.values()), len(sums)
    rate = sum(total for _, total in sums.values()) / n
    low, high = 0.0, 1.0
    if groups > 1:
        squares = sum((total - count * rate) ** 2 for count, total in sums.values())
        variance = groups / (groups - 1) * squares / n**2
        size = min(n, rate * (1 - rate) / variance) if variance > 0 else groups
        centre = (rate + Z**2 / (2 * size)) / (1 + Z**2 / size)
        half = Z * math.sqrt(rate * (1 - rate) / size + (Z / (2 * size)) ** 2) / (1 + Z**2 / size)
        low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Share(name=name, rate=rate, low=low, high=high, comparisons=n, prompts=groups)


def shares_by(
    comparisons: Sequence[Comparison], name_of: Callable[[Comparison], str]
) -> list[Share]:
    """The share won among the comparisons of each name, in the order of the names."""
    named: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        named.setdefault(name_of(comparison), []).append(comparison)
    return [
        clustered_share(name, ((c.prompt_id, c.won) for c in named[name])) for name in sorted(named)
    ]


def calibration(comparisons: Sequence[Comparison]) -> tuple[list[CalibrationBin], float]:
    """(bins, expected calibration error) of the probabilities sigmoid(score difference).

    Which completion of a pair comes first means nothing: a pair with probability p is one with
    1 - p the other way round. So each is taken from its favourite's side, where p is at least 0.5;
    that is the same as counting both sides, in bins that mirror each other.
    """
    binned: dict[int, list[tuple[float, Comparison]]] = {}
    for comparison in comparisons:
        p = 1 / (1 + math.exp(-abs(comparison.difference)))
        binned.setdefault(min(int((p - 0.5) * 2 * BINS), BINS - 1), []).append((p, comparison))
    bins: list[CalibrationBin] = []
    error = 0.0
    for place in sorted(binned):
        rows = binned[place]
        low, high = 0.5 + place / (2 * BINS), 0.5 + (place + 1) / (2 * BINS)
        won = clustered_share(f"{low:.2f}-{high:.2f}", ((c.prompt_id, c.won) for _, c in rows))
        predicted = fmean(p for p, _ in rows)
        bins.append(CalibrationBin(low=low, high=high, predicted=predicted, won=won))
        error += len(rows) / len(comparisons) * abs(predicted - won.rate)
    return bins, error


def held_out_figures(
    records: Sequence[RankingRecord], scores: Sequence[Sequence[Sequence[float]]]
) -> tuple[RewardFigures, dict[str, float]]:
    """(figures, those of one number as metrics) of at least one comparison.

    scores[r][i] are the members' scores of completion i of record r.
    """
    comparisons = [
        comparison
        for record, own in zip(records, scores, strict=True)
        for comparison in comparisons_of(record, own)
    ]
    members = len(scores[0][0])
    bins, error = calibration(comparisons)
    figures = RewardFigures(
        accuracy=clustered_share("all", ((c.prompt_id, c.won) for c in comparisons)),
        by_margin=shares_by(
            comparisons, lambda c: f"{WIDEST}+" if c.margin >= WIDEST else str(c.margin)
        ),
        by_labeler=shares_by(comparisons, lambda c: c.labeler),
        by_agreement=[],
        calibration=bins,
        calibration_error=error,
        members=members,
        spread=None,
    )
    metrics = {
        RM_ACCURACY: figures.accuracy.rate,
        RM_ACCURACY_LOW: figures.accuracy.low,
        RM_ACCURACY_HIGH: figures.accuracy.high,
        RM_PAIRS: float(len(comparisons)),
        RM_LONGER_WINS: fmean(c.longer for c in comparisons),
        RM_CALIBRATION_ERROR: error,
    }
    if members == 1:
        return figures, metrics
    spread = fmean(stdev(of) for own in scores for of in own)
    agreement = shares_by(
        comparisons, lambda c: "all members agree" if c.agreed else "members disagree"
    )
    return replace(figures, by_agreement=agreement, spread=spread), {**metrics, RM_SPREAD: spread}
