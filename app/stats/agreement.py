"""How often labelers agree, as in the paper's section 3.3."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

from app.stats.proportion import Proportion, clustered_proportion


def agreement(
    rankings: Iterable[tuple[Hashable, Mapping[Any, int]]],
) -> Proportion | None:
    """The share of comparisons on which two labelers of one label task agree.

    `rankings` are (label task, {completion: tier}), one for each labeler. A comparison counts where
    both labelers prefer one of the two completions; where either tied them there is no preference
    to agree with. Clustered by label task. None where no task has two rankings.
    """
    by_task: dict[Hashable, list[Mapping[Any, int]]] = {}
    for task, tiers in rankings:
        by_task.setdefault(task, []).append(tiers)
    return clustered_proportion(_verdicts(by_task))


def _verdicts(
    by_task: Mapping[Hashable, list[Mapping[Any, int]]],
) -> Iterator[tuple[Hashable, float]]:
    for task, labelers in by_task.items():
        for one, other in combinations(labelers, 2):
            shared = sorted(one.keys() & other.keys(), key=repr)
            for a, b in combinations(shared, 2):
                first, second = one[a] - one[b], other[a] - other[b]
                if first and second:
                    yield task, float((first > 0) == (second > 0))
