"""The words and the facts of the little world in which the demo family's prompts play.

A few hundred words, so that a transformer of about a million parameters learns to write them in a
minute, and a handful of facts, so that a right answer can be told from an invented one.
"""

from __future__ import annotations

from typing import Final

PRONOUNS: Final = {
    "Anna": "She",
    "Ben": "He",
    "Clara": "She",
    "David": "He",
    "Emma": "She",
    "Felix": "He",
    "Greta": "She",
    "Hugo": "He",
    "Ida": "She",
    "Jonas": "He",
}

# animal: (what it eats, where it lives)
ANIMAL_FACTS: Final = {
    "dog": ("meat", "yard"),
    "cat": ("fish", "house"),
    "horse": ("hay", "stable"),
    "goat": ("grass", "hill"),
    "hen": ("corn", "barn"),
    "fox": ("berries", "forest"),
    "duck": ("bread", "lake"),
    "bear": ("honey", "cave"),
    "frog": ("flies", "pond"),
    "mouse": ("cheese", "kitchen"),
}

# what: its colour
COLOUR_FACTS: Final = {
    "snow": "white",
    "grass": "green",
    "coal": "black",
    "milk": "white",
    "honey": "yellow",
    "the sky": "blue",
    "the sea": "blue",
    "a tomato": "red",
    "a lemon": "yellow",
    "a crow": "black",
}

# job: (verb, what)
JOB_FACTS: Final = {
    "baker": ("bakes", "bread"),
    "fisher": ("catches", "fish"),
    "farmer": ("grows", "corn"),
    "tailor": ("sews", "coats"),
    "cook": ("makes", "soup"),
    "singer": ("sings", "songs"),
    "builder": ("builds", "boats"),
    "writer": ("writes", "books"),
}

DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# present: past, the verbs of the rewriting prompts
PAST: Final = {
    "finds": "found",
    "sees": "saw",
    "buys": "bought",
    "loses": "lost",
    "takes": "took",
    "sells": "sold",
}

# What a slot of a template may hold. A slot's class is its name without digits ("name2": "name").
CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "name": tuple(PRONOUNS),
    "pronoun": ("She", "He"),
    "city": ("Lund", "Oslo", "Porto", "Ghent", "Basel", "Cork", "Riga", "Turin"),
    "colour": ("red", "blue", "green", "yellow", "white", "black", "brown", "grey"),
    "animal": tuple(ANIMAL_FACTS),
    "herd": ("hens", "goats", "cats", "dogs", "ducks", "cows"),
    "thing": ("hat", "ball", "lamp", "book", "coat", "boat", "cup", "key", "bag", "bell"),
    "food": ("bread", "cheese", "honey", "soup", "cake", "rice", "fish", "corn"),
    "fruit": ("apples", "pears", "plums", "nuts", "eggs", "carrots"),
    "place": ("forest", "garden", "barn", "lake", "harbour", "market", "school", "bridge"),
    "home": tuple(dict.fromkeys(home for _, home in ANIMAL_FACTS.values())),
    "feed": tuple(dict.fromkeys(food for food, _ in ANIMAL_FACTS.values())),
    "work": tuple(what for _, what in JOB_FACTS.values()),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "day": DAYS,
    "adjective": ("small", "big", "proud", "young", "brave", "quiet", "clever", "kind"),
    "event": ("picnic", "party", "trip", "concert", "dinner"),
    "job": tuple(JOB_FACTS),
    "coloured": tuple(COLOUR_FACTS),
    "verb": tuple(PAST),
    "count": ("two", "three", "four"),
    "limit": ("eight", "ten", "twelve", "twenty"),
    "topic": ("foods", "animals", "colours", "names", "cities", "things"),
}

NUMBER_OF: Final = {
    **{word: n for n, word in enumerate(CLASSES["number"], 2)},
    "one": 1,
    "ten": 10,
    "twelve": 12,
    "twenty": 20,
}

# What a list of a topic may hold.
TOPIC_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "foods": CLASSES["food"] + CLASSES["fruit"],
    "animals": CLASSES["animal"],
    "colours": CLASSES["colour"],
    "names": CLASSES["name"],
    "cities": CLASSES["city"],
    "things": CLASSES["thing"],
}

# Words that state a fact: one of these in an answer must come from the prompt or from the world.
FACT_CLASSES: Final = (
    "name",
    "city",
    "colour",
    "animal",
    "herd",
    "thing",
    "food",
    "fruit",
    "place",
    "number",
    "day",
)

OPENINGS: Final = ("Sure.", "Of course.", "Gladly.", "Here you are.")
CLOSINGS: Final = ("I hope this helps.", "Have a nice day.")
COURTESIES: Final = OPENINGS + CLOSINGS


def class_of(slot: str) -> str:
    """The class of a slot: its name without trailing digits."""
    return slot.rstrip("0123456789")


def _fact_words() -> dict[str, str]:
    table: dict[str, str] = {}
    for name in FACT_CLASSES:
        for word in CLASSES[name]:
            table.setdefault(word.lower(), name)
    return table


FACT_CLASS_OF: Final = _fact_words()  # "lund": "city"
