"""The kinds of prompt in the demo family: their phrasings, and what a good answer looks like.

A phrasing is a template with slots ("a {colour} {thing}"). The same template writes a prompt and
reads it back, so whoever sees only a prompt's text knows all that the prompt asks for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from app.simulation.lexicon import CLASSES, class_of

UseCase = Literal[
    "generation",
    "open_qa",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "closed_qa",
    "extract",
    "other",
]
ConstraintName = Literal["at_most", "sentences", "one_sentence", "without", "one_word", "yes_no"]
Shape = Literal["text", "list", "word"]

_SLOT: Final = re.compile(r"\{(\w+)\}")


def slots_of(template: str) -> list[str]:
    """The slots of a template in order, each once."""
    return list(dict.fromkeys(_SLOT.findall(template)))


def template_pattern(template: str) -> re.Pattern[str]:
    """What a template can write, one named group a slot; a slot that comes twice must agree."""
    seen: set[str] = set()
    pattern = ""
    for i, piece in enumerate(_SLOT.split(template)):
        if i % 2 == 0:
            pattern += re.escape(piece)
        elif piece in seen:
            pattern += f"(?P={piece})"
        else:
            seen.add(piece)
            words = CLASSES.get(class_of(piece))
            pattern += f"(?P<{piece}>{'|'.join(map(re.escape, words)) if words else '[A-Za-z]+'})"
    return re.compile(pattern)


CONSTRAINT_TEXT: Final[dict[ConstraintName, str]] = {
    "at_most": " Use at most {limit} words.",
    "sentences": " Use two sentences.",
    "one_sentence": " Use one sentence.",
    "without": " Do not use the word {word}.",
    "one_word": " Answer with one word.",
    "yes_no": " Answer yes or no.",
}


@dataclass(frozen=True)
class Phrasing:
    """One wording of a kind. `facts` are fixed for the wording: the mood, the slot asked for."""

    text: str
    facts: dict[str, str] = field(default_factory=dict)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return template_pattern(self.text)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of prompt. `words` is the sensible length of an answer, least and most."""

    name: str
    use_case: UseCase
    phrasings: tuple[Phrasing, ...]
    words: tuple[int, int]
    constraints: tuple[ConstraintName, ...] = ()
    constraint_share: float = 0.0  # of the prompts that carry a constraint
    shape: Shape = "text"
    closed_domain: bool = False
    courteous: bool = True  # a short courtesy before or after the answer is welcome


def _plain(*texts: str, **facts: str) -> tuple[Phrasing, ...]:
    return tuple(Phrasing(text, facts) for text in texts)


_HOME = "{name} lives in {city} and has a {colour} {thing}. {pronoun} has {number} {herd}."
_TRIP = "On {day} {name} went to {city}. {name} bought {number} {fruit} and a {colour} {thing}."
_MEETING = "{name} and {name2} met at the {place} on {day}. They saw a {animal} and ate {food}."
PASSAGES: Final = (_HOME, _TRIP, _MEETING)

# passage: (question, the slot that answers it, "" where the text does not say)
_QUESTIONS: Final = {
    _HOME: (
        ("Where does {name} live?", "city"),
        ("What colour is the {thing}?", "colour"),
        ("How many {herd} are there?", "number"),
        ("How old is {name}?", ""),
    ),
    _TRIP: (
        ("Where did {name} go?", "city"),
        ("When did {name} go?", "day"),
        ("How many {fruit} are there?", "number"),
        ("What did {name} eat?", ""),
    ),
    _MEETING: (
        ("Where did they meet?", "place"),
        ("When did they meet?", "day"),
        ("What did they eat?", "food"),
        ("Where do they live?", ""),
    ),
}


def _closed_questions() -> tuple[Phrasing, ...]:
    return tuple(
        Phrasing(f"{lead}{passage} {question}", {"answer": answer, "question": question})
        for lead in ("", "Read this: ")
        for passage, questions in _QUESTIONS.items()
        for question, answer in questions
    )


KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        name="story",
        use_case="generation",
        phrasings=_plain(
            "Write a short story about a {adjective} {animal} at the {place}.",
            "Tell me a story about a {adjective} {animal} at the {place}.",
            "Please write about a {adjective} {animal} at the {place}.",
        ),
        words=(9, 26),
        constraints=("at_most", "sentences", "without"),
        constraint_share=0.5,
    ),
    Kind(
        name="note",
        use_case="generation",
        phrasings=_plain(
            "Write a note to {name} about the {event} on {day}.",
            "Please write to {name} about the {event} on {day}.",
        ),
        words=(10, 22),
        constraints=("at_most",),
        constraint_share=0.3,
        courteous=False,
    ),
    Kind(
        name="eats",
        use_case="open_qa",
        phrasings=_plain("What does a {animal} eat?", "Tell me what a {animal} eats."),
        words=(3, 10),
        constraints=("at_most", "one_sentence"),
        constraint_share=0.25,
    ),
    Kind(
        name="home",
        use_case="open_qa",
        phrasings=_plain("Where does a {animal} live?", "Tell me where a {animal} lives."),
        words=(4, 12),
        constraints=("at_most", "one_sentence"),
        constraint_share=0.25,
    ),
    Kind(
        name="colour",
        use_case="open_qa",
        phrasings=_plain("What colour is {coloured}?", "Tell me the colour of {coloured}."),
        words=(3, 8),
        constraints=("one_sentence",),
        constraint_share=0.25,
    ),
    Kind(
        name="job",
        use_case="open_qa",
        phrasings=_plain("What does a {job} do?", "Tell me what a {job} does."),
        words=(4, 10),
        constraints=("at_most", "one_sentence"),
        constraint_share=0.25,
    ),
    Kind(
        name="ideas",
        use_case="brainstorming",
        phrasings=(
            *_plain(
                "List {count} {topic} for a {event}.",
                "Give me {count} {topic} for a story.",
                "I need {count} {topic} for a song.",
            ),
            *_plain("Give me {count} names for my {adjective} {animal}.", topic="names"),
        ),
        words=(2, 10),
        constraints=("without",),
        constraint_share=0.4,
        shape="list",
    ),
    Kind(
        name="comfort",
        use_case="chat",
        phrasings=_plain(
            "My name is {name}. I am sad because I lost my {thing}.",
            "I am {name} and I am sad. My {animal} is ill.",
        ),
        words=(9, 22),
        courteous=False,
    ),
    Kind(
        name="rejoice",
        use_case="chat",
        phrasings=_plain(
            "My name is {name}. I am happy because I found my {thing}.",
            "I am {name} and I am happy. My {animal} is well again.",
        ),
        words=(9, 22),
        courteous=False,
    ),
    Kind(
        name="polite",
        use_case="rewrite",
        phrasings=_plain(
            "Make this polite: Give me the {thing}.",
            "Say this politely: Bring me the {thing}.",
        ),
        words=(6, 12),
        courteous=False,
    ),
    Kind(
        name="past",
        use_case="rewrite",
        phrasings=_plain(
            "Write this in the past: {name} {verb} a {colour} {thing}.",
            "Change this to the past: {name} {verb} the {animal}.",
        ),
        words=(4, 9),
    ),
    Kind(
        name="swap",
        use_case="rewrite",
        phrasings=_plain(
            "Change {animal} to {animal2}: The {adjective} {animal} is at the {place}.",
            "Write {animal2} and not {animal}: The {adjective} {animal} is at the {place}.",
        ),
        words=(5, 10),
    ),
    Kind(
        name="summary",
        use_case="summarization",
        phrasings=tuple(
            Phrasing(f"{lead} {passage}")
            for lead in ("Sum this up:", "Summarize this text:")
            for passage in PASSAGES
        ),
        words=(5, 12),
        constraints=("at_most", "one_sentence"),
        constraint_share=0.7,
        closed_domain=True,
    ),
    Kind(
        name="mood",
        use_case="classification",
        phrasings=(
            *_plain(
                "Is this happy or sad? I lost my {thing}.",
                "Is this happy or sad? The {animal} is ill.",
                answer="sad",
            ),
            *_plain(
                "Is this happy or sad? I found my {thing}.",
                "Is this happy or sad? The {animal} is well again.",
                answer="happy",
            ),
        ),
        words=(1, 1),
        constraints=("one_word",),
        constraint_share=1.0,
        shape="word",
        courteous=False,
    ),
    Kind(
        name="sort",
        use_case="classification",
        phrasings=(
            *_plain("Animal, food or city: {animal}.", answer="animal"),
            *_plain("Animal, food or city: {food}.", answer="food"),
            *_plain("Animal, food or city: {city}.", answer="city"),
        ),
        words=(1, 1),
        constraints=("one_word",),
        constraint_share=1.0,
        shape="word",
        courteous=False,
    ),
    Kind(
        name="reading",
        use_case="closed_qa",
        phrasings=_closed_questions(),
        words=(4, 12),
        constraints=("one_sentence",),
        constraint_share=0.2,
        closed_domain=True,
    ),
    Kind(
        name="collect",
        use_case="extract",
        phrasings=(
            *_plain(
                "List the names: {name} and {name2} met {name3} at the {place} on {day}.",
                "List the names in this text: {name} gave the {thing} to {name2} on {day}.",
                topic="name",
            ),
            *_plain(
                "List the colours: {name} has a {colour} {thing} and a {colour2} {thing2}.",
                topic="colour",
            ),
            *_plain(
                "List the things: {name} has a {colour} {thing} and a {colour2} {thing2}.",
                topic="thing",
            ),
        ),
        words=(2, 6),
        shape="list",
        closed_domain=True,
    ),
    Kind(
        name="greet",
        use_case="other",
        phrasings=(
            *_plain("Say hello to {name}.", "Please greet {name}.", answer="hello"),
            *_plain("Say thank you to {name} for the {thing}.", answer="thank"),
            *_plain("Say goodbye to {name}.", answer="goodbye"),
        ),
        words=(5, 14),
        courteous=False,
    ),
    Kind(
        name="check",
        use_case="other",
        phrasings=_plain("Is {coloured} {colour}?", "Does a {animal} eat {feed}?"),
        words=(1, 1),
        constraints=("yes_no",),
        constraint_share=1.0,
        shape="word",
        courteous=False,
    ),
)
KIND: Final = {kind.name: kind for kind in KINDS}
