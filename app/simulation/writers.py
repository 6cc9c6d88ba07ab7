"""A right answer to each kind of prompt of the demo family, in a few wordings."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from app.simulation.family import fill
from app.simulation.lexicon import (
    ANIMAL_FACTS,
    COLOUR_FACTS,
    JOB_FACTS,
    NUMBER_OF,
    PAST,
    TOPIC_WORDS,
)


@dataclass(frozen=True)
class Draft:
    """An answer before it is written down: sentences, or the items of a list."""

    parts: tuple[str, ...]
    items: bool = False

    def text(self) -> str:
        if self.items:
            return "\n".join(f"- {part}" for part in self.parts)
        return " ".join(self.parts)


Writer = Callable[[Mapping[str, str], random.Random], Draft]


def _story(s: Mapping[str, str], rng: random.Random) -> Draft:
    who = f"{s['adjective']} {s['animal']}"
    first = rng.choice(
        (
            f"One day a {who} went to the {s['place']}.",
            f"There was a {who} at the {s['place']}.",
            f"A {who} lived at the {s['place']}.",
        )
    )
    middle = fill(
        rng.choice(
            (
                "It found a {colour} {thing}.",
                "It was looking for {food}.",
                "It saw a {colour} {thing} and took it home.",
                "There it met {name}.",
            )
        ),
        rng,
    )
    last = rng.choice(
        ("It was very happy.", "Then it went home.", "So it sang a song.", "All was well.")
    )
    parts = rng.choice(((first, middle, last), (first, middle), (first, last)))
    return Draft(parts)


def _note(s: Mapping[str, str], rng: random.Random) -> Draft:
    news = rng.choice(
        (
            f"the {s['event']} is on {s['day']}.",
            f"please come to the {s['event']} on {s['day']}.",
            f"I will see you at the {s['event']} on {s['day']}.",
        )
    )
    more = fill(rng.choice(("Please bring {food}.", "We meet at the {place}.", "")), rng)
    end = rng.choice(("Best wishes.", "See you soon."))
    return Draft(tuple(p for p in (f"Dear {s['name']}, {news}", more, end) if p))


def _eats(s: Mapping[str, str], rng: random.Random) -> Draft:
    food = ANIMAL_FACTS[s["animal"]][0]
    return Draft(
        (rng.choice((f"A {s['animal']} eats {food}.", f"The {s['animal']} eats {food}.")),)
    )


def _home(s: Mapping[str, str], rng: random.Random) -> Draft:
    place = ANIMAL_FACTS[s["animal"]][1]
    return Draft(
        (
            rng.choice(
                (
                    f"A {s['animal']} lives in the {place}.",
                    f"The {s['animal']} lives in the {place}.",
                )
            ),
        )
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _colour(s: Mapping[str, str], _: random.Random) -> Draft:
    return Draft((f"{_capital(s['coloured'])} is {COLOUR_FACTS[s['coloured']]}.",))


def _job(s: Mapping[str, str], _: random.Random) -> Draft:
    verb, what = JOB_FACTS[s["job"]]
    return Draft((f"A {s['job']} {verb} {what}.",))


def _ideas(s: Mapping[str, str], rng: random.Random) -> Draft:
    return Draft(tuple(rng.sample(TOPIC_WORDS[s["topic"]], NUMBER_OF[s["count"]])), items=True)


def _comfort(s: Mapping[str, str], rng: random.Random) -> Draft:
    first = f"I am sorry to hear that, {s['name']}."
    if "thing" in s:
        second = (f"I hope you find your {s['thing']} soon.", f"Let us look for your {s['thing']}.")
    else:
        second = (
            f"I hope your {s['animal']} is well again soon.",
            f"Take good care of your {s['animal']}.",
        )
    return Draft((first, rng.choice(second)))


def _rejoice(s: Mapping[str, str], rng: random.Random) -> Draft:
    first = f"That is good news, {s['name']}."
    if "thing" in s:
        second = (
            f"I am glad you found your {s['thing']}.",
            f"Take good care of your {s['thing']}.",
        )
    else:
        second = (
            f"I am glad your {s['animal']} is well.",
            f"Take good care of your {s['animal']}.",
        )
    return Draft((first, rng.choice(second)))


def _polite(s: Mapping[str, str], rng: random.Random) -> Draft:
    verb = rng.choice(("give", "bring"))
    return Draft((f"Could you please {verb} me the {s['thing']}?",))


def _past(s: Mapping[str, str], _: random.Random) -> Draft:
    what = f"a {s['colour']} {s['thing']}" if "thing" in s else f"the {s['animal']}"
    return Draft((f"{s['name']} {PAST[s['verb']]} {what}.",))


def _swap(s: Mapping[str, str], _: random.Random) -> Draft:
    return Draft((f"The {s['adjective']} {s['animal2']} is at the {s['place']}.",))


def _summary(s: Mapping[str, str], rng: random.Random) -> Draft:
    if "name2" in s:
        options = (
            f"{s['name']} and {s['name2']} met at the {s['place']}.",
            f"{s['name']} and {s['name2']} ate {s['food']} on {s['day']}.",
        )
    elif "fruit" in s:
        options = (
            f"{s['name']} bought {s['fruit']} and a {s['thing']} in {s['city']}.",
            f"{s['name']} went to {s['city']} on {s['day']}.",
        )
    else:
        options = (
            f"{s['name']} lives in {s['city']} with {s['number']} {s['herd']}.",
            f"{s['name']} lives in {s['city']} and has a {s['thing']}.",
        )
    return Draft((rng.choice(options),))


def _word(s: Mapping[str, str], _: random.Random) -> Draft:
    return Draft((_capital(s["answer"]) + ".",))


def _reading(s: Mapping[str, str], rng: random.Random) -> Draft:
    name, answer = s["name"], s["answer"]
    if not answer:
        return Draft((rng.choice(("The text does not say.", "The text does not say that.")),))
    sentence = {
        "Where does {name} live?": f"{name} lives in {s.get('city')}.",
        "What colour is the {thing}?": f"The {s.get('thing')} is {s.get('colour')}.",
        "How many {herd} are there?": f"There are {s.get('number')} {s.get('herd')}.",
        "Where did {name} go?": f"{name} went to {s.get('city')}.",
        "When did {name} go?": f"{name} went on {s.get('day')}.",
        "How many {fruit} are there?": f"There are {s.get('number')} {s.get('fruit')}.",
        "Where did they meet?": f"They met at the {s.get('place')}.",
        "When did they meet?": f"They met on {s.get('day')}.",
        "What did they eat?": f"They ate {s.get('food')}.",
    }[s["question"]]
    return Draft((sentence,))


def asked_items(s: Mapping[str, str]) -> list[str]:
    """The words that an extraction prompt asks for, in the order of its text."""
    return [s[slot] for slot in (s["topic"], f"{s['topic']}2", f"{s['topic']}3") if slot in s]


def _collect(s: Mapping[str, str], _: random.Random) -> Draft:
    return Draft(tuple(asked_items(s)), items=True)


def _greet(s: Mapping[str, str], rng: random.Random) -> Draft:
    name = s["name"]
    if s["answer"] == "hello":
        return Draft(
            rng.choice(
                ((f"Hello {name}.", "It is good to see you."), (f"Hello {name}.", "How are you?"))
            )
        )
    if s["answer"] == "thank":
        return Draft((f"Thank you for the {s['thing']}, {name}.", "It is very kind of you."))
    return Draft((f"Goodbye {name}.", rng.choice(("See you soon.", "It was good to see you."))))


def is_true(s: Mapping[str, str]) -> bool:
    """Whether the statement of a yes/no prompt is true in the world."""
    if "coloured" in s:
        return COLOUR_FACTS[s["coloured"]] == s["colour"]
    return ANIMAL_FACTS[s["animal"]][0] == s["feed"]


def _check(s: Mapping[str, str], _: random.Random) -> Draft:
    return Draft(("Yes." if is_true(s) else "No.",))


WRITERS: Final[dict[str, Writer]] = {
    "story": _story,
    "note": _note,
    "eats": _eats,
    "home": _home,
    "colour": _colour,
    "job": _job,
    "ideas": _ideas,
    "comfort": _comfort,
    "rejoice": _rejoice,
    "polite": _polite,
    "past": _past,
    "swap": _swap,
    "summary": _summary,
    "mood": _word,
    "sort": _word,
    "reading": _reading,
    "collect": _collect,
    "greet": _greet,
    "check": _check,
}
