"""Suggesting a prompt's use case: naive Bayes over its words, learned from what people tagged.

Multinomial with add-one smoothing over words and the opening pairs of words, in FEATURES hashed
places; the prior is the shares among what was tagged. A suggestion is only shown, and never counts
as a tag.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:  # a process that only suggests needs no database
    from sqlalchemy.orm import Session

    from app.models import Study, UseCase

FEATURES = 1 << 14
WORDS = 80  # of a prompt's beginning: what is asked stands there more than in what is pasted
LEARNED = 5_000  # newest tagged prompts that are learned from
ENOUGH = 30  # tagged prompts below which nothing is suggested

_WORD = re.compile(r"\w+|\?")


@dataclass(frozen=True)
class Suggestion:
    use_case: UseCase
    confidence: float  # the probability that the model gives it


class Classifier:
    """Trained once on pairs of text and use case; there must be at least one."""

    def __init__(self, tagged: Iterable[tuple[str, UseCase]]) -> None:
        counts: dict[UseCase, Counter[int]] = {}
        prompts: Counter[UseCase] = Counter()
        for text, use_case in tagged:
            prompts[use_case] += 1
            counts.setdefault(use_case, Counter()).update(set(_features(text)))
        total = sum(prompts.values())
        self._cases = sorted(prompts)
        self._priors = [math.log(prompts[case] / total) for case in self._cases]
        self._weights = []
        for case in self._cases:
            mass = math.log(sum(counts[case].values()) + FEATURES)
            weights = array("f", [-mass]) * FEATURES
            for place, count in counts[case].items():
                weights[place] = math.log(count + 1) - mass
            self._weights.append(weights)

    def suggest(self, text: str) -> Suggestion:
        """The likeliest use case. Confidence tends to be too high: words are not independent."""
        places = set(_features(text))
        scores = [
            prior + sum([weights[place] for place in places])
            for prior, weights in zip(self._priors, self._weights, strict=True)
        ]
        best = max(scores)
        mass = sum(math.exp(score - best) for score in scores)
        return Suggestion(self._cases[scores.index(best)], 1 / mass)


def _features(text: str) -> Iterator[int]:
    words = _WORD.findall(text[:2_000].casefold())[:WORDS]
    words += [f"{first} {second}" for first, second in pairwise(words[:4])]
    for word in words:
        yield crc32(word.encode("utf-8", "surrogatepass")) % FEATURES


def train_on_study(session: Session, study: Study) -> Classifier | None:
    """A classifier of the study's tagged prompts; None while they are too few or all of one."""
    from sqlalchemy import select

    from app.models import Prompt

    rows = session.execute(
        select(Prompt.text, Prompt.use_case)
        .where(Prompt.study_id == study.id, Prompt.use_case.is_not(None))
        .order_by(Prompt.id.desc())
        .limit(LEARNED)
    )
    tagged = [(text, use_case) for text, use_case in rows if use_case is not None]
    if len(tagged) < ENOUGH or len({use_case for _, use_case in tagged}) < 2:
        return None
    return Classifier(tagged)
