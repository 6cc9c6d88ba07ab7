"""Each kind trains a tiny model from a run directory; a stopped run ends as if it had not been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.conftest import (
    MakeRun,
    demonstrations,
    metric_lines,
    prompts,
    rankings,
    split_of,
    texts,
)
from trainer.config import PPOConfig
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
    ContractError,
    TextRecord,
    read_result,
    read_spec,
)
from trainer.data import Encoder, load_pretraining, packed_rows
from trainer.models import load_policy, load_tokenizer
from trainer.passes import language_loss
from trainer.ppo import train_ppo
from trainer.reward import train_reward
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


def test_sft_learns_with_residual_dropout_where_it_trains(
    base_run: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: set[tuple[bool, float, bool]] = set()  # gradients wanted, probability, dropped
    forward = nn.Dropout.forward

    def seen(dropout: nn.Dropout, x: Tensor) -> Tensor:
        dropped = forward(dropout, x)
        zeros = (dropped == 0).float().mean().item()
        passed.add((torch.is_grad_enabled(), dropout.p, zeros > 0.1))
        return dropped

    monkeypatch.setattr(nn.Dropout, "forward", seen)
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
    training = {(p, dropped) for wanted, p, dropped in passed if wanted}
    assert training == {(0.0, False), (0.2, True)}  # of embeddings, of the residual stream
    assert {dropped for wanted, _, dropped in passed if not wanted} == {False}  # validation


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
