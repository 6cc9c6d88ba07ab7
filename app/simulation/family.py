"""The demo family: prompts of a little world, made from a seed and read back from their text."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from app.simulation.kinds import (
    CONSTRAINT_TEXT,
    KINDS,
    ConstraintName,
    Kind,
    Phrasing,
    UseCase,
    slots_of,
    template_pattern,
)
from app.simulation.lexicon import (
    ANIMAL_FACTS,
    CLASSES,
    COLOUR_FACTS,
    COURTESIES,
    NUMBER_OF,
    PRONOUNS,
    TOPIC_WORDS,
    class_of,
)

# Shares of the paper's API prompts (App. A, as remembered), flattened by a square root below so
# that a study of a few hundred prompts still shows the rare use cases.
PAPER_SHARES: Final[dict[UseCase, float]] = {
    "generation": 45.6,
    "open_qa": 12.4,
    "brainstorming": 11.2,
    "chat": 8.4,
    "rewrite": 6.6,
    "summarization": 4.2,
    "classification": 3.5,
    "closed_qa": 2.6,
    "extract": 1.9,
    "other": 3.5,
}
_STORY_WORDS: Final = ("One", "day", "found", "happy", "went", "met")


@dataclass(frozen=True)
class Constraint:
    """What a prompt asks of its answer beside the content. `value` is a limit or a word."""

    name: ConstraintName
    value: str = ""

    @property
    def text(self) -> str:
        return CONSTRAINT_TEXT[self.name].format(limit=self.value, word=self.value)

    def met(self, completion: str) -> bool:
        """Whether a completion keeps to it. A courtesy does not count, but for one-word answers."""
        if self.name == "one_word":
            return len(words_of(completion)) == 1
        if self.name == "yes_no":
            return words_of(completion) in (["yes"], ["no"])
        body = without_courtesy(completion)
        if self.name == "without":
            return self.value.lower() not in words_of(body)
        if self.name == "at_most":
            return 0 < len(words_of(body)) <= NUMBER_OF[self.value]
        return len(sentences_of(body)) == (2 if self.name == "sentences" else 1)


@dataclass(frozen=True)
class Instruction:
    """What a prompt's text asks for. `slots` holds its words and the facts of its phrasing."""

    kind: Kind
    slots: Mapping[str, str]
    constraint: Constraint | None


@dataclass(frozen=True, kw_only=True)
class DemoPrompt:
    """A prompt of the demo family. `constraint` is the constraint's sentence, if it has one."""

    text: str
    use_case: UseCase
    kind: str
    source_user: str
    closed_domain: bool
    constraint: str | None


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each without its end mark."""
    return [s for piece in re.split(r"[.!?]+", text) if (s := piece.strip())]


def without_courtesy(text: str) -> str:
    """A completion without the courtesies that are not part of its content."""
    for courtesy in COURTESIES:
        text = text.replace(courtesy, "")
    return re.sub(r" {2,}", " ", text).strip()


_CONSTRAINT_PATTERNS: Final = tuple(
    (name, re.compile(template_pattern(text).pattern + r"$"))
    for name, text in CONSTRAINT_TEXT.items()
)


@lru_cache(maxsize=65536)
def parse(prompt: str) -> Instruction | None:
    """What a prompt asks for, read from its text alone; None for a prompt of another family."""
    text, constraint = prompt.strip(), None
    for name, pattern in _CONSTRAINT_PATTERNS:
        if found := pattern.search(text):
            constraint = Constraint(name, next(iter(found.groupdict().values()), ""))
            text = text[: found.start()]
            break
    for kind in KINDS:
        for phrasing in kind.phrasings:
            if match := phrasing.pattern.fullmatch(text):
                return Instruction(kind, {**match.groupdict(), **phrasing.facts}, constraint)
    return None


def fill(template: str, rng: random.Random) -> str:
    """A template with words in its slots: two slots of a class differ, a pronoun fits its name."""
    slots: dict[str, str] = {}
    for slot in slots_of(template):
        if slot == "pronoun":
            slots[slot] = PRONOUNS[slots["name"]]
        else:
            free = [w for w in CLASSES[class_of(slot)] if w not in slots.values()]
            slots[slot] = rng.choice(free)
    if "coloured" in slots and "colour" in slots and rng.random() < 0.5:
        slots["colour"] = COLOUR_FACTS[slots["coloured"]]  # so that half of the answers are yes
    if "feed" in slots and rng.random() < 0.5:
        slots["feed"] = ANIMAL_FACTS[slots["animal"]][0]
    return template.format(**slots)


def _constrain(kind: Kind, phrasing: Phrasing, text: str, rng: random.Random) -> Constraint | None:
    if rng.random() >= kind.constraint_share:
        return None
    name = rng.choice(kind.constraints)
    if name == "at_most":
        return Constraint(name, {"story": "twenty", "note": "twenty"}.get(kind.name, "ten"))
    if name == "without":
        match = phrasing.pattern.fullmatch(text)
        slots = {**match.groupdict(), **phrasing.facts} if match else {}
        return Constraint(name, rng.choice(TOPIC_WORDS.get(slots.get("topic", ""), _STORY_WORDS)))
    return Constraint(name)


def draw_prompt(rng: random.Random, kind: Kind) -> str:
    """The text of a random prompt of a kind."""
    phrasing = rng.choice(kind.phrasings)
    text = fill(phrasing.text, rng)
    constraint = _constrain(kind, phrasing, text, rng)
    return text + (constraint.text if constraint else "")


def generate_prompts(seed: int, n: int, users: int = 60) -> list[DemoPrompt]:
    """`n` distinct prompts from `users` source users, each with a taste of its own for use cases.

    The family holds millions of prompts, so thousands are found at once.
    """
    rng = random.Random(f"family {seed}")
    use_cases = list(PAPER_SHARES)
    tastes = [
        [PAPER_SHARES[case] ** 0.5 * rng.gammavariate(1.0, 1.0) for case in use_cases]
        for _ in range(users)
    ]
    prompts: dict[str, DemoPrompt] = {}
    while len(prompts) < n:
        user = rng.randrange(users)
        case = rng.choices(use_cases, tastes[user])[0]
        kind = rng.choice([k for k in KINDS if k.use_case == case])
        text = draw_prompt(rng, kind)
        if text in prompts or (instruction := parse(text)) is None:
            continue
        constraint = instruction.constraint
        prompts[text] = DemoPrompt(
            text=text,
            use_case=case,
            kind=kind.name,
            source_user=f"user-{user + 1:02d}",
            closed_domain=kind.closed_domain,
            constraint=constraint.text.strip() if constraint else None,
        )
    return list(prompts.values())
