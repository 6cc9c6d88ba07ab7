"""Whether an answer to a demo prompt does what was asked: one small check a kind of prompt.

A check gives the share of the task that was done, 0 to 1, from the words of the completion without
its courtesies. `strays` counts the facts that come from nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from app.simulation.family import words_of
from app.simulation.kinds import Kind
from app.simulation.lexicon import (
    ANIMAL_FACTS,
    CLASSES,
    COLOUR_FACTS,
    FACT_CLASS_OF,
    JOB_FACTS,
    NUMBER_OF,
    PAST,
    TOPIC_WORDS,
)
from app.simulation.writers import asked_items, is_true

Check = Callable[[Mapping[str, str], str], float]


def _has(body: str, *expected: str) -> float:
    """The share of the expected words or phrases that occur."""
    said = f" {' '.join(words_of(body))} "
    return sum(f" {' '.join(words_of(e))} " in said for e in expected) / len(expected)


def _one_of(body: str, expected: str, choices: Iterable[str]) -> float:
    """1 where the expected word is the only choice that occurs, half where others do too."""
    said = set(words_of(body))
    if expected.lower() not in said:
        return 0.0
    others = {c.lower() for c in choices} - {expected.lower()}
    return 0.5 if said & others else 1.0


def list_items(body: str) -> list[str]:
    """The items of a list with dashes, or of one written in a line with commas."""
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    if any(line.startswith("-") for line in lines):
        return [line.lstrip("- ").rstrip(".").lower() for line in lines if line.startswith("-")]
    items = re.split(r",|\band\b", " ".join(lines).rstrip("."))
    return [item.strip().lower() for item in items if item.strip()]


def _items(body: str, wanted: Iterable[str], count: int) -> float:
    """How well the items are `count` different ones of those wanted."""
    items = list_items(body)
    good = len(set(items) & {w.lower() for w in wanted})
    return min(good, count) / max(count, len(items))


def _story(s: Mapping[str, str], body: str) -> float:
    others = set(words_of(body)) & set(CLASSES["animal"]) - {s["animal"]}
    return max(0.0, _has(body, s["adjective"], s["animal"], s["place"]) - 0.25 * len(others))


def _note(s: Mapping[str, str], body: str) -> float:
    return _has(body, f"dear {s['name']}", s["event"], s["day"])


def _eats(s: Mapping[str, str], body: str) -> float:
    answer = _one_of(body, ANIMAL_FACTS[s["animal"]][0], CLASSES["feed"])
    return 0.75 * answer + 0.25 * _has(body, s["animal"])


def _home(s: Mapping[str, str], body: str) -> float:
    answer = _one_of(body, ANIMAL_FACTS[s["animal"]][1], CLASSES["home"] + CLASSES["place"])
    return 0.75 * answer + 0.25 * _has(body, s["animal"])


def _colour(s: Mapping[str, str], body: str) -> float:
    answer = _one_of(body, COLOUR_FACTS[s["coloured"]], CLASSES["colour"])
    return 0.75 * answer + 0.25 * _has(body, s["coloured"])


def _job(s: Mapping[str, str], body: str) -> float:
    verb, what = JOB_FACTS[s["job"]]
    return 0.5 * _one_of(body, what, CLASSES["work"]) + 0.5 * _has(body, verb, s["job"])


def _ideas(s: Mapping[str, str], body: str) -> float:
    return _items(body, TOPIC_WORDS[s["topic"]], NUMBER_OF[s["count"]])


def _collect(s: Mapping[str, str], body: str) -> float:
    asked = asked_items(s)
    return _items(body, asked, len(asked))


def _comfort(s: Mapping[str, str], body: str) -> float:
    tone = _has(body, "sorry") * (1.0 - 0.5 * _has(body, "good news"))
    return 0.5 * tone + 0.5 * _has(body, s["name"], s.get("thing") or s["animal"])


def _rejoice(s: Mapping[str, str], body: str) -> float:
    tone = 0.5 * _has(body, "good news") + 0.5 * max(_has(body, "glad"), _has(body, "care"))
    tone *= 1.0 - 0.5 * _has(body, "sorry")
    return 0.5 * tone + 0.5 * _has(body, s["name"], s.get("thing") or s["animal"])


def _polite(s: Mapping[str, str], body: str) -> float:
    return (
        0.5 * _has(body, "please", s["thing"])
        + 0.25 * _has(body, "could you")
        + 0.25 * ("?" in body)
    )


def _past(s: Mapping[str, str], body: str) -> float:
    objects = [s["colour"], s["thing"]] if "thing" in s else [s["animal"]]
    tense = _has(body, PAST[s["verb"]]) * (1.0 - _has(body, s["verb"]))
    return 0.5 * tense + 0.5 * _has(body, s["name"], *objects)


def _swap(s: Mapping[str, str], body: str) -> float:
    changed = _has(body, s["animal2"]) * (1.0 - _has(body, s["animal"]))
    return 0.6 * changed + 0.4 * _has(body, s["adjective"], s["place"])


def _summary(s: Mapping[str, str], body: str) -> float:
    facts = [slot for slot in s if slot not in ("name", "pronoun")]
    told = sum(_has(body, s[slot]) for slot in facts)
    return 0.3 * _has(body, s["name"]) + 0.35 * min(told, 2)


def _mood(s: Mapping[str, str], body: str) -> float:
    return _one_of(body, s["answer"], ("happy", "sad"))


def _sort(s: Mapping[str, str], body: str) -> float:
    return _one_of(body, s["answer"], ("animal", "food", "city"))


def _reading(s: Mapping[str, str], body: str) -> float:
    unknown = _has(body, "does not say")
    if not s["answer"]:
        return unknown
    right = _one_of(body, s[s["answer"]], CLASSES[s["answer"]])
    subject = [s[slot] for slot in ("name", "thing", "herd", "fruit") if slot in s]
    named = bool({"they", *(w.lower() for w in subject)} & set(words_of(body)))
    return (0.75 * right + 0.25 * named) * (1.0 - unknown)


def _greet(s: Mapping[str, str], body: str) -> float:
    named = 0.4 * _has(body, s["answer"]) + 0.3 * _has(body, s["name"])
    rest = _has(body, s["thing"]) if "thing" in s else float(len(words_of(body)) >= 4)
    return named + 0.3 * rest


def _check(s: Mapping[str, str], body: str) -> float:
    return _one_of(body, "yes" if is_true(s) else "no", ("yes", "no"))


CHECKS: Final[dict[str, Check]] = {
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
    "mood": _mood,
    "sort": _sort,
    "reading": _reading,
    "collect": _collect,
    "greet": _greet,
    "check": _check,
}

_FREE: Final = ("story", "note", "ideas")  # here a writer may make things up


def strays(kind: Kind, s: Mapping[str, str], body: str) -> int:
    """How many facts of a completion come neither from the prompt nor from the world."""
    if kind.name in _FREE:
        return 0
    given = {word for value in s.values() for word in words_of(value)}
    if "animal" in s:
        given |= set(ANIMAL_FACTS[s["animal"]])
    if "coloured" in s:
        given.add(COLOUR_FACTS[s["coloured"]])
    if "job" in s:
        given |= set(JOB_FACTS[s["job"]])
    return sum(word in FACT_CLASS_OF and word not in given for word in set(words_of(body)))
