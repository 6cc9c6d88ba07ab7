"""Stand-ins for prompts that are not of the demo family: a researcher rehearses their own study.

They know nothing of the prompt but its words, so their preferences are generic: on the topic, of a
sensible length, in whole sentences, without repetition. Enough to try a study's machinery, its
timing and its cost; not enough to predict what people will prefer.
"""

from __future__ import annotations

import random
import re
from typing import Final

from app.simulation.family import sentences_of, words_of

_STOP_WORDS: Final = frozenset(
    words_of(
        """a about all also am an and any are as at be but by can could did do does for from had has
        have he her his how i if in into is it its just like may me more my no not of on one or our
        out please she should so some such than that the their them then there these they this to up
        us use was we were what when where which who why will with would write you your"""
    )
)
_LEADS: Final = (
    "Here is a short answer about {0}.",
    "The main point is {0}.",
    "Let us look at {0} first.",
)
_MORE: Final = (
    "It also matters how {0} and {1} go together.",
    "Think of {0} as well as of {1}.",
    "With {0} in mind, {1} becomes clearer.",
)
_ASIDES: Final = ("I am not sure about this.", "There is much more to say.", "As everyone knows.")


def content_words(text: str) -> list[str]:
    """The words of a text that carry its topic, in order, each once."""
    return list(dict.fromkeys(w for w in words_of(text) if len(w) > 2 and w not in _STOP_WORDS))


def write_demonstration(prompt: str, rng: random.Random, skill: float) -> str:
    """A short on-topic answer in the prompt's own words; the less skill, the less on topic."""
    topic = content_words(prompt)[:40] or ["this"]
    chosen = [rng.choice(topic) for _ in range(4)]
    parts = [rng.choice(_LEADS).format(chosen[0])]
    if rng.random() < 0.3 + 0.7 * skill:
        parts.append(rng.choice(_MORE).format(*chosen[1:3]))
    if rng.random() < 0.6 * (1.0 - skill):
        parts.append(rng.choice(_ASIDES))
    if rng.random() < 0.4 * (1.0 - skill):
        parts = parts[-1:]
    return " ".join(parts)


def repetition(text: str) -> float:
    """The share of a text's word trigrams that occurred before in it, 0 to 1."""
    words = words_of(text)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return 1.0 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def topicality(prompt: str, completion: str) -> float:
    """How much of the prompt's topic a completion takes up, 0 to 1; half the words are enough."""
    topic = set(content_words(prompt))
    return min(1.0, 2.0 * len(topic & set(words_of(completion))) / len(topic)) if topic else 0.5


def form(completion: str) -> float:
    """Sentence form, 0 to 1: a capital at the beginning, an end mark at the end."""
    text = completion.strip()
    return 0.5 * bool(re.match(r"[\"'(\-*]*\s*[A-Z0-9]", text)) + 0.5 * text.endswith(
        (".", "!", "?", ")", '"')
    )


def length(completion: str) -> float:
    """Sensible length, 0 to 1: full marks from 12 to 150 words."""
    n = len(words_of(completion))
    return n / 12 if n < 12 else max(0.0, 1.0 - max(0, n - 150) / 150)


def copies(prompt: str, completion: str) -> bool:
    """Whether a completion holds the whole prompt instead of an answer."""
    asked = words_of(prompt)
    return bool(asked) and f" {' '.join(asked)} " in f" {' '.join(words_of(completion))} "


def soundness(prompt: str, completion: str) -> float:
    """Freedom from repetition and from copying the prompt, 0 to 1."""
    said, asked = words_of(completion), " ".join(words_of(prompt))
    runs = [" ".join(said[i : i + 8]) for i in range(max(0, len(said) - 7))]
    copied = sum(run in asked for run in runs) / len(runs) if runs else 0.0
    once = len({s.lower() for s in sentences_of(completion)})
    again = 1.0 - once / max(1, len(sentences_of(completion)))
    return max(0.0, 1.0 - 2.0 * repetition(completion) - copied - again)
