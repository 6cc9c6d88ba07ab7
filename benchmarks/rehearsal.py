"""A whole round without the web app: python -m benchmarks.rehearsal --seed 0 [--out DIR].

Corpus, base model, demonstrations, SFT, samples, simulated rankings, reward model, PPO-ptx, and a
blind evaluation of base, SFT and PPO by held-out simulated labelers. It prints the time of every
stage, the reward model's accuracy beside the labelers' agreement, the hidden utility of each
policy's completions, and the win rates with 95 % intervals clustered by prompt. The utility is
printed only: what training sees are demonstrations and rankings. Sizes are the demo round's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.simulation.corpus import starter_texts
from app.simulation.family import DemoPrompt, generate_prompts
from app.simulation.labeler import SimulatedLabeler
from app.simulation.utility import parts, utility
from app.stats.agreement import agreement
from app.stats.proportion import Proportion
from app.stats.winrate import win_rate
from trainer.contract import (
    COMPLETIONS,
    DATA,
    LOG,
    PPO_KL,
    PPO_SCORE,
    RM_ACCURACY,
    RM_ACCURACY_HIGH,
    RM_ACCURACY_LOW,
    RM_LONGER_WINS,
    RM_PAIRS,
    SFT_VALID_LOSS,
    SPEC,
    CompletionRecord,
    DemonstrationRecord,
    PromptRecord,
    RankingRecord,
    RunKind,
    RunResult,
    RunSpec,
    SampleRequest,
    Split,
    TextRecord,
    _Record,
    read_records,
    read_result,
    write_json,
)

POLICIES = ("base", "sft", "ppo-ptx")
USERS = 60
RL_INIT = "rl-init"  # the run of kind sft that PPO starts from, and its overrides


@dataclass(frozen=True)
class Prompt:
    """A prompt of the study with its split; all prompts of a source user share one split."""

    prompt_id: int
    demo: DemoPrompt
    split: Split

    @property
    def text(self) -> str:
        return self.demo.text


def split_of(user: str) -> Split:
    """10 of 60 users are for validation, 15 for the test."""
    number = int(user.removeprefix("user-"))
    return "valid" if number % 6 == 0 else "test" if number % 4 == 1 else "train"


@dataclass
class Rehearsal:
    """One round in one directory; `overrides` are configuration values by kind."""

    out: Path
    seed: int
    threads: int
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    def run(
        self,
        kind: RunKind,
        name: str,
        models: dict[str, Path],
        data: dict[str, Iterable[_Record]],
        *,
        preset: str = "starter",
    ) -> Path:
        """Write a run directory, run the trainer in it, return it."""
        run_dir = self.out / name
        if read_result(run_dir) is not None:
            self.seconds[name] = self.cpu_seconds[name] = 0.0
            return run_dir  # made before: a rehearsal that was stopped goes on
        (run_dir / DATA).mkdir(parents=True, exist_ok=True)
        for key, records in data.items():
            lines = (json.dumps(record.to_json(), ensure_ascii=False) for record in records)
            (run_dir / DATA / f"{key}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        spec = RunSpec(
            kind=kind,
            seed=self.seed,
            preset=preset,
            config=self.overrides.get(RL_INIT if name == RL_INIT else kind, {}),
            models={key: str(path) for key, path in models.items()},
            data={key: f"{key}.jsonl" for key in data},
        )
        write_json(run_dir / SPEC, spec.to_json())
        began, used = time.monotonic(), children_cpu_seconds()
        with (run_dir / LOG).open("w") as log:
            done = subprocess.run(
                [sys.executable, "-m", "trainer", kind, str(run_dir)],
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"{name} failed: {(run_dir / LOG).read_text()[-2000:]}")
        self.seconds[name] = time.monotonic() - began
        self.cpu_seconds[name] = children_cpu_seconds() - used
        print(
            f"{name:<16}{self.seconds[name]:6.1f} s, CPU {self.cpu_seconds[name]:6.1f} s",
            flush=True,
        )
        return run_dir

    def sample(
        self, name: str, models: dict[str, Path], requests: Sequence[SampleRequest]
    ) -> dict[tuple[int, str], list[CompletionRecord]]:
        """Completions by prompt and policy, in the order they were sampled."""
        run_dir = self.run("sample", name, models, {"requests": requests})
        found: dict[tuple[int, str], list[CompletionRecord]] = {}
        for record in read_records(run_dir / COMPLETIONS, CompletionRecord):
            found.setdefault((record.prompt_id, record.policy), []).append(record)
        return found


def children_cpu_seconds() -> float:
    """CPU seconds of all processes that ended below this one: steadier than the clock's."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def result_of(run_dir: Path) -> RunResult:
    result = read_result(run_dir)
    assert result is not None, run_dir
    return result


def demonstration(prompt: Prompt, labeler: SimulatedLabeler) -> DemonstrationRecord:
    return DemonstrationRecord(
        prompt_id=prompt.prompt_id,
        prompt=prompt.text,
        completion=labeler.demonstrate(prompt.text),
        split=prompt.split,
        labeler=f"labeler-{labeler.seed}",
        demonstration_id=prompt.prompt_id,
    )


def tiers(groups: list[list[int]]) -> dict[Hashable, int]:
    """The tier of each completion, 0 the best."""
    return {i: tier for tier, group in enumerate(groups) for i in group}


def interval(value: Proportion | None) -> str:
    assert value is not None
    return f"{100 * value.rate:.1f} % [{100 * value.low:.1f}, {100 * value.high:.1f}], n={value.n}"


def rehearse(rehearsal: Rehearsal, sizes: argparse.Namespace) -> None:
    """Play one round and print its figures."""
    seed = rehearsal.seed
    rng = random.Random(f"rehearsal {seed}")
    demos = generate_prompts(seed, sizes.prompts, users=USERS)
    prompts = [Prompt(i, demo, split_of(demo.source_user)) for i, demo in enumerate(demos)]
    train = [p for p in prompts if p.split == "train"]
    valid = [p for p in prompts if p.split == "valid"]
    test = [p for p in prompts if p.split == "test"][: sizes.test]
    team = [SimulatedLabeler(100 * seed + i) for i in range(6)]
    held_out = [SimulatedLabeler(100 * seed + 50 + i) for i in range(2)]

    texts = [TextRecord(text=text) for text in starter_texts(seed, sizes.documents)]
    base = rehearsal.run("base", "base", {}, {"pretraining": texts}) / "model"

    demonstrated = train[: sizes.demonstrations] + valid[:60]
    demonstrations = [demonstration(p, rng.choice(team)) for p in demonstrated]
    run_dir = rehearsal.run("sft", "sft", {"init": base}, {"demonstrations": demonstrations})
    sft = run_dir / "model"
    print(f"  validation loss {result_of(run_dir).metrics[SFT_VALID_LOSS]:.3f} nats/token")

    # Rankings on other prompts than the demonstrations', as far as there are; about a third of a
    # prompt's completions are the base policy's.
    ranked = train[-sizes.rankings :] + valid[-80:]
    requests = []
    for p in ranked:
        k = rng.randint(4, 9)
        for policy, n in (("sft", k - round(k / 3)), ("base", round(k / 3))):
            requests.append(SampleRequest(prompt_id=p.prompt_id, prompt=p.text, policy=policy, n=n))
    samples = rehearsal.sample("sample-rankings", {"sft": sft, "base": base}, requests)
    rankings: list[RankingRecord] = []
    shared: list[tuple[Hashable, Mapping[Hashable, int]]] = []
    for i, prompt in enumerate(ranked):
        both = samples[prompt.prompt_id, "sft"] + samples[prompt.prompt_id, "base"]
        completions = [r.text for r in both]
        two = rng.sample(team, 2)
        for labeler in two if i % 5 == 0 else two[:1]:
            groups = labeler.rank(prompt.text, completions)
            shared.append((prompt.prompt_id, tiers(groups)))
            rankings.append(
                RankingRecord(
                    ranking_id=len(rankings),
                    prompt_id=prompt.prompt_id,
                    prompt=prompt.text,
                    completions=completions,
                    groups=groups,
                    split=prompt.split,
                    labeler=f"labeler-{labeler.seed}",
                )
            )
    run_dir = rehearsal.run(
        "reward",
        "reward",
        {"init": sft},
        {"rankings": rankings, "demonstrations": demonstrations},
    )
    reward, figures = run_dir / "model", result_of(run_dir).metrics
    print(
        f"  accuracy {100 * figures[RM_ACCURACY]:.1f} % [{100 * figures[RM_ACCURACY_LOW]:.1f}, "
        f"{100 * figures[RM_ACCURACY_HIGH]:.1f}] on {figures[RM_PAIRS]:.0f} pairs; longer wins "
        f"{100 * figures[RM_LONGER_WINS]:.1f} %; labelers agree {interval(agreement(shared))}"
    )

    init = sft
    if sizes.rl_init:
        run_dir = rehearsal.run(
            "sft",
            RL_INIT,
            {"init": base},
            {"demonstrations": demonstrations, "pretraining": texts},
            preset="starter-rl-init",
        )
        init = run_dir / "model"
        print(f"  validation loss {result_of(run_dir).metrics[SFT_VALID_LOSS]:.3f} nats/token")

    run_dir = rehearsal.run(
        "ppo",
        "ppo-ptx",
        {"init": init, "reference": sft, "reward": reward},
        {
            "prompts": [
                PromptRecord(prompt_id=p.prompt_id, prompt=p.text, split=p.split) for p in train
            ],
            "pretraining": texts,
        },
    )
    figures = result_of(run_dir).metrics
    print(f"  score {figures[PPO_SCORE]:.2f}, KL {figures[PPO_KL]:.2f} nats an episode")

    models = dict(zip(POLICIES, (base, sft, run_dir / "model"), strict=True))
    requests = [
        SampleRequest(prompt_id=p.prompt_id, prompt=p.text, policy=policy)
        for policy in POLICIES
        for p in test
    ]
    samples = rehearsal.sample("sample-test", {**models, "reward": reward}, requests)
    evaluate(test, samples, held_out)
    print(
        f"the trainer took {sum(rehearsal.seconds.values()) / 60:.1f} minutes in all, "
        f"{sum(rehearsal.cpu_seconds.values()) / 60:.1f} of CPU"
    )


def evaluate(
    test: Sequence[Prompt],
    samples: dict[tuple[int, str], list[CompletionRecord]],
    held_out: Sequence[SimulatedLabeler],
) -> None:
    """Win rates by blind held-out rankings of one completion a policy, and the utilities."""
    print(f"\n{'policy':<10}{'utility':>9}{'score':>8}{'words':>7}   parts of the utility")
    for policy in POLICIES:
        pairs = [(p.text, samples[p.prompt_id, policy][0]) for p in test]
        judged = [parts(prompt, record.text) for prompt, record in pairs]
        means = {k: statistics.mean(getattr(j, k) for j in judged) for k in vars(judged[0])}
        print(
            f"{policy:<10}{statistics.mean(utility(p, r.text) for p, r in pairs):9.2f}"
            f"{statistics.mean(r.score or 0.0 for _, r in pairs):8.2f}"
            f"{statistics.mean(len(r.text.split()) for _, r in pairs):7.1f}   "
            + " ".join(f"{name} {value:.2f}" for name, value in means.items())
        )
    rankings: list[tuple[Hashable, Mapping[Hashable, int]]] = []
    for prompt, labeler in itertools.product(test, held_out):
        completions = [samples[prompt.prompt_id, policy][0].text for policy in POLICIES]
        places = tiers(labeler.rank(prompt.text, completions))
        rankings.append((prompt.prompt_id, {p: places[i] for i, p in enumerate(POLICIES)}))
    print()
    for policy, baseline in (("sft", "base"), ("ppo-ptx", "base"), ("ppo-ptx", "sft")):
        rate = win_rate(rankings, policy, baseline)
        print(f"{policy} is preferred to {baseline}: {interval(rate)}")
    print(f"held-out labelers agree {interval(agreement(rankings))}")
    print()
    for prompt in test[:: max(1, len(test) // 12)]:
        print(f"# {prompt.text}")
        for policy in POLICIES:
            text = samples[prompt.prompt_id, policy][0].text
            print(f"  {policy:<8}{utility(prompt.text, text):6.2f}  {text!r}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the run directories here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--documents", type=int, default=30_000)
    parser.add_argument("--prompts", type=int, default=1800)
    parser.add_argument("--demonstrations", type=int, default=300)
    parser.add_argument("--rankings", type=int, default=600)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument(
        "--rl-init",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start PPO from a run of its own, as the paper does, or from the SFT policy",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KIND.FIELD=VALUE", help="an override"
    )
    given = parser.parse_args()
    overrides: dict[str, dict[str, Any]] = {}
    for setting in given.set:
        name, value = setting.split("=")
        kind, field_name = name.split(".")
        overrides.setdefault(kind, {})[field_name] = json.loads(value)
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary)
        rehearse(Rehearsal(out.resolve(), given.seed, given.threads, overrides), given)


if __name__ == "__main__":
    main()
