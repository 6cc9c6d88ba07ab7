"""What a simulated labeler writes as a demonstration: from careful to careless.

A careful labeler answers what was asked, keeps to the constraint and adds one short courtesy. A
less skilled one forgets the courtesy, breaks the format or the constraint, rambles, or makes a
fact up. SFT imitates the mix; what labelers *prefer* is learned from their rankings.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Final

from app.simulation import fallback
from app.simulation.family import Constraint, Instruction, fill, parse
from app.simulation.lexicon import CLASSES, CLOSINGS, FACT_CLASS_OF, OPENINGS
from app.simulation.writers import WRITERS, Draft

# How often a labeler of skill 0 slips in each way; one of skill 1 never does.
SLIPS: Final = {
    "courtesy": 1.0,
    "format": 0.4,
    "constraint": 0.7,
    "ramble": 0.6,
    "invent": 0.2,
    "thin": 0.3,
}

HEDGES: Final = ("Well, I think so.", "As you know.", "Let me see.")
RAMBLES: Final = (
    "The {animal} is at the {place}.",
    "{name} has a {colour} {thing}.",
    "{name} went to {city} on {day}.",
    "A {animal} likes {food}.",
    "It was a good day.",
)
_OTHER_ANSWERS: Final = {
    "Yes.": ("No.",),
    "No.": ("Yes.",),
    "Happy.": ("Sad.",),
    "Sad.": ("Happy.",),
    "Animal.": ("Food.", "City."),
    "Food.": ("Animal.", "City."),
    "City.": ("Animal.", "Food."),
}


def _draft(instruction: Instruction, rng: random.Random, *, keep: bool) -> Draft:
    """A right answer that keeps to the prompt's constraint, or where possible one that does not."""
    write, constraint = WRITERS[instruction.kind.name], instruction.constraint
    draft = write(instruction.slots, rng)
    for _ in range(30):
        if constraint is None or constraint.met(draft.text()) == keep:
            break
        draft = write(instruction.slots, rng)
    return draft


def _invent(draft: Draft, rng: random.Random) -> Draft:
    """The same answer with one fact changed."""
    parts = list(draft.parts)
    if parts[0] in _OTHER_ANSWERS:
        return replace(draft, parts=(rng.choice(_OTHER_ANSWERS[parts[0]]),))
    places = [
        (i, word)
        for i, part in enumerate(parts)
        for word in re.findall(r"\w+", part)
        if word.lower() in FACT_CLASS_OF
    ]
    if places:
        i, word = rng.choice(places)
        others = [w for w in CLASSES[FACT_CLASS_OF[word.lower()]] if w.lower() != word.lower()]
        parts[i] = re.sub(rf"\b{word}\b", rng.choice(others), parts[i])
    return replace(draft, parts=tuple(parts))


def _thin(draft: Draft) -> Draft:
    """The same answer with too little in it."""
    if len(draft.parts) > 1:
        return replace(draft, parts=draft.parts[:-1])
    words = draft.parts[0].split()
    return replace(draft, parts=(words[-1].capitalize(),)) if len(words) > 2 else draft


def ramble(rng: random.Random) -> str:
    """A sentence that has nothing to do with anything."""
    return fill(rng.choice(RAMBLES), rng)


def _written(draft: Draft, instruction: Instruction, *, formatted: bool) -> str:
    if formatted:
        return draft.text()
    if draft.items:
        return ", ".join(draft.parts)
    if instruction.kind.shape == "word":
        return f"I think it is {draft.parts[0].lower()}"
    text = draft.text()
    return (text[0].lower() + text[1:]).rstrip(".")


def _break(text: str, constraint: Constraint, rng: random.Random) -> str:
    """An answer that is too long for its constraint."""
    for _ in range(3):
        if not constraint.met(text):
            break
        text = f"{text} {ramble(rng)}"
    return text


def write_demonstration(prompt_text: str, rng: random.Random, skill: float) -> str:
    """What a labeler of `skill` (0 careless, 1 faultless) writes as the completion of a prompt."""
    instruction = parse(prompt_text)
    if instruction is None:
        return fallback.write_demonstration(prompt_text, rng, skill)

    def slips(way: str) -> bool:
        return rng.random() < SLIPS[way] * (1.0 - skill)

    constraint = instruction.constraint
    keep = not slips("constraint")
    draft = _draft(instruction, rng, keep=keep)
    if slips("invent"):
        draft = _invent(draft, rng)
    if slips("thin"):
        draft = _thin(draft)
    text = _written(draft, instruction, formatted=not slips("format"))
    if constraint and not keep:
        text = _break(text, constraint, rng)
    space = "\n" if draft.items else " "
    if slips("ramble"):
        before = rng.random() < 0.4
        text = f"{rng.choice(HEDGES)}{space}{text}" if before else f"{text}{space}{ramble(rng)}"
    if instruction.kind.courteous and not slips("courtesy"):
        if rng.random() < 0.15:
            text = f"{rng.choice(OPENINGS)}{space}{text}"
        else:
            text = f"{text}{space}{rng.choice(CLOSINGS)}"
    return text
