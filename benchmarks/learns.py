"""Does PPO learn, and what does it forget? python -m benchmarks.learns [--out DIR] [--seeds N]

The paper's pipeline on a small scale, on the task of `benchmarks/known_optimum.py`: a base model of
the demo's pretraining text, SFT with 10 % pretraining mixed in, then PPO with gamma = 0 and with
the paper's 27.8, seed by seed. Along each run: the mean score, whose optimum is 1, and the loss on
pretraining text that was held out. It prints a table and one JSON line, and draws
docs/charts/known-optimum.svg and docs/charts/alignment-tax.svg. Its status is 1 where a run ends
below 95 % of the optimum, where the loss does not rise with gamma = 0, or leaves 5 % with 27.8.

As in the paper: gamma, 8 pretraining examples an episode, beta = 0.02. Scaled down: the model
(width 64, 2 layers), examples of 64 tokens instead of 2,048, 2,560 episodes instead of 256,000, and
a learning rate such as a model of this size needs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.simulation.corpus import starter_texts
from benchmarks.chart import Line, line_chart
from benchmarks.known_optimum import ANIMALS, OPTIMUM, PROMPTS, Task, answers
from trainer.contract import (
    DATA,
    LOG,
    METRICS,
    MODEL,
    PPO_HELD_OUT_LOSS,
    PPO_SCORE,
    SPEC,
    RunSpec,
    read_result,
    write_json,
)

CHARTS = Path(__file__).parents[1] / "docs" / "charts"
GAMMAS = (0.0, 27.8)
EPISODES = 64  # an iteration
BASE = {"width": 64, "heads": 2, "row_tokens": 64, "batch_rows": 16, "steps": 8000}
SFT = {
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "pretraining_fraction": 0.5,
    "pretraining_rows": 16,
    "pretraining_tokens": 64,
}
PPO = {
    "episodes": 40 * EPISODES,
    "batch_episodes": EPISODES,
    "minibatches": 4,
    "max_completion_tokens": 8,
    "policy_learning_rate": 1e-3,
    "value_learning_rate": 1e-3,
    "warmup_iterations": 2,
    "kl_coefficient": 0.02,
    "ptx_examples_per_episode": 8,
    "ptx_tokens": 64,
    "ptx_held_out": 128,
    "ema_decay": 0.9,
}


def run(directory: Path, data: dict[str, list[dict[str, Any]]], **spec: Any) -> Path:
    """The trainer in a run directory that is not finished yet; returns it."""
    if read_result(directory) is not None:
        return directory
    (directory / DATA).mkdir(parents=True, exist_ok=True)
    for name, records in data.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (directory / DATA / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    made = RunSpec(preset="starter", data={name: f"{name}.jsonl" for name in data}, **spec)
    write_json(directory / SPEC, made.to_json())
    with (directory / LOG).open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "trainer", made.kind, str(directory)],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    return directory


def figures_of(run_dir: Path, key: str) -> list[float]:
    """One figure of a PPO run, iteration by iteration."""
    lines = (run_dir / METRICS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["values"][key] for line in lines]


def played(out: Path, seeds: int) -> dict[float, list[Path]]:
    """The finished PPO runs of each gamma."""
    texts = [{"text": text} for text in starter_texts(0, 20_000)]
    base = run(out / "base", {"pretraining": texts}, kind="base", config=BASE) / MODEL
    demonstrations = [
        {
            "prompt_id": list(PROMPTS).index(prompt),
            "prompt": prompt,
            "completion": answer,
            "split": "train",
            "labeler": "a",
            "demonstration_id": i,
        }
        for i, (prompt, answer) in enumerate(answers(2000))
    ]
    data = {"demonstrations": demonstrations, "pretraining": texts}
    sft = run(out / "sft", data, kind="sft", config=SFT, models={"init": str(base)}) / MODEL

    from trainer.models import load_tokenizer

    tokenizer = load_tokenizer(str(sft))
    task = Task.of(tokenizer, [f" {animal}" for animal in ANIMALS])
    task.save_reward_model(out / "reward", tokenizer)
    prompts = [{"prompt_id": i, "prompt": p, "split": "train"} for i, p in enumerate(PROMPTS)]
    return {
        gamma: [
            run(
                out / f"ppo-{gamma}-{seed}",
                {"prompts": prompts, "pretraining": texts},
                kind="ppo",
                seed=seed,
                config={**PPO, "ptx_coefficient": gamma},
                models={"init": str(sft), "reference": str(sft), "reward": str(out / "reward")},
            )
            for seed in range(seeds)
        ]
        for gamma in GAMMAS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, help="keep the runs here, and go on from those there")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        runs = played((given.out or Path(temporary)).resolve(), given.seeds)
        scores = {g: [figures_of(r, PPO_SCORE) for r in runs[g]] for g in GAMMAS}
        losses = {g: [figures_of(r, PPO_HELD_OUT_LOSS) for r in runs[g]] for g in GAMMAS}
    taxes = {g: [[100 * (x / row[0] - 1) for x in row] for row in losses[g]] for g in GAMMAS}
    draw(scores, taxes)
    print(f"{'gamma':>6}{'seed':>5}  score: first  last 5  of the way   loss: first  last 5   rise")
    table = []
    for gamma in GAMMAS:
        for seed in range(given.seeds):
            score, loss = scores[gamma][seed], losses[gamma][seed]
            end, loss_end = sum(score[-5:]) / 5, sum(loss[-5:]) / 5
            way = (end - score[0]) / (OPTIMUM - score[0])
            rise = loss_end / loss[0] - 1
            print(
                f"{gamma:>6}{seed:>5}{score[0]:>14.3f}{end:>8.3f}{way:>12.1%}"
                f"{loss[0]:>15.3f}{loss_end:>8.3f}{rise:>7.1%}"
            )
            row = {"gamma": gamma, "seed": seed, "score": end, "of_the_way": way, "loss_rise": rise}
            table.append({key: round(value, 4) for key, value in row.items()})
    print(json.dumps({"bench": "learns", "optimum": OPTIMUM, "runs": table}))
    if any(row["score"] < 0.95 * OPTIMUM for row in table):
        raise SystemExit("a policy ended below 95 % of the optimum")
    rises = [(row["gamma"], row["loss_rise"]) for row in table]
    if any(rise <= 0 if gamma == 0 else abs(rise) > 0.05 for gamma, rise in rises):
        raise SystemExit("the loss on pretraining text is not what the paper leads one to expect")


def draw(scores: dict[float, list[list[float]]], taxes: dict[float, list[list[float]]]) -> None:
    """Both charts, a line a seed."""
    names = {0.0: "γ = 0", 27.8: "γ = 27.8, the paper's"}

    def lines(series: dict[float, list[list[float]]]) -> list[Line]:
        return [
            Line(names[gamma], [EPISODES * i for i in range(len(row))], row)
            for gamma in GAMMAS
            for row in series[gamma]
        ]

    line_chart(
        CHARTS / "known-optimum.svg",
        "Mean score of an iteration, where the optimum is known",
        lines(scores),
        x="episodes",
        y="score",
        marks={"optimum": OPTIMUM, "95 % of it": 0.95 * OPTIMUM},
        low=0.5,
    )
    line_chart(
        CHARTS / "alignment-tax.svg",
        "Loss on held-out pretraining text, against that of the SFT policy",
        lines(taxes),
        x="episodes",
        y="rise, %",
        marks={"+5 %": 5.0, "−5 %": -5.0},
    )


if __name__ == "__main__":
    main()
