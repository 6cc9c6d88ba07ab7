"""crossvalidate: does a reward model learn more than the taste of the labelers that it read?

As in the paper (section 4.1): the labelers of a run are divided into groups; for
each a reward model is trained on the rankings of all the others, and is tested on validation
prompts, once on the group that it has not read and once on those that it has. Prompts of both tests
are new to it, so that labelers are the only difference.

Each fold is trained with as many seeds as are asked for (the paper: three), from the run's own on;
its share is their mean. Each is a run of kind "reward" in RUN_DIR/crossvalidation, which is where a
stopped command goes on. An ensemble's members are left out: they would change nothing but the time.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from trainer.config import RewardConfig
from trainer.contract import (
    CHECKPOINTS,
    CROSSVALIDATION,
    DATA,
    MODEL,
    RESULT,
    SPEC,
    ContractError,
    RankingRecord,
    RunResult,
    RunSpec,
    check_inputs,
    inputs_of,
    read_result,
    read_spec,
    write_json,
    write_records,
)
from trainer.data import load_records
from trainer.metrics import writing
from trainer.models import load_tokenizer, model_source
from trainer.processes import Processes
from trainer.run import Run

FOLDS = "crossvalidation"


def labeler_groups(records: Sequence[RankingRecord], count: int) -> list[set[str]]:
    """Labelers in `count` groups of about as many rankings: the largest goes to the smallest group.

    Raises ContractError where there are fewer labelers, or nothing to train or test a fold on.
    """
    if count < 2:
        raise ContractError(f"{count} groups of labelers: 2 are the least")
    rankings = Counter(record.labeler for record in records)
    if len(rankings) < count:
        raise ContractError(
            f"the rankings are of {len(rankings)} labelers, too few for {count} groups: "
            "ask for fewer with --groups"
        )
    groups: list[set[str]] = [set() for _ in range(count)]
    sizes = [0] * count
    for labeler, number in sorted(rankings.items(), key=lambda item: (-item[1], item[0])):
        smallest = sizes.index(min(sizes))
        groups[smallest].add(labeler)
        sizes[smallest] += number
    compared = [record for record in records if len(record.groups) > 1]
    for group in groups:
        names = ", ".join(sorted(group))
        if not any(r.split == "valid" and r.labeler in group for r in compared):
            raise ContractError(f"{names}: no ranking of split 'valid'; ask for fewer --groups")
        if not any(r.split == "train" and r.labeler not in group for r in compared):
            raise ContractError(f"without {names} there is no ranking of split 'train'")
    return groups


def crossvalidate(run_dir: Path, groups: int = 5, seeds: int = 1) -> None:
    """Train and test all folds of a run of kind "reward"; print the table and write it.

    Raises ContractError for labelers that cannot be divided so, and for less than one seed.
    """
    if seeds < 1:
        raise ContractError(f"{seeds} seeds: 1 is the least")
    run = Run.open(run_dir)
    spec, processes = run.spec, run.processes
    config = run.configure(RewardConfig)
    encoder = run.encoder(load_tokenizer(model_source(spec, "init")), config)
    records = load_records(run_dir, spec, "rankings", RankingRecord)
    records, _ = run.fitting(encoder, records, "rankings")
    folds: list[dict[str, Any]] = []
    for number, group in enumerate(labeler_groups(records, groups), 1):
        if processes.main:
            print(f"fold {number} of {groups}: without {', '.join(sorted(group))}", flush=True)
        results = []
        for again in range(seeds):
            name = f"{number}_of_{groups}" + (f"_again_{again}" if again else "")
            seeded = replace(spec, seed=spec.seed + again)
            results.append(_fold(processes, run_dir / FOLDS / name, seeded, records, group))
        folds.append(fold_figures(results, group))
    if processes.main:
        table = summary(folds)
        with writing(run_dir / CROSSVALIDATION):
            write_json(run_dir / CROSSVALIDATION, table)
        print(as_text(table), flush=True)


def _fold(
    processes: Processes,
    directory: Path,
    spec: RunSpec,
    records: Sequence[RankingRecord],
    group: set[str],
) -> RunResult:
    """The result of the fold, from an earlier start of the command where it got so far."""
    from trainer.reward import train_reward

    models = {name: source for name, source in spec.models.items() if name == "init"}
    fold = replace(
        spec,
        config={**spec.config, "members": 1},
        models=models,
        data={"rankings": "rankings.jsonl"},
        about={},
    )
    if (directory / SPEC).exists() and read_spec(directory) != fold:
        raise ContractError(f"{directory}: of another spec.json; remove it to start over")
    processes.wait()
    if processes.main:
        with writing(directory):
            (directory / DATA).mkdir(parents=True, exist_ok=True)
            chosen = (r for r in records if r.split == "valid" or r.labeler not in group)
            write_records(directory / DATA / "rankings.jsonl", chosen)
            write_json(directory / SPEC, fold.to_json())
    processes.wait()
    result = read_result(directory)
    if result is not None:
        made = directory / RESULT
        check_inputs(result.inputs, inputs_of(directory, fold), made, str(directory))
    else:
        train_reward(directory)
        processes.wait()
        result = read_result(directory)
        assert result is not None
    if processes.main:
        for part in (MODEL, CHECKPOINTS):  # only the figures are wanted
            shutil.rmtree(directory / part, ignore_errors=True)
    return result


def fold_figures(results: Sequence[RunResult], group: set[str]) -> dict[str, Any]:
    """A fold's accuracy on its group and on the other labelers, from its figures by labeler.

    results are those of its seeds, of whose shares it is the mean.
    """
    labelers = {row["name"] for row in results[0].figures["by_labeler"]}
    fold: dict[str, Any] = {"labelers": len(group), "seeds": len(results)}
    for part, names in (("held_out", group), ("own", labelers - group)):
        rows = [r for result in results for r in result.figures["by_labeler"] if r["name"] in names]
        comparisons = sum(r["comparisons"] for r in rows)
        won = sum(r["rate"] * r["comparisons"] for r in rows)
        fold[part] = {"rate": won / comparisons, "comparisons": comparisons // len(results)}
    return fold


def summary(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{"folds", "held_out", "own"}, the last two with their mean over folds and standard error."""
    table: dict[str, Any] = {"folds": list(folds)}
    for part in ("held_out", "own"):
        rates = [fold[part]["rate"] for fold in folds]
        error = stdev(rates) / math.sqrt(len(rates))
        table[part] = {"mean": fmean(rates), "standard_error": error}
    return table


def as_text(table: dict[str, Any]) -> str:
    """The table for a terminal; the paper's figures below it."""
    seeds = table["folds"][0]["seeds"]
    lines = [] if seeds == 1 else [f"Each share is the mean of {seeds} seeds."]
    lines += ["fold  labelers  held-out labelers     own labelers"]
    for number, fold in enumerate(table["folds"], 1):
        shown = [
            f"{fold[part]['rate']:7.1%} of {fold[part]['comparisons']:<7}"
            for part in ("held_out", "own")
        ]
        lines.append(f"{number:4}  {fold['labelers']:8}  {shown[0]:20}  {shown[1]}")
    for part, name in (("held_out", "held-out"), ("own", "own")):
        mean, error = table[part]["mean"], table[part]["standard_error"]
        lines.append(f"{name} labelers: {100 * mean:.1f} ± {100 * error:.1f} %")
    lines.append("InstructGPT (section 4.1): held-out 69.6 ± 0.9 %, own 72.4 ± 0.4 %")
    return "\n".join(lines)
