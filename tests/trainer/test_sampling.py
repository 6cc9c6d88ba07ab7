"""Kind sample: every request is answered, in its order, and the best of n is the best."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import (
    ROOT,
    MakeRun,
    prompts,
    start_trainer,
    wait_for_steps,
)
from tests.trainer.test_refusals import narrowed
from trainer.contract import (
    CompletionRecord,
    ContractError,
    read_records,
    read_result,
)
from trainer.data import Encoder
from trainer.models import load_reward_model, load_tokenizer
from trainer.passes import score_completions
from trainer.sample import Done, run_sample

pytestmark = pytest.mark.train


def test_sample_answers_every_request_in_order(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    requests = [
        {"prompt_id": i, "prompt": p, "policy": policy, "n": n}
        for policy, n in (("b", 2), ("a", 5))
        for i, p in enumerate(prompts()[:4])
    ]
    base = str(base_run / "model")
    run = make_run(
        "sample",
        kind="sample",
        models={"a": base, "b": base, "reward": str(reward_run / "model")},
        data={"requests": requests},
        config={"max_completion_tokens": 16, "batch_completions": 6, "pass_tokens": 60},
    )
    run_sample(run)
    records = list(read_records(run / "completions.jsonl", CompletionRecord))
    assert [(r.prompt_id, r.policy, r.index) for r in records] == [
        (q["prompt_id"], q["policy"], k) for q in requests for k in range(int(str(q["n"])))
    ]
    assert {r.finish_reason for r in records} <= {"stop", "length"}
    assert all((r.tokens == 16) for r in records if r.finish_reason == "length")
    assert len({r.text for r in records}) > 10
    prompt_of = {q["prompt_id"]: str(q["prompt"]) for q in requests}
    source = str(reward_run / "model")
    tokenizer = load_tokenizer(source)
    expected = score_completions(
        load_reward_model(source, tokenizer),
        Encoder(
            tokenizer=tokenizer,
            template="{prompt}\n\n",
            max_prompt_tokens=64,
            max_completion_tokens=16,
        ),
        [prompt_of[r.prompt_id] for r in records],
        [r.text for r in records],
        1000,
    )[0]
    assert [r.score for r in records] == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.01


@pytest.mark.parametrize("narrow", ["a", "b", "reward"])
def test_a_model_that_cannot_read_so_much_is_refused_before_sampling(
    base_run: Path, reward_run: Path, make_run: MakeRun, tmp_path: Path, narrow: str
) -> None:
    base = str(base_run / "model")
    models = {"a": base, "b": base, "reward": str(reward_run / "model")}
    copied = narrowed(Path(models[narrow]), tmp_path / "narrow")
    run = make_run(
        "sample",
        kind="sample",
        models={**models, narrow: str(copied)},
        data={"requests": [{"prompt_id": 1, "prompt": prompts()[0], "policy": p} for p in "ab"]},
        config={"max_completion_tokens": 30},
    )
    with pytest.raises(ContractError, match=r"too many, the model reads 32"):
        run_sample(run)
    assert not (run / "metrics.jsonl").exists()


# Kind sample, which fails where what is sampled is not sampled in half precision.
NOTING = """
import sys, torch
from trainer import engine, __main__

def sample(*arguments, **options):
    assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return sampled(*arguments, **options)

sampled, engine.sample = engine.sample, sample
sys.exit(__main__.main(["sample", sys.argv[1]]))
"""


def test_half_precision_is_that_of_sampling_too(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    spec = {
        "kind": "sample",
        "models": {"a": str(base_run / "model"), "reward": str(reward_run / "model")},
        "data": {
            "requests": [
                {"prompt_id": i, "prompt": p, "policy": "a"} for i, p in enumerate(prompts())
            ]
        },
        "config": {"max_completion_tokens": 12},
    }
    full, half = make_run("full", **spec), make_run("half", **spec)
    run_sample(full)
    env = {**os.environ, "ACCELERATE_MIXED_PRECISION": "bf16", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", NOTING, str(half)], cwd=ROOT, env=env, check=True)
    ours, theirs = (
        list(read_records(run / "completions.jsonl", CompletionRecord)) for run in (half, full)
    )
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.text == b.text]
    assert len(pairs) > len(ours) / 2
    for one, other in pairs:
        assert one.score == pytest.approx(other.score, abs=0.2)
    assert any(one.score != other.score for one, other in pairs)


def test_the_best_of_n_is_what_the_reward_model_scores_highest(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    base = str(base_run / "model")
    requests = [
        {"prompt_id": i, "prompt": p, "policy": policy, "n": 2, "best_of": best_of}
        for policy, best_of in (("base", 1), ("best-of-8 of base", 8))
        for i, p in enumerate(prompts()[:6])
    ]
    run, whole = (
        make_run(
            name,
            kind="sample",
            models={"base": base, "best-of-8 of base": base, "reward": str(reward_run / "model")},
            data={"requests": requests},
            config={"max_completion_tokens": 16, "batch_completions": 12, "checkpoint_seconds": 0},
        )
        for name in ("sample", "whole")
    )
    stopped = start_trainer("sample", run)
    wait_for_steps(run, 4)  # in the middle of a prompt's sixteen samples
    stopped.kill()
    stopped.wait(60)
    for each in (run, whole):
        run_sample(each)
    assert (run / "completions.jsonl").read_bytes() == (whole / "completions.jsonl").read_bytes()
    records = list(read_records(run / "completions.jsonl", CompletionRecord))
    assert [(r.prompt_id, r.policy, r.index) for r in records] == [
        (q["prompt_id"], q["policy"], k) for q in requests for k in (0, 1)
    ]
    result = read_result(run)
    assert result is not None
    plain, best = result.metrics["score/base"], result.metrics["score/best-of-8 of base"]
    assert best > plain + 0.1
    kept = [r.score for r in records if r.policy != "base"]
    assert best == pytest.approx(sum(score for score in kept if score is not None) / 12)


def test_the_best_of_samples_is_kept_and_the_first_where_they_are_even() -> None:
    done = Done()
    for text, score in (("a", 0.5), ("b", 2.0), ("c", 2.0), ("d", -1.0)):
        done.offer(
            3,
            CompletionRecord(
                prompt_id=1,
                policy="x",
                index=0,
                text=text,
                finish_reason="stop",
                tokens=1,
                score=score,
            ),
        )
    again = Done()
    again.load_state_dict(json.loads(json.dumps(done.state_dict())))
    assert [record.text for record in again.records.values()] == ["b"]
    assert again.records == done.records


@pytest.mark.parametrize("change", [{"models": ["a"]}, {"config": {"temperature": 0.0}}])
def test_the_best_of_n_needs_a_choice(
    base_run: Path, reward_run: Path, make_run: MakeRun, change: dict[str, Any]
) -> None:
    sources = {"a": str(base_run / "model"), "reward": str(reward_run / "model")}
    run = make_run(
        "sample",
        kind="sample",
        models={name: sources[name] for name in change.get("models", sources)},
        data={
            "requests": [{"prompt_id": 1, "prompt": "?", "policy": "a", "n": 1, "best_of": 4}],
        },
        config=change.get("config", {}),
    )
    with pytest.raises(ContractError, match="the best of 4 samples needs a reward model"):
        run_sample(run)
