"""What a run refuses, leaves out or cuts, in plain words, and what its command line takes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import (
    MakeRun,
    demonstrations,
    rankings,
    start_trainer,
)
from tests.trainer.test_kinds import PPO_CONFIG, ppo_spec
from trainer import sft
from trainer.config import ConfigError, PPOConfig
from trainer.contract import (
    ContractError,
    read_result,
)
from trainer.models import load_tokenizer
from trainer.ppo import train_ppo
from trainer.reward import train_reward
from trainer.sft import train_sft

pytestmark = pytest.mark.train


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


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kl_horizon": 6}, "kl_horizon: 6 episodes would take the coefficient to 0 or below"),
        ({"kl_coefficient": 0.0}, "kl_coefficient: 0.0 must be above 0"),
    ],
)
def test_an_adaptive_coefficient_stays_above_0(config: dict[str, Any], message: str) -> None:
    asked = {"episodes": 64, "batch_episodes": 32, "minibatches": 1, **config}
    PPOConfig.build("paper", {**asked, "kl_controller": "fixed"})
    PPOConfig.build("paper", {**asked, "kl_coefficient": 0.2, "kl_horizon": 7})
    with pytest.raises(ConfigError, match=message):
        PPOConfig.build("paper", {**asked, "kl_controller": "adaptive"})


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "gradients of 4 steps"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "(the launcher's configuration:|precision) .*fp8"),
    ],
)
def test_a_launcher_that_asks_for_what_the_trainer_does_itself(
    base_run: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    message: str,
) -> None:
    run = make_run(
        "sft",
        kind="sft",
        models={"init": str(base_run / "model")},
        data={"demonstrations": demonstrations()},
    )
    monkeypatch.setenv(variable, value)
    refused = start_trainer("sft", run)
    output = refused.communicate()[0]
    assert refused.returncode == 1
    assert re.search(message, output)
    assert "Traceback" not in output


def test_what_stands_where_a_file_should(make_run: MakeRun, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    no_spec = tmp_path / "no_spec"
    (no_spec / "spec.json").mkdir(parents=True)
    no_data = make_run("no_data", kind="base", data={"pretraining": []})
    (no_data / "data" / "pretraining.jsonl").unlink()
    (no_data / "data" / "pretraining.jsonl").mkdir()
    deep = make_run("deep", kind="base", data={"pretraining": []})
    (deep / "data" / "pretraining.jsonl").write_text("[" * 200_000 + "\n")
    digits = make_run("digits", kind="base", data={"pretraining": []})
    (digits / "data" / "pretraining.jsonl").write_text('{"text": ' + "1" * 5000 + "}\n")
    for run, message in (
        (file, "no run directory (Not a directory)"),
        (no_spec, "spec.json: [Errno 21] Is a directory"),
        (no_data, "pretraining.jsonl: Is a directory"),
        (deep, "pretraining.jsonl, line 1: maximum recursion"),
        (digits, "pretraining.jsonl, line 1: Exceeds the limit"),
    ):
        refused = start_trainer("base", run)
        output = refused.communicate()[0]
        assert message in output
        assert "Traceback" not in output
        assert refused.returncode == 1


def test_rankings_of_ties_and_a_bias_that_nothing_sets_are_said(
    base_run: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"rankings": rankings()}
    tied = {**data["rankings"][0], "ranking_id": 10_000, "groups": [list(range(6))]}
    data["rankings"] += [tied, {**tied, "ranking_id": 10_001}]
    run = make_run("reward", kind="reward", models={"init": str(base_run / "model")}, data=data)
    train_reward(run)
    said = capsys.readouterr().out
    assert f"left out: 2 of {len(data['rankings'])} rankings, in which nothing is preferred" in said
    assert "there is no demonstration of split 'train': the bias stays as it is" in said
    result = read_result(run)
    assert result is not None
    assert result.metrics["data/tied_rankings"] == 2
    card = (run / "model" / "README.md").read_text()
    assert "| data/tied_rankings | 2 |" in card
    assert "no demonstrations set it" in card
    assert "demonstrations at 0 on average" not in card


def test_ppo_wants_its_pretraining_text(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    spec = ppo_spec(base_run, reward_run)
    del spec["data"]["pretraining"]
    with pytest.raises(ContractError, match="set it to 0 for PPO without the pretraining mix"):
        train_ppo(make_run("ppo", **spec))


@pytest.mark.parametrize("warmup", [3, 4])  # of three steps
def test_a_warm_up_that_does_not_end_is_said(
    warmup: int, base_run: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"epochs": 1, "batch_size": 1, "warmup_steps": warmup}
    models = {"init": str(base_run / "model")}
    data = {"demonstrations": demonstrations()[:5]}
    train_sft(make_run("sft", kind="sft", data=data, models=models, config=config))
    steps = sum(d["split"] == "train" for d in data["demonstrations"])
    said = f"does not reach its peak: warmup_steps puts it at step {warmup} of {steps}\n"
    assert (said in capsys.readouterr().out) == (warmup > steps)


def test_command_line(make_run: MakeRun, tmp_path: Path) -> None:
    usage = start_trainer("dpo", tmp_path)
    missing = start_trainer("sft", tmp_path / "none")
    broken = make_run("broken", kind="base", data={"pretraining": [{"txt": "a"}]})
    refused = start_trainer("base", broken)
    assert "invalid choice: 'dpo'" in usage.communicate()[0]
    assert usage.returncode == 2
    assert "none: no run directory (No such file or directory)" in missing.communicate()[0]
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
        (["--groups", "3"], "--groups and --seeds are of crossvalidate, not of ppo"),
        (["--seeds", "1"], "--groups and --seeds are of crossvalidate, not of ppo"),
    ):
        refused = start_trainer("ppo", run, *options)
        assert message in refused.communicate()[0]
        assert refused.returncode in (1, 2)
    config = json.loads((run / "spec.json").read_text())["config"]
    assert config == {**PPO_CONFIG, "episodes": 32}
    told = start_trainer("ppo", run, "--kl-controller", "adaptive", "--set", "kl_target=2.5")
    output = told.communicate()[0]
    assert told.returncode == 0, output
    assert "does not reach its peak: warmup_iterations puts it at step 3 of 1" in output
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
