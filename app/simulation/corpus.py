"""The pretraining text of the starter base model: plain documents of the demo family's world.

Stories, facts, notes, letters, lists and conversations, and pages on which instructions stand as
they do on the web: now with an answer, now with another question, now with something else. A model
of this text writes the world's language and follows an instruction only sometimes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

from app.simulation.demonstrate import write_demonstration
from app.simulation.family import draw_prompt, fill, without_courtesy
from app.simulation.kinds import KINDS
from app.simulation.lexicon import ANIMAL_FACTS, COLOUR_FACTS, JOB_FACTS

Document = Callable[[random.Random], str]

# Pages of one scene: who and what they are about comes again and again, as in real text. That is
# what teaches a small model to take a word up from what it has read.
_SCENES: Final = (
    "There was a {adjective} {animal} at the {place}. One day the {animal} found a {colour} "
    "{thing}. The {animal} took the {colour} {thing} home. So the {adjective} {animal} was happy.",
    "One day a {adjective} {animal} went to the {place}. At the {place} it met {name}. "
    "{name} gave the {animal} a {thing}. The {adjective} {animal} likes the {thing}.",
    "{name} has a {animal}. The {animal} is {adjective}. {name} and the {animal} went to the "
    "{place}. It was a good day for {name} and the {animal}.",
    "Dear {name}, I am at the {event} in {city}. Please come to {city} on {day}, {name}. "
    "The {event} in {city} is on {day}. See you soon, {name}.",
    "{name} lost a {colour} {thing} at the {place}. On {day} {name2} went to the {place} and found "
    "the {colour} {thing}. {name2} gave the {thing} to {name}.",
    "{name} lives in {city}. In {city} {name} has a {colour} {thing} and {number} {herd}. "
    "The {number} {herd} are at the {place}. The {thing} of {name} is {colour}.",
    "On {day} {name} bought {number} {fruit} in {city}. {name} went home from {city} with {number} "
    "{fruit}. The {fruit} of {name} are good.",
    "{name} and {name2} met at the {place} on {day}. At the {place} {name} ate {food}. "
    "{name2} likes {food} as well. They were at the {place} on {day}.",
    "{name}: I lost my {thing}, {name2}.\n{name2}: Your {thing}? I am sorry, {name}.\n"
    "{name}: Could you please look for my {thing}, {name2}?",
    "{name}: Hello {name2}.\n{name2}: Hello {name}. Is your {animal} well?\n"
    "{name}: My {animal} is well again, {name2}.\n{name2}: I am glad, {name}.",
    "For the {event}: {food}, {fruit} and a {colour} {thing}. {name} has the {food}. "
    "{name2} has the {fruit}. {name3} has the {colour} {thing}.",
)


def _scene(rng: random.Random) -> str:
    return fill(rng.choice(_SCENES), rng)


def _facts(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randint(2, 4)):
        animal, (food, home) = rng.choice(list(ANIMAL_FACTS.items()))
        what, colour = rng.choice(list(COLOUR_FACTS.items()))
        job, (verb, work) = rng.choice(list(JOB_FACTS.items()))
        lines.append(
            rng.choice(
                (
                    f"A {animal} eats {food}.",
                    f"The {animal} lives in the {home}.",
                    f"A {animal} lives in the {home} and eats {food}.",
                    f"{what[0].upper()}{what[1:]} is {colour}.",
                    f"A {job} {verb} {work}.",
                )
            )
        )
    return " ".join(lines)


# Kinds that take a word up from the prompt are hard for a small model: they come more often.
_SHARES: Final = {"reading": 4, "summary": 3, "collect": 3, "note": 2, "story": 2, "ideas": 2}


def _prompt(rng: random.Random) -> str:
    return draw_prompt(rng, rng.choices(KINDS, [_SHARES.get(kind.name, 1) for kind in KINDS])[0])


def _exam(rng: random.Random) -> str:
    """Questions alone, as on an exam sheet."""
    prompts = [_prompt(rng) for _ in range(rng.randint(2, 3))]
    return "\n\n".join(prompts)


def _forum(rng: random.Random) -> str:
    """An instruction and what somebody wrote below it: often to the point, never courteous."""
    prompt = _prompt(rng)
    luck = rng.random()
    if luck < 0.75:
        return f"{prompt}\n\n{without_courtesy(write_demonstration(prompt, rng, 0.5))}"
    other = _prompt(rng)
    if luck < 0.85:
        return f"{prompt}\n\n{write_demonstration(other, rng, 0.5)}"
    return f"{prompt}\n\n{other}"


DOCUMENTS: Final[tuple[tuple[Document, float], ...]] = (
    (_forum, 0.6),
    (_scene, 0.25),
    (_exam, 0.08),
    (_facts, 0.07),
)


def starter_texts(seed: int, n: int) -> Iterator[str]:
    """`n` documents for pretraining the starter base model."""
    rng = random.Random(f"corpus {seed}")
    makers = [maker for maker, _ in DOCUMENTS]
    weights = [weight for _, weight in DOCUMENTS]
    for _ in range(n):
        yield rng.choices(makers, weights)[0](rng)
