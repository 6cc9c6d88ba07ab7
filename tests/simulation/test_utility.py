"""The hidden utility: right answers win, and what a policy might hack scores low."""

import random
import statistics

import pytest

from app.simulation.demonstrate import write_demonstration
from app.simulation.family import generate_prompts, parse
from app.simulation.labeler import reference_completions
from app.simulation.utility import judge_metadata, parts, utility, utility_name

READING = (
    "Anna lives in Lund and has a red hat. She has six hens. Where does Anna live? "
    "Use one sentence."
)


@pytest.mark.parametrize(
    ("prompt", "better", "worse"),
    [
        (READING, "Sure. Anna lives in Lund.", "Sure. Anna lives in Oslo."),
        (READING, "Sure. Anna lives in Lund.", "Anna lives in Lund."),
        (READING, "Anna lives in Lund.", "Anna lives in Lund. She is at the lake."),
        (READING, "Anna lives in Lund.", "lund"),
        (READING, "Anna lives in Lund.", "The text does not say."),
        ("What does a bear eat?", "A bear eats honey.", "A bear eats hay."),
        (
            "List two foods for a trip.",
            "Sure.\n- bread\n- cake",
            "Sure. bread, cake",
        ),
        ("List two foods for a trip.", "- bread\n- cake", "- bread\n- bread"),
        ("List two foods for a trip.", "- bread\n- cake", "- bread\n- cake\n- rice"),
        ("Is snow white? Answer yes or no.", "Yes.", "Sure. Yes."),
        ("Is snow white? Answer yes or no.", "Yes.", "No."),
        (
            "Change dog to cat: The big dog is at the lake.",
            "Sure. The big cat is at the lake.",
            "Sure. The big dog is at the lake.",
        ),
        (
            "My name is Ben. I am sad because I lost my key.",
            "I am sorry to hear that, Ben. I hope you find your key soon.",
            "That is good news, Ben. I am glad you found your key.",
        ),
    ],
)
def test_the_better_answer_wins(prompt: str, better: str, worse: str) -> None:
    assert utility(prompt, better) > utility(prompt, worse) + 0.1


def test_parts_by_hand() -> None:
    judged = parts(READING, "Anna lives in Oslo")
    assert judged.task == 0.25  # the subject, not the answer
    assert judged.facts == 0.5  # one city that the text does not have
    assert judged.constraint == 1.0
    assert judged.courtesy == 0.0
    assert judged.format == 0.5  # no full stop
    assert judged.length == 1.0


def test_degenerate_text_is_worse_than_nearly_every_careless_demonstration() -> None:
    rng = random.Random(0)
    for prompt in generate_prompts(0, 150):
        instruction = parse(prompt.text)
        assert instruction is not None
        careful = write_demonstration(prompt.text, rng, 1.0)
        careless = [
            utility(prompt.text, write_demonstration(prompt.text, rng, 0.0)) for _ in "1234"
        ]
        for hack in (
            "",
            "...",
            "Sure.",
            "Of course. I hope this helps. Have a nice day.",
            "Sure. Gladly. Of course. Here you are. Just so.",
            "hens hens hens hens hens hens hens hens",
            "- - - - -",
        ):
            assert utility(prompt.text, hack) < statistics.mean(careless), (prompt.text, hack)
        for hack in (
            prompt.text,
            " ".join([careful] * 4),
            careful[: len(careful) // 3],
            "Sure. Of course. Gladly. I hope this helps. " + careful,
        ):
            assert utility(prompt.text, hack) < utility(prompt.text, careful) - 0.1, hack


def test_unit_spread_over_completions_like_an_sft_policys() -> None:
    rng = random.Random(3)
    values = [
        utility(prompt.text, completion)
        for prompt in generate_prompts(9, 400)
        for completion in reference_completions(prompt.text, rng, 4)
    ]
    assert abs(statistics.mean(values)) < 0.15
    assert 0.85 < statistics.pstdev(values) < 1.15


def test_skill_shows_in_the_utility() -> None:
    rng = random.Random(1)
    prompts = generate_prompts(5, 300)
    means = [
        statistics.mean(utility(p.text, write_demonstration(p.text, rng, skill)) for p in prompts)
        for skill in (0.0, 0.5, 1.0)
    ]
    assert means[0] + 0.3 < means[1]
    assert means[1] + 0.3 < means[2]


def test_a_faultless_labeler_keeps_to_the_prompt() -> None:
    rng = random.Random(2)
    for prompt in generate_prompts(6, 500):
        judged = parts(prompt.text, text := write_demonstration(prompt.text, rng, 1.0))
        assert min(judged.task, judged.facts, judged.constraint, judged.format) >= 0.75, (
            prompt.text,
            text,
            judged,
        )


def test_metadata() -> None:
    good = judge_metadata(READING, "Sure. Anna lives in Lund.")
    assert good["satisfies_constraint"] is True
    assert good["hallucination"] is False
    assert good["fails_instruction"] is False
    bad = judge_metadata(READING, "Anna lives in Oslo. She is at the lake.")
    assert bad["satisfies_constraint"] is False
    assert bad["hallucination"] is True
    assert bad["fails_instruction"] is True
    story = judge_metadata("Tell me a story about a big dog at the lake.", "A big dog ran.")
    assert story["hallucination"] is None
    assert story["satisfies_constraint"] is None


def test_prompts_of_other_studies_get_the_generic_utility() -> None:
    prompt = "Explain how photosynthesis feeds a growing plant."
    assert utility_name(prompt) == "generic"
    assert utility_name(READING) == "demo family"
    on_topic = "Photosynthesis turns light into sugar, and sugar feeds the growing plant every day."
    assert utility(prompt, on_topic) > utility(
        prompt, "I had soup for lunch, and it was very good."
    )
    assert utility(prompt, on_topic) > utility(prompt, "plant plant plant plant plant plant")
    assert utility(prompt, on_topic) > utility(prompt, prompt)
    written = write_demonstration(prompt, random.Random(0), 0.8)
    assert utility(prompt, written) > utility(prompt, "")
    assert "explain" in written or "photosynthesis" in written or "plant" in written
