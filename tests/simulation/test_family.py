"""The demo family: prompts that say all they ask for, from users with tastes of their own."""

import random
import re
from collections import Counter

import pytest

from app.simulation.corpus import starter_texts
from app.simulation.family import Constraint, draw_prompt, generate_prompts, parse
from app.simulation.kinds import KINDS


def test_thousands_of_distinct_prompts_over_all_ten_use_cases() -> None:
    prompts = generate_prompts(0, 3000, users=60)
    assert len({p.text for p in prompts}) == 3000
    assert len({p.use_case for p in prompts}) == 10
    assert len({p.source_user for p in prompts}) == 60
    assert {p.kind for p in prompts} == {kind.name for kind in KINDS}


def test_same_seed_same_prompts() -> None:
    assert generate_prompts(4, 50) == generate_prompts(4, 50)
    assert generate_prompts(4, 50) != generate_prompts(5, 50)


def test_users_have_different_tastes() -> None:
    by_user: dict[str, Counter[str]] = {}
    for prompt in generate_prompts(1, 2000, users=12):
        by_user.setdefault(prompt.source_user, Counter())[prompt.use_case] += 1
    assert len({counts.most_common(1)[0][0] for counts in by_user.values()}) >= 3


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_prompt_is_read_back_from_its_text(kind) -> None:
    rng = random.Random(kind.name)
    for _ in range(100):
        instruction = parse(draw_prompt(rng, kind))
        assert instruction is not None
        assert instruction.kind is kind


def test_parse_reads_slots_and_constraint() -> None:
    instruction = parse("List three foods for a picnic. Do not use the word cheese.")
    assert instruction is not None
    assert dict(instruction.slots) == {"count": "three", "topic": "foods", "event": "picnic"}
    assert instruction.constraint == Constraint("without", "cheese")


def test_a_prompt_of_another_family_is_not_parsed() -> None:
    assert parse("Explain the moon landing to a six year old.") is None


def test_prompts_stay_short() -> None:
    longest = max(len(re.findall(r"\w+|[^\w\s]", p.text)) for p in generate_prompts(2, 1000))
    assert longest <= 45


@pytest.mark.parametrize(
    ("constraint", "kept", "broken"),
    [
        (
            Constraint("at_most", "eight"),
            "Sure. One two three four five six seven eight.",
            "a " * 9,
        ),
        (Constraint("sentences"), "Gladly. It ran. It slept.", "It ran."),
        (Constraint("one_sentence"), "It ran. I hope this helps.", "It ran. It slept."),
        (Constraint("without", "red"), "A blue hat.", "A Red hat."),
        (Constraint("one_word"), "Sad.", "Sure. Sad."),
        (Constraint("yes_no"), "Yes.", "Maybe."),
    ],
)
def test_constraints(constraint: Constraint, kept: str, broken: str) -> None:
    assert constraint.met(kept)
    assert not constraint.met(broken)


def test_corpus_is_deterministic_varied_and_of_few_words() -> None:
    texts = list(starter_texts(7, 4000))
    assert texts == list(starter_texts(7, 4000))
    assert len(set(texts)) > 3000
    assert len({w for t in texts for w in re.findall(r"\w+", t.lower())}) < 600


def test_corpus_answers_its_instructions_only_sometimes() -> None:
    pages = [t.split("\n\n") for t in starter_texts(8, 4000)]
    followed = [page[1] for page in pages if len(page) > 1 and parse(page[0])]
    answered = sum(parse(after) is None for after in followed) / len(followed)
    assert 0.3 < answered < 0.9
