"""Simulated labelers: they write demonstrations, rank completions and rate them, with noise.

A labeler weighs the parts of the hidden utility in a way of their own and errs a little on every
completion, always in the same way on the same one. Two labelers of the default noise agree on
about 73 % of the comparisons both made, as the paper's labelers do (section 3.4).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.simulation.corpus import starter_texts
from app.simulation.demonstrate import ramble, write_demonstration
from app.simulation.family import DemoPrompt, draw_prompt, generate_prompts
from app.simulation.kinds import KINDS
from app.simulation.utility import WEIGHTS, Parts, judge_metadata, parts, weigh

DEFAULT_SKILL: Final = 0.45
DEFAULT_NOISE: Final = 0.8  # deviations of the utility
DEFAULT_TIE_WIDTH: Final = 0.35
_TASTE: Final = 0.25  # deviation of the logarithm of a labeler's weights
_MISREAD: Final = 0.03  # of the metadata fields
# Least noisy utility for a rating of 2, 3 … 7.
_RATING_STEPS: Final = (-2.2, -1.4, -0.7, 0.0, 0.6, 1.2)


@dataclass(frozen=True, kw_only=True)
class Rating:
    """A labeler's rating of one completion: Likert 1–7 and metadata (None: does not apply)."""

    overall: int
    metadata: Mapping[str, bool | None]


class SimulatedLabeler:
    """A labeler with a seed: the same seed judges the same completion in the same way.

    `skill` (0 to 1) is that of the demonstrations; `noise` and `tie_width` are in deviations of the
    utility over the completions that labelers see.
    """

    def __init__(
        self,
        seed: int,
        *,
        skill: float = DEFAULT_SKILL,
        noise: float = DEFAULT_NOISE,
        tie_width: float = DEFAULT_TIE_WIDTH,
    ) -> None:
        self.seed = seed
        self.skill = skill
        self.noise = noise
        self.tie_width = tie_width
        taste = random.Random(f"labeler {seed}")
        drawn = [weight * taste.lognormvariate(0.0, _TASTE) for weight in vars(WEIGHTS).values()]
        same_sum = sum(vars(WEIGHTS).values()) / sum(drawn)
        self.weights = Parts(
            **{name: weight * same_sum for name, weight in zip(vars(WEIGHTS), drawn, strict=True)}
        )

    def _random(self, purpose: str, *texts: str) -> random.Random:
        return random.Random(repr((purpose, self.seed, *texts)))

    def perceived(self, prompt: str, completion: str) -> float:
        """The utility as this labeler sees it."""
        error = self._random("judge", prompt, completion).gauss(0.0, self.noise)
        return weigh(parts(prompt, completion), self.weights) + error

    def demonstrate(self, prompt: str) -> str:
        """A demonstration for a prompt."""
        return write_demonstration(prompt, self._random("demonstrate", prompt), self.skill)

    def write_prompt(self, occasion: str, attempt: int) -> DemoPrompt:
        """A prompt of the labeler's own for an occasion, a further one for a further attempt."""
        seed = self._random("prompt", occasion, str(attempt)).randrange(2**32)
        return generate_prompts(seed, 1)[0]

    def write_examples(self, occasion: str, attempt: int) -> tuple[list[tuple[str, str]], str]:
        """Three queries of one kind with responses, and a fourth one without."""
        rng = self._random("examples", occasion, str(attempt))
        kind = rng.choice(KINDS)
        queries = [draw_prompt(rng, kind) for _ in range(4)]
        return [(query, self.demonstrate(query)) for query in queries[:3]], queries[3]

    def rank(self, prompt: str, completions: Sequence[str]) -> list[list[int]]:
        """Ordered tie groups of indices, best first; equal texts always tie.

        A group ends where a completion is more than `tie_width` below the group's best.
        """
        seen = [self.perceived(prompt, completion) for completion in completions]
        groups: list[list[int]] = []
        for i in sorted(range(len(seen)), key=lambda i: -seen[i]):
            if groups and seen[groups[-1][0]] - seen[i] <= self.tie_width:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    def rate(self, prompt: str, completion: str) -> Rating:
        """A rating, with now and then a metadata field misread."""
        rng = self._random("rate", prompt, completion)
        seen = self.perceived(prompt, completion)
        metadata = {
            name: value if value is None or rng.random() >= _MISREAD else not value
            for name, value in judge_metadata(prompt, completion).items()
        }
        return Rating(overall=1 + sum(seen >= step for step in _RATING_STEPS), metadata=metadata)


def _corrupt(completion: str, rng: random.Random) -> str:
    """What a small policy does to an answer now and then."""
    words = completion.split(" ")
    match rng.randrange(4):
        case 0:
            return " ".join(words[: max(1, len(words) // 2)])
        case 1:
            i = rng.randrange(len(words))
            return " ".join([*words[:i], rng.choice(words), *words[i:]])
        case 2:
            return f"{completion} {ramble(rng)}"
        case _:
            return next(starter_texts(rng.randrange(10**6), 1))


def reference_completions(prompt: str, rng: random.Random, k: int) -> list[str]:
    """`k` different completions as labelers see them: an SFT policy's, some of them spoilt."""
    completions: list[str] = []
    for _ in range(50 * k):
        text = write_demonstration(prompt, rng, rng.uniform(0.35, 0.55))
        if rng.random() < 0.3:
            text = _corrupt(text, rng)
        if text not in completions:
            completions.append(text)
        if len(completions) == k:
            break
    return completions


@dataclass(frozen=True)
class Agreement:
    """How often two labelers chose alike, of the comparisons that both ranked strictly."""

    rate: float
    comparisons: int
    ties: float  # share of all pairs that one labeler tied


def _places(groups: list[list[int]]) -> dict[int, int]:
    return {i: place for place, group in enumerate(groups) for i in group}


def measure_agreement(
    seed: int,
    *,
    labelers: int = 6,
    prompts: int = 200,
    noise: float = DEFAULT_NOISE,
    tie_width: float = DEFAULT_TIE_WIDTH,
) -> Agreement:
    """The agreement of simulated labelers on K = 4–6 completions like an SFT policy's."""
    rng = random.Random(f"agreement {seed}")
    team = [
        SimulatedLabeler(1000 * seed + i, noise=noise, tie_width=tie_width) for i in range(labelers)
    ]
    alike = both = tied = pairs = 0
    for prompt in generate_prompts(seed, prompts):
        completions = reference_completions(prompt.text, rng, rng.randint(4, 6))
        places = [_places(labeler.rank(prompt.text, completions)) for labeler in team]
        for i, j in itertools.combinations(range(len(completions)), 2):
            signs = [(p[i] > p[j]) - (p[i] < p[j]) for p in places]
            pairs += len(signs)
            tied += signs.count(0)
            for a, b in itertools.combinations([s for s in signs if s], 2):
                both += 1
                alike += a == b
    return Agreement(alike / both, both, tied / pairs)
