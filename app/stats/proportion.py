"""A share with its interval, where judgements come in clusters (several labelers, one prompt)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A share in [0, 1] with its interval, and the judgements and clusters behind it."""

    rate: float
    low: float
    high: float
    n: int
    clusters: int


def t_quantile(p: float, df: int) -> float:
    """Student's t quantile by Hill's expansion (Abramowitz & Stegun 26.7.5), within 1 % for df ≥ 3.

    Exact for df 1 and 2, where the expansion is poor.
    """
    if df == 1:
        return math.tan(math.pi * (p - 0.5))
    if df == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z = NormalDist().inv_cdf(p)
    return (
        z
        + (z**3 + z) / (4 * df)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
    )


def clustered_proportion(
    values: Iterable[tuple[Hashable, float]], *, confidence: float = 0.95
) -> Proportion | None:
    """The mean of values in [0, 1] with a Wilson interval at the effective sample size.

    `values` are (cluster, value): the prompt, and 1, ½ or 0. The effective size is what independent
    judgements would give the same variance as the cluster-robust one, at most n; the critical value
    is Student's with clusters − 1 degrees of freedom. None without values. With one cluster nothing
    is known of the spread: the interval is [0, 1].
    """
    sums: dict[Hashable, tuple[int, float]] = {}
    for cluster, value in values:
        count, total = sums.get(cluster, (0, 0.0))
        sums[cluster] = (count + 1, total + value)
    n = sum(count for count, _ in sums.values())
    if n == 0:
        return None
    groups = len(sums)
    rate = sum(total for _, total in sums.values()) / n
    if groups == 1:
        return Proportion(rate=rate, low=0.0, high=1.0, n=n, clusters=1)
    residuals = sum((total - count * rate) ** 2 for count, total in sums.values())
    variance = groups / (groups - 1) * residuals / n**2
    # All alike: no variance to be seen, but clusters, not judgements, are what was independent.
    effective = min(n, rate * (1 - rate) / variance) if variance > 0 else groups
    t = t_quantile(0.5 + confidence / 2, groups - 1)
    centre = (rate + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = (
        t
        / (1 + t**2 / effective)
        * math.sqrt(rate * (1 - rate) / effective + t**2 / (4 * effective**2))
    )
    return Proportion(
        rate=rate,
        low=max(0.0, centre - half),
        high=min(1.0, centre + half),
        n=n,
        clusters=groups,
    )
