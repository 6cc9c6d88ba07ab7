"""An ensemble's members, and that what is saved of them is an ordinary reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import MakeRun, demonstrations, prompts, rankings
from tests.trainer.test_kinds import ppo_spec
from tests.trainer.test_models import encoder_of
from trainer.contract import (
    PPO_SPREAD,
    RM_ACCURACY,
    RM_SPREAD,
    CompletionRecord,
    ContractError,
    read_records,
    read_result,
)
from trainer.ensemble import MEMBERS, load_members, mean_and_spread, prompt_weights
from trainer.models import load_reward_model, load_tokenizer
from trainer.passes import score_completions, tree_scores
from trainer.ppo import train_ppo
from trainer.reward import train_reward
from trainer.sample import run_sample

pytestmark = pytest.mark.train


def test_prompts_are_drawn_with_replacement() -> None:
    drawn = [w for prompt in range(2000) for w in prompt_weights(0, prompt, 4)]
    share = {count: drawn.count(count) / len(drawn) for count in (0.0, 1.0, 2.0)}
    assert sum(drawn) / len(drawn) == pytest.approx(1, abs=0.05)
    assert share == pytest.approx({0.0: 0.368, 1.0: 0.368, 2.0: 0.184}, abs=0.03)
    assert prompt_weights(0, 7, 4) == prompt_weights(0, 7, 4) != prompt_weights(1, 7, 4)
    assert prompt_weights(0, 7, 1) == [1.0]


def test_mean_and_spread_by_hand() -> None:
    mean, spread = mean_and_spread(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    assert mean.tolist() == [2.0, 2.0]
    assert spread is not None
    assert spread.tolist() == pytest.approx([2**0.5, 0.0])
    assert mean_and_spread(torch.tensor([1.0])) == (torch.tensor([1.0]), None)


@pytest.fixture(scope="module")
def ensemble_run(base_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.trainer.conftest import write_run

    run = write_run(
        tmp_path_factory.mktemp("ensemble") / "run",
        kind="reward",
        models={"init": str(base_run / "model")},
        data={"rankings": rankings(4), "demonstrations": demonstrations()},
        config={"learning_rate": 3e-3, "epochs": 6, "members": 3},
    )
    train_reward(run)
    return run


def loaded(run: Path) -> tuple[Any, Any, str]:
    source = str(run / "model")
    tokenizer = load_tokenizer(source)
    return load_reward_model(source, tokenizer), encoder_of(tokenizer), source


def test_the_members_learn_and_differ(ensemble_run: Path) -> None:
    result = read_result(ensemble_run)
    assert result is not None
    assert result.metrics[RM_ACCURACY] > 0.9
    assert result.metrics[RM_SPREAD] == result.figures["spread"] > 0.01
    assert result.figures["members"] == 3
    agreement = {share["name"]: share["rate"] for share in result.figures["by_agreement"]}
    assert agreement["all members agree"] >= result.metrics[RM_ACCURACY]


@torch.no_grad()
def test_what_is_saved_scores_as_the_mean_of_its_members(ensemble_run: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model, encoder, source = loaded(ensemble_run)
    texts = ["The cat.", "The dog.", "The cat cat."]
    alone, no_spread = score_completions(model, encoder, [prompts()[0]] * 3, texts, 100)
    assert load_members(model, source) == 3
    together, spread = score_completions(model, encoder, [prompts()[0]] * 3, texts, 100)
    assert no_spread is None
    assert spread is not None
    assert min(spread) > 0
    assert together == pytest.approx(alone, abs=1e-5)

    plain: Any = AutoModelForSequenceClassification.from_pretrained(source)
    (prompt,) = encoder.prompts([prompts()[0]])
    rows = [[*prompt, *completion] for completion in encoder.completions(texts)]
    logits = [float(plain(input_ids=torch.tensor([row])).logits[0, 0]) for row in rows]
    assert [v + plain.config.reward_bias for v in logits] == pytest.approx(alone, abs=1e-5)


@torch.no_grad()
def test_every_member_gives_demonstrations_zero_on_average(ensemble_run: Path) -> None:
    model, encoder, source = loaded(ensemble_run)
    load_members(model, source)
    train = [d for d in demonstrations() if d["split"] == "train"]
    written = encoder.prompts([d["prompt"] for d in train])
    completions = encoder.completions([d["completion"] for d in train])
    scores = tree_scores(model, [(p, [c]) for p, c in zip(written, completions, strict=True)])
    assert scores.shape == (len(train), 3)
    assert scores.mean(0).tolist() == pytest.approx([0, 0, 0], abs=1e-5)


def test_members_of_another_model_are_refused(ensemble_run: Path, tmp_path: Path) -> None:
    model, _, source = loaded(ensemble_run)
    (tmp_path / MEMBERS).write_bytes((Path(source) / MEMBERS).read_bytes())
    model.score.weight.data += 1
    with pytest.raises(ContractError, match="its mean is not the model's head"):
        load_members(model, str(tmp_path))


@pytest.mark.parametrize("size", [0, 40])
def test_members_that_are_cut_are_refused(ensemble_run: Path, tmp_path: Path, size: int) -> None:
    model, _, source = loaded(ensemble_run)
    (tmp_path / MEMBERS).write_bytes((Path(source) / MEMBERS).read_bytes()[:size])
    with pytest.raises(ContractError, match=r"/members\.safetensors: cannot be loaded"):
        load_members(model, str(tmp_path))


def test_samples_have_the_spread(ensemble_run: Path, base_run: Path, make_run: MakeRun) -> None:
    run = make_run(
        "sample",
        kind="sample",
        models={"base": str(base_run / "model"), "reward": str(ensemble_run / "model")},
        data={
            "requests": [
                {"prompt_id": i, "prompt": prompt, "policy": "base", "n": 2}
                for i, prompt in enumerate(prompts()[:3])
            ]
        },
        config={"max_completion_tokens": 8},
    )
    run_sample(run)
    records = list(read_records(run / "completions.jsonl", CompletionRecord))
    model, _, source = loaded(ensemble_run)
    load_members(model, source)
    encoder = encoder_of(load_tokenizer(source), max_completion_tokens=8)
    asked = [prompts()[record.prompt_id] for record in records]
    with torch.no_grad():
        _, spread = score_completions(model, encoder, asked, [r.text for r in records], 100)
    assert [record.spread for record in records] == pytest.approx(spread, abs=1e-5)
    result = read_result(run)
    assert result is not None
    assert spread is not None
    assert min(spread) > 0
    assert result.metrics["spread/base"] == pytest.approx(sum(spread) / 6, abs=1e-5)


def test_ppo_reports_the_spread(base_run: Path, ensemble_run: Path, make_run: MakeRun) -> None:
    from tests.trainer.conftest import metric_lines

    run = make_run("ppo", **ppo_spec(base_run, ensemble_run, episodes=32))
    train_ppo(run)
    assert metric_lines(run)[0]["values"][PPO_SPREAD] > 0
