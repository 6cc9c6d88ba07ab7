"""Win rates from rankings, as in the paper's Figures 1 and 3: ties count half."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from app.stats.proportion import Proportion, clustered_proportion


def verdict(policy_tier: int, baseline_tier: int) -> float:
    """1 if the policy's completion stands above the baseline's (a smaller tier), ½ tied, else 0."""
    if policy_tier == baseline_tier:
        return 0.5
    return 1.0 if policy_tier < baseline_tier else 0.0


def win_rate(
    rankings: Iterable[tuple[Hashable, Mapping[Any, int]]],
    policy: Hashable,
    baseline: Hashable,
) -> Proportion | None:
    """How often `policy` was preferred to `baseline`, clustered by prompt.

    `rankings` are (prompt, {policy: tier}); those without both policies are left out;
    None if all are.
    """
    return clustered_proportion(
        (prompt, verdict(tiers[policy], tiers[baseline]))
        for prompt, tiers in rankings
        if policy in tiers and baseline in tiers
    )
