"""Cross-validation of labelers: the groups, the sums, and the command on a run that trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import MakeRun, rankings, start_trainer
from trainer.contract import ContractError, RankingRecord, RunResult
from trainer.crossvalidate import as_text, crossvalidate, fold_figures, labeler_groups, summary


def records(*labelers: str, valid: str = "") -> list[RankingRecord]:
    """A ranking of split train for each letter, and one of split valid for those of `valid`."""
    return [
        RankingRecord(
            ranking_id=number,
            prompt_id=number,
            prompt="?",
            completions=["a", "b"],
            groups=[[0], [1]],
            split=split,  # type: ignore[arg-type]
            labeler=labeler,
        )
        for split, names in (("train", labelers), ("valid", tuple(valid)))
        for number, labeler in enumerate(names)
    ]


def test_groups_have_about_as_many_rankings() -> None:
    given = records(*"aaaaabbbcccdd", valid="abcd")  # with valid: 6, 4, 4, 3
    assert labeler_groups(given, 2) == [{"a", "d"}, {"b", "c"}]
    assert labeler_groups(given, 3) == [{"a"}, {"b", "d"}, {"c"}]


@pytest.mark.parametrize(
    ("given", "groups", "message"),
    [
        (records(*"ab", valid="ab"), 1, "2 are the least"),
        (records(*"ab", valid="ab"), 3, "of 2 labelers, too few for 3 groups"),
        (records(*"ab", valid="a"), 2, "b: no ranking of split 'valid'"),
        (records("a", valid="ab"), 2, "without a there is no ranking of split 'train'"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    given: list[RankingRecord], groups: int, message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        labeler_groups(given, groups)


def result(**rates: tuple[float, int]) -> RunResult:
    shares = [{"name": n, "rate": r, "comparisons": c} for n, (r, c) in rates.items()]
    return RunResult(kind="reward", figures={"by_labeler": shares})


def test_mean_and_standard_error_over_folds_by_hand() -> None:
    found = result(a=(0.5, 10), b=(0.8, 10), c=(0.6, 30))
    folds = [fold_figures([found], {"a"}), fold_figures([found], {"b", "c"})]
    assert folds[0]["held_out"] == {"rate": 0.5, "comparisons": 10}
    assert folds[0]["own"] == {"rate": pytest.approx((8 + 18) / 40), "comparisons": 40}
    table = summary(folds)
    # Held out: 0.5 and 0.65, so that the standard deviation is 0.15 / sqrt 2.
    assert table["held_out"] == {
        "mean": pytest.approx(0.575),
        "standard_error": pytest.approx(0.15 / 2),
    }
    assert "held-out labelers: 57.5 ± 7.5 %" in as_text(table)
    again = fold_figures([found, result(a=(0.7, 10), b=(0.6, 10), c=(0.6, 30))], {"a"})
    assert again["held_out"] == {"rate": pytest.approx(0.6), "comparisons": 10}
    assert again["own"]["rate"] == pytest.approx((8 + 18 + 6 + 18) / 80)
    assert "the mean of 2 seeds" in as_text(summary([again, again]))


def labeled_run(base_run: Path, make_run: MakeRun, **config: Any) -> Path:
    """Labelers a and b prefer cats; c the other way round. All rank all prompts."""
    data = []
    for labeler in "abc":
        for record in rankings():
            groups = record["groups"][::-1] if labeler == "c" else record["groups"]
            data.append({**record, "labeler": labeler, "groups": groups})
    return make_run(
        "reward",
        kind="reward",
        models={"init": str(base_run / "model")},
        data={"rankings": data},
        config={"learning_rate": 3e-3, "epochs": 4, **config},
    )


@pytest.mark.train
def test_the_command_finds_the_labeler_who_differs(base_run: Path, make_run: MakeRun) -> None:
    run = labeled_run(base_run, make_run)
    crossvalidate(run, groups=3)
    table = json.loads((run / "crossvalidation.json").read_text())
    held_out = [fold["held_out"]["rate"] for fold in table["folds"]]
    assert held_out[2] < 0.1  # c, by a model that learned of a and b that cats are good
    assert table["folds"][2]["own"]["rate"] > 0.9
    assert all(fold["held_out"]["comparisons"] == 4 * 9 for fold in table["folds"])
    folds = sorted((run / "crossvalidation").iterdir())
    assert [fold.name for fold in folds] == ["1_of_3", "2_of_3", "3_of_3"]
    assert all((fold / "result.json").exists() for fold in folds)
    assert not any((fold / "model").exists() for fold in folds)

    for fold in folds[1:]:
        (fold / "result.json").unlink()
    (run / "crossvalidation.json").unlink()
    kept = (folds[0] / "metrics.jsonl").read_text()
    crossvalidate(run, groups=3)
    assert json.loads((run / "crossvalidation.json").read_text()) == table
    assert (folds[0] / "metrics.jsonl").read_text() == kept

    crossvalidate(run, groups=3, seeds=2)
    twice = json.loads((run / "crossvalidation.json").read_text())
    assert [fold["seeds"] for fold in twice["folds"]] == [2, 2, 2]
    assert (folds[0] / "metrics.jsonl").read_text() == kept
    again = json.loads((run / "crossvalidation" / "1_of_3_again_1" / "spec.json").read_text())
    assert again["seed"] == 1
    with pytest.raises(ContractError, match="1 is the least"):
        crossvalidate(run, groups=3, seeds=0)

    path = run / "data" / "rankings.jsonl"
    ranked = path.read_text()
    records = [json.loads(line) for line in ranked.splitlines()]
    reversed_ = [{**record, "groups": record["groups"][::-1]} for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in reversed_))
    with pytest.raises(ContractError, match=r"made with another data/rankings\.jsonl"):
        crossvalidate(run, groups=3)
    path.write_text(ranked)
    crossvalidate(run, groups=3)  # what it was not told to forget is there

    spec = json.loads((run / "spec.json").read_text())
    (run / "spec.json").write_text(json.dumps({**spec, "seed": 5}))
    with pytest.raises(ContractError, match=r"of another spec\.json; remove it"):
        crossvalidate(run, groups=3)


@pytest.mark.train
def test_a_labeler_of_too_long_prompts_alone_is_refused_before_a_fold_is_trained(
    base_run: Path, make_run: MakeRun
) -> None:
    run = labeled_run(base_run, make_run, max_prompt_tokens=30)
    path = run / "data" / "rankings.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["labeler"] == "a" and record["split"] == "valid":
            record["prompt"] = "Name a red cat, " * 9
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(ContractError, match="a: no ranking of split 'valid'"):
        crossvalidate(run, groups=3)
    assert not (run / "crossvalidation").exists()


@pytest.mark.train
def test_the_command_line_refuses_in_plain_words(base_run: Path, make_run: MakeRun) -> None:
    run = labeled_run(base_run, make_run)
    output = start_trainer("crossvalidate", run).communicate()[0]
    assert "the rankings are of 3 labelers, too few for 5 groups" in output
    assert "Traceback" not in output
    other = start_trainer("crossvalidate", base_run).communicate()[0]
    assert "its spec is of kind base" in other
