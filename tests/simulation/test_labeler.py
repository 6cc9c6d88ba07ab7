"""Simulated labelers: consistent with themselves, in agreement as often as the paper's."""

from app.simulation.labeler import SimulatedLabeler, measure_agreement

PROMPT = "List two foods for a trip."
COMPLETIONS = ["Sure.\n- bread\n- cake", "bread", "", "Sure.\n- bread\n- cake"]


def test_default_agreement_is_the_papers() -> None:
    """Section 3.4: 72.6 ± 1.5 % between training labelers."""
    measured = measure_agreement(1, labelers=6, prompts=200)
    assert measured.comparisons > 10_000
    assert 0.70 <= measured.rate <= 0.76
    assert 0.05 < measured.ties < 0.4


def test_without_noise_labelers_agree_more_and_with_much_noise_by_chance() -> None:
    assert measure_agreement(2, prompts=50, noise=0.0).rate > 0.85
    assert abs(measure_agreement(2, prompts=50, noise=50.0).rate - 0.5) < 0.05


def test_a_ranking_holds_each_completion_once_best_first() -> None:
    groups = SimulatedLabeler(3, noise=0.0).rank(PROMPT, COMPLETIONS)
    assert sorted(i for group in groups for i in group) == [0, 1, 2, 3]
    assert sorted(groups[0]) == [0, 3]  # equal texts tie
    assert groups[-1] == [2]


def test_tie_groups_end_at_the_tie_width() -> None:
    loose = SimulatedLabeler(3, noise=0.0, tie_width=100.0).rank(PROMPT, COMPLETIONS)
    assert [sorted(group) for group in loose] == [[0, 1, 2, 3]]


def test_the_same_labeler_judges_alike_in_any_order() -> None:
    labeler = SimulatedLabeler(5)
    forward = labeler.rank(PROMPT, COMPLETIONS[:3])
    backward = labeler.rank(PROMPT, COMPLETIONS[2::-1])
    assert [[2 - i for i in sorted(g, reverse=True)] for g in backward] == [
        sorted(g) for g in forward
    ]
    assert SimulatedLabeler(5).perceived(PROMPT, "bread") == labeler.perceived(PROMPT, "bread")
    assert SimulatedLabeler(6).perceived(PROMPT, "bread") != labeler.perceived(PROMPT, "bread")


def test_ratings_follow_quality() -> None:
    labeler = SimulatedLabeler(7, noise=0.0)
    good = labeler.rate(PROMPT, COMPLETIONS[0])
    bad = labeler.rate(PROMPT, "")
    assert good.overall >= 6
    assert bad.overall == 1
    assert good.metadata["satisfies_constraint"] is None


def test_demonstrations_are_the_labelers_own_and_repeatable() -> None:
    labeler = SimulatedLabeler(8, skill=0.5)
    assert labeler.demonstrate(PROMPT) == SimulatedLabeler(8, skill=0.5).demonstrate(PROMPT)
    others = {SimulatedLabeler(seed).demonstrate(PROMPT) for seed in range(20)}
    assert len(others) > 5
