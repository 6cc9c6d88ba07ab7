"""Each kind trains a tiny model from a run directory; a stopped run ends as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import (
    ROOT,
    MakeRun,
    demonstrations,
    metric_lines,
    prompts,
    rankings,
    split_of,
    start_trainer,
    texts,
    wait_for_steps,
)
from trainer import sft
from trainer.config import ConfigError, PPOConfig
from trainer.contract import (
    LOSS,
    PPO_HELD_OUT_LOSS,
    PPO_KL,
    PPO_PTX_LOSS,
    PPO_SCORE,
    RM_ACCURACY,
    RM_ACCURACY_HIGH,
    RM_ACCURACY_LOW,
    RM_LONGER_WINS,
    RM_PAIRS,
    SFT_VALID_LOSS,
    CompletionRecord,
    ContractError,
    TextRecord,
    read_records,
    read_result,
    read_spec,
)
from trainer.data import Encoder, load_pretraining, packed_rows
from trainer.models import load_policy, load_reward_model, load_tokenizer
from trainer.passes import language_loss, score_completions
from trainer.ppo import train_ppo
from trainer.reward import train_reward
from trainer.sample import Done, run_sample
from trainer.sft import train_sft

pytestmark = pytest.mark.train

PPO_CONFIG = {
    "episodes": 24 * 32,
    "batch_episodes": 32,
    "pass_tokens": 250,
    "max_completion_tokens": 12,
    "policy_learning_rate": 3e-3,
    "value_learning_rate": 3e-3,
    "warmup_iterations": 2,
    "ptx_tokens": 16,
    "ptx_coefficient": 0.1,
    "kl_coefficient": 0.02,
}


def ppo_spec(base_run: Path, reward_run: Path, **config: Any) -> dict[str, Any]:
    base = str(base_run / "model")
    return {
        "kind": "ppo",
        "seed": 5,
        "models": {"init": base, "reference": base, "reward": str(reward_run / "model")},
        "data": {
            "prompts": [
                {"prompt_id": i, "prompt": p, "split": split_of(i)} for i, p in enumerate(prompts())
            ],
            "pretraining": texts(50),
        },
        "config": PPO_CONFIG | config,
    }


def test_base_learns(base_run: Path) -> None:
    lines = metric_lines(base_run)
    losses = [line["values"][LOSS] for line in lines if line["phase"] == "train"]
    assert losses[-1] < losses[0] - 1
    result = read_result(base_run)
    assert result is not None
    assert result.metrics[SFT_VALID_LOSS] < 3
    assert (base_run / "model" / "tokenizer.json").exists()


def test_sft_learns_and_is_saved_without_dropout(base_run: Path, make_run: MakeRun) -> None:
    run = make_run(
        "sft",
        kind="sft",
        models={"init": str(base_run / "model")},
        data={"demonstrations": demonstrations(), "pretraining": texts(50)},
        config={
            "epochs": 12,
            "batch_size": 4,
            "learning_rate": 3e-3,
            "pretraining_fraction": 0.1,
            "pretraining_rows": 2,
            "pretraining_tokens": 16,
        },
    )
    train_sft(run)
    lines = metric_lines(run)
    valid = [line["values"][SFT_VALID_LOSS] for line in lines if line["phase"] == "valid"]
    assert len(valid) == 12
    assert valid[-1] < valid[0] - 0.3
    result = read_result(run)
    assert result is not None
    assert result.metrics[SFT_VALID_LOSS] == pytest.approx(valid[-1])
    assert json.loads((run / "model" / "config.json").read_text())["hidden_dropout"] == 0.0


def test_reward_model_learns_what_labelers_prefer(reward_run: Path) -> None:
    result = read_result(reward_run)
    assert result is not None
    figures = result.metrics
    valid = 8 * sum(split_of(i) == "valid" for i in range(len(prompts())))
    assert figures[RM_PAIRS] == valid * (1 + 4 + 4)  # ties among the four give no pair
    assert figures[RM_ACCURACY] > 0.9
    assert figures[RM_ACCURACY_LOW] <= figures[RM_ACCURACY] <= figures[RM_ACCURACY_HIGH]
    # "The cat cat." is longer than all, "The cat." only as long as "The dog." and "The fox.".
    assert 5 / 9 < figures[RM_LONGER_WINS] < 1
    assert metric_lines(reward_run)[-1]["phase"] == "valid"


def test_ppo_raises_the_score(base_run: Path, reward_run: Path, make_run: MakeRun) -> None:
    run = make_run("ppo", **ppo_spec(base_run, reward_run))
    train_ppo(run)
    lines = metric_lines(run)
    scores = [line["values"][PPO_SCORE] for line in lines]
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert sum(scores[-4:]) / 4 > scores[0] + 0.3
    assert all(line["values"]["ppo/first_ratio_error"] < 1e-5 for line in lines)
    assert lines[0]["values"][PPO_KL] == pytest.approx(0, abs=1e-5)  # the policy with itself
    assert max(line["values"][PPO_KL] for line in lines) > 0.1
    assert lines[-1]["values"]["ptx/loss_nats_per_token"] > 0
    result = read_result(run)
    assert result is not None
    assert result.metrics[PPO_SCORE] == pytest.approx(sum(scores[-5:]) / 5)


def test_adaptive_kl_moves_the_coefficient(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    spec = ppo_spec(
        base_run, reward_run, episodes=64, kl_controller="adaptive", kl_horizon=100, kl_target=1.0
    )
    run = make_run("ppo", **spec)
    train_ppo(run)
    first, second = (line["values"]["objective/kl_coefficient"] for line in metric_lines(run))
    assert first == 0.02
    assert second == pytest.approx(0.02 * (1 - 0.2 * 32 / 100))  # its KL is 0 in the first


def test_ppo_reads_pretraining_text_that_its_mix_does_not_hold(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    import torch

    spec = ppo_spec(base_run, reward_run, episodes=64, ptx_held_out=3)
    run = make_run("ppo", **spec)
    train_ppo(run)
    source = str(base_run / "model")
    tokenizer = load_tokenizer(source)
    encoder = Encoder(
        tokenizer=tokenizer, template="{prompt}\n\n", max_prompt_tokens=60, max_completion_tokens=9
    )
    config = PPOConfig.build("starter", spec["config"])
    mix, held_out = load_pretraining(run, read_spec(run), config, encoder)
    documents = encoder.documents([TextRecord(**text) for text in texts(50)])
    pieces = [piece for row in packed_rows(documents, 16) for piece in row]
    assert sorted([*held_out, *(piece for row in mix for piece in row)]) == sorted(pieces)
    assert 3 <= len(held_out) < len(pieces) / 10
    with torch.no_grad():
        loss = language_loss(load_policy(source, tokenizer), held_out).item()
    expected = loss / sum(len(piece) - 1 for piece in held_out)
    values = [line["values"] for line in metric_lines(run)]
    assert values[0][PPO_HELD_OUT_LOSS] == pytest.approx(expected, rel=1e-5)
    assert values[1][PPO_HELD_OUT_LOSS] != values[0][PPO_HELD_OUT_LOSS]

    without_mix = make_run(
        "without",
        **ppo_spec(base_run, reward_run, episodes=32, ptx_coefficient=0, ptx_held_out=3),
    )
    train_ppo(without_mix)
    (line,) = metric_lines(without_mix)
    assert line["values"][PPO_HELD_OUT_LOSS] == pytest.approx(expected, rel=1e-5)
    assert PPO_PTX_LOSS not in line["values"]


@pytest.mark.parametrize("kind", ["sft", "ppo"])
def test_pretraining_text_that_the_model_cannot_read_is_refused(
    base_run: Path, reward_run: Path, make_run: MakeRun, kind: str
) -> None:
    spec = ppo_spec(base_run, reward_run, ptx_tokens=65)
    field = "ptx_tokens"
    if kind == "sft":
        field = "pretraining_tokens"
        spec = {
            "kind": "sft",
            "models": {"init": str(base_run / "model")},
            "data": {"demonstrations": demonstrations()},
            "config": {"pretraining_fraction": 0.1, field: 65},
        }
    spec["data"]["pretraining"] = [{"text": "The cat sleeps. " * 20}]
    run = make_run(kind, **spec)
    message = f"65 tokens of a pretraining document are too many, .* lower {field}"
    with pytest.raises(ContractError, match=message):
        (train_sft if kind == "sft" else train_ppo)(run)


def test_prompts_that_are_too_long_are_left_out_and_counted(
    base_run: Path, reward_run: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "Name a red cat, " * 9
    spec = ppo_spec(base_run, reward_run, episodes=32, max_prompt_tokens=30)
    for i in range(3):
        spec["data"]["prompts"].append({"prompt_id": 90 + i, "prompt": long, "split": "train"})
    written = [*demonstrations(), {**demonstrations()[1], "prompt": long}]
    ranked = [*rankings(), *[{**rankings()[1], "prompt": long}] * 2]
    told: dict[str, Any] = {
        "models": {"init": str(base_run / "model")},
        "config": {"epochs": 1, "max_prompt_tokens": 30},
    }
    both = {"rankings": ranked, "demonstrations": written}
    runs = (
        (train_ppo, make_run("ppo", **spec), {"prompts": 3}),
        (
            train_sft,
            make_run("sft", kind="sft", data={"demonstrations": written}, **told),
            {"demonstrations": 1},
        ),
        (
            train_reward,
            make_run("reward", kind="reward", data=both, **told),
            {"rankings": 2, "demonstrations": 1},
        ),
    )
    for train, run, counts in runs:
        train(run)
        result = read_result(run)
        assert result is not None
        card = (run / "model" / "README.md").read_text()
        for what, count in counts.items():
            assert result.metrics[f"data/too_long_{what}"] == count
            assert f"| data/too_long_{what} | {count} |" in card
            assert f"left out: {count} of " in capsys.readouterr().out or what == "demonstrations"


def test_demonstrations_of_a_reward_model_are_read_before_it_is_trained(
    base_run: Path, make_run: MakeRun
) -> None:
    told: dict[str, Any] = {"kind": "reward", "models": {"init": str(base_run / "model")}}
    short = {"max_prompt_tokens": 30}
    wordy = [{**d, "prompt": "Name a red cat, " * 9} for d in demonstrations()]
    run = make_run("none", data={"rankings": rankings(), "demonstrations": wordy}, **told)
    with pytest.raises(ContractError, match=r"the bias cannot be set: .* at most 30 tokens"):
        train_reward(with_config(run, short))
    wordy = [{**d, "completion": "The cat sleeps. " * 20} for d in demonstrations()]
    run = make_run("long", data={"rankings": rankings(), "demonstrations": wordy}, **told)
    with pytest.raises(ContractError, match=r"tokens of .* too many, the model reads 64"):
        train_reward(run)
    assert not (run / "metrics.jsonl").exists()


def test_cut_completions_are_counted_and_teach_no_end(
    base_run: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {
        "models": {"init": str(base_run / "model")},
        "config": {"epochs": 1, "max_completion_tokens": 25},
    }
    written = demonstrations()
    written[1]["completion"] = "The cat sleeps. " * 9
    learned: list[list[int]] = []
    loss = sft.completion_loss

    def kept(processes: Any, policy: Any, examples: Any, *others: Any) -> float:
        learned.extend(completion for _, completion in examples)
        return loss(processes, policy, examples, *others)

    monkeypatch.setattr(sft, "completion_loss", kept)
    both = {"rankings": rankings(), "demonstrations": written}
    runs = (
        make_run("sft", kind="sft", data={"demonstrations": written}, **told),
        make_run("reward", kind="reward", data=both, **told),
    )
    for train, run in zip((train_sft, train_reward), runs, strict=True):
        train(run)
        result = read_result(run)
        assert result is not None
        assert result.metrics["data/cut_demonstrations"] == 1
        assert "data/cut_rankings" not in result.metrics
    eos = load_tokenizer(str(base_run / "model")).eos_token_id
    assert [len(ids) for ids in learned if eos not in ids] == [25]


def test_a_reference_that_cannot_read_so_much_is_refused(
    base_run: Path, reward_run: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    spec = ppo_spec(base_run, reward_run, max_completion_tokens=30)
    spec["models"]["reference"] = str(narrowed(base_run / "model", tmp_path / "narrow"))
    with pytest.raises(ContractError, match=r"too many, the model reads 32"):
        train_ppo(make_run("ppo", **spec))


def narrowed(source: Path, copied: Path) -> Path:
    """A copy that reads 32 tokens."""
    shutil.copytree(source, copied)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32}))
    return copied


def with_config(run: Path, config: dict[str, Any]) -> Path:
    spec = json.loads((run / "spec.json").read_text())
    (run / "spec.json").write_text(json.dumps({**spec, "config": config}))
    return run


def test_a_seed_may_be_large(base_run: Path, make_run: MakeRun) -> None:
    run = make_run(
        "sft",
        kind="sft",
        seed=2_000_000_000_000,
        models={"init": str(base_run / "model")},
        data={"demonstrations": demonstrations()},
        config={"epochs": 1},
    )
    train_sft(run)
    assert read_result(run) is not None


def test_another_spec_or_other_data_does_not_resume(base_run: Path, make_run: MakeRun) -> None:
    run = make_run(
        "reward",
        kind="reward",
        models={"init": str(base_run / "model")},
        data={"rankings": rankings()},
        config={"checkpoint_seconds": 0},
    )
    train_reward(run)
    spec = json.loads((run / "spec.json").read_text())
    (run / "spec.json").write_text(json.dumps({**spec, "seed": 1}))
    with (run / "data" / "rankings.jsonl").open("a") as file:
        file.write(json.dumps({**rankings()[0], "ranking_id": 99}) + "\n")
    message = r"made with another spec\.json and another data/rankings\.jsonl"
    with pytest.raises(ContractError, match=message):
        train_reward(run)


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


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("sft", {"models": {}}, "kind sft needs models 'init'"),
        ("sft", {"models": {"init": "/nowhere"}}, "/nowhere is not a directory"),
        ("sft", {"data": {}}, "kind sft needs data 'demonstrations'"),
        ("sft", {"data": {"demonstrations": "gone.jsonl"}}, "gone.jsonl: not found"),
        ("sft", {"config": {"epoch": 1}}, "no field 'epoch'"),
        ("sft", {"config": {"max_prompt_tokens": 4}}, "split 'train' with a prompt of at most 4"),
    ],
)
def test_what_is_wrong_is_said(
    base_run: Path, make_run: MakeRun, kind: str, change: dict[str, Any], message: str
) -> None:
    run = make_run(
        "wrong",
        kind=kind,
        models={"init": str(base_run / "model")},
        data={"demonstrations": demonstrations()},
    )
    spec = json.loads((run / "spec.json").read_text())
    (run / "spec.json").write_text(json.dumps({**spec, **change}))
    with pytest.raises((ContractError, ConfigError), match=message):
        train_sft(run)


def test_ppo_wants_its_pretraining_text(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    spec = ppo_spec(base_run, reward_run)
    del spec["data"]["pretraining"]
    with pytest.raises(ContractError, match="set it to 0 for PPO without the pretraining mix"):
        train_ppo(make_run("ppo", **spec))


def test_command_line(make_run: MakeRun, tmp_path: Path) -> None:
    usage = start_trainer("dpo", tmp_path)
    missing = start_trainer("sft", tmp_path / "none")
    broken = make_run("broken", kind="base", data={"pretraining": [{"txt": "a"}]})
    refused = start_trainer("base", broken)
    assert "invalid choice: 'dpo'" in usage.communicate()[0]
    assert usage.returncode == 2
    assert "spec.json: not found" in missing.communicate()[0]
    assert missing.returncode == 1
    output = refused.communicate()[0]
    assert "pretraining.jsonl, line 1: TextRecord: unknown keys ['txt']" in output
    assert "Traceback" not in output
    assert refused.returncode == 1


def test_the_command_line_sets_values_and_says_so_in_spec_and_card(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    run = make_run("ppo", **ppo_spec(base_run, reward_run, episodes=32))
    for options, message in (
        (["--set", "kl_controler=adaptive"], "did you mean 'kl_controller'"),
        (["--set", "episodes=many"], "PPOConfig.episodes: expected int, got 'many'"),
        (["--set", "episodes"], "'episodes' is not FIELD=VALUE"),
        (["--kl-controller", "free"], "invalid choice: 'free'"),
    ):
        refused = start_trainer("ppo", run, *options)
        assert message in refused.communicate()[0]
        assert refused.returncode in (1, 2)
    config = json.loads((run / "spec.json").read_text())["config"]
    assert config == {**PPO_CONFIG, "episodes": 32}
    told = start_trainer("ppo", run, "--kl-controller", "adaptive", "--set", "kl_target=2.5")
    assert told.wait(120) == 0, told.communicate()[0]
    changed = {**config, "kl_controller": "adaptive", "kl_target": 2.5}
    assert json.loads((run / "spec.json").read_text())["config"] == changed
    card = (run / "model" / "README.md").read_text()
    assert '"kl_controller": "adaptive"' in card
    assert "| kl_target | 2.5 |" in card
    late = start_trainer("ppo", run, "--set", "kl_target=3")
    assert "its configuration stays as it was" in late.communicate()[0]
    assert late.returncode == 1
    (run / "checkpoints" / "step_1").mkdir()
    result = (run / "result.json").read_text()
    (run / "result.json").unlink()
    begun = start_trainer("ppo", run, "--set", "kl_target=3")
    assert "it has begun; its configuration stays as it was" in begun.communicate()[0]
    assert json.loads((run / "spec.json").read_text())["config"] == changed
    (run / "result.json").write_text(result)
    done = start_trainer("ppo", run, "--set", "kl_target=2.5")  # as it is
    assert "it is done, result.json is there" in done.communicate()[0]
    assert done.returncode == 0
    (run / "data" / "prompts.jsonl").write_text("")
    other = start_trainer("ppo", run)
    output = other.communicate()[0]
    assert "result.json: made with another data/prompts.jsonl" in output
    assert "remove it and checkpoints/ to start over" in output
    assert other.returncode == 1
