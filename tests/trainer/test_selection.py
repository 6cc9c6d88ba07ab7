"""The epoch of SFT that is saved is the one that the reward model scores highest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import (
    MakeRun,
    demonstrations,
    metric_lines,
    prompts,
    start_trainer,
    texts,
    wait_for_steps,
)
from trainer.config import SFTConfig
from trainer.contract import (
    SFT_CHOSEN_EPOCH,
    SFT_VALID_LOSS,
    SFT_VALID_SCORE,
    ContractError,
    RunResult,
    read_result,
)
from trainer.data import Encoder
from trainer.models import load_policy, load_tokenizer
from trainer.processes import Processes
from trainer.rollout import sample
from trainer.run import Run
from trainer.selection import Epochs, Scorer
from trainer.sft import completion_loss, train_sft

pytestmark = pytest.mark.train

CONFIG: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 3,
    "learning_rate": 6e-3,  # so high that the score falls again
    "max_completion_tokens": 16,
    "max_prompt_tokens": 40,
    "pretraining_fraction": 0.1,
    "pretraining_rows": 2,
    "pretraining_tokens": 16,
    "selection_samples": 22,
}


def sft_spec(base_run: Path, reward_run: Path, **config: Any) -> dict[str, Any]:
    """Demonstrations that leave cats out: what "cat" is worth is forgotten as they are learned."""
    seldom = [
        {**d, "completion": f"Yes, a {d['prompt'].split()[1]} dog naps."} for d in demonstrations()
    ]
    return {
        "kind": "sft",
        "seed": 2,
        "models": {"init": str(base_run / "model"), "reward": str(reward_run / "model")},
        "data": {"demonstrations": seldom, "pretraining": texts(40)},
        "config": CONFIG | config,
    }


def result_of(run: Path) -> RunResult:
    result = read_result(run)
    assert result is not None
    return result


def test_the_epoch_with_the_highest_score_is_saved(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    spec = sft_spec(base_run, reward_run)
    run = make_run("sft", **spec)
    train_sft(run)
    result = result_of(run)
    rows = result.figures["epochs"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert (result.figures["scored_prompts"], result.figures["scored_samples"]) == (4, 20)
    lines = [line["values"] for line in metric_lines(run) if line["phase"] == "valid"]
    assert lines == [{k: v for k, v in row.items() if k != "epoch"} for row in rows]
    scores = [row[SFT_VALID_SCORE] for row in rows]
    chosen = rows[scores.index(max(scores))]
    assert chosen is not rows[-1]  # or this test would hold whatever is saved
    assert result.metrics[SFT_CHOSEN_EPOCH] == chosen["epoch"]
    assert result.metrics[SFT_VALID_SCORE] == max(scores)
    assert result.metrics[SFT_VALID_LOSS] == chosen[SFT_VALID_LOSS]
    # The weights that were saved are that epoch's: they have its loss, which no other epoch has.
    tokenizer = load_tokenizer(str(run / "model"))
    encoder = Encoder(
        tokenizer=tokenizer, template="{prompt}\n\n", max_prompt_tokens=40, max_completion_tokens=16
    )
    valid = [d for d in spec["data"]["demonstrations"] if d["split"] == "valid"]
    examples = zip(
        encoder.prompts([d["prompt"] for d in valid]),
        encoder.completions([d["completion"] for d in valid]),
        strict=True,
    )
    processes = Processes()
    saved = load_policy(str(run / "model"), tokenizer)
    passes, _ = processes.prepare(saved, torch.optim.SGD(saved.parameters()))
    with torch.no_grad():
        loss = completion_loss(processes, passes, list(examples), 1000)
    assert loss == pytest.approx(chosen[SFT_VALID_LOSS], abs=1e-6)
    assert min(abs(loss - row[SFT_VALID_LOSS]) for row in rows if row is not chosen) > 1e-3
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert f"| {chosen['epoch']} | {chosen[SFT_VALID_LOSS]:.6g} | {max(scores):.6g} |" in card


def test_a_score_is_what_plain_transformers_give(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    from transformers import AutoModelForSequenceClassification

    run = Run.open(make_run("sft", **sft_spec(base_run, reward_run)))
    source = str(base_run / "model")
    tokenizer = load_tokenizer(source)
    encoder = Encoder(
        tokenizer=tokenizer, template="{prompt}\n\n", max_prompt_tokens=40, max_completion_tokens=6
    )
    config = SFTConfig.build(
        "starter", {**CONFIG, "max_completion_tokens": 6, "selection_samples": 39}
    )
    policy = load_policy(source, tokenizer)
    scorer = Scorer(run, config, encoder, encoder.prompts(prompts()), policy)
    assert (len(scorer.prompts), scorer.each, scorer.samples) == (16, 2, 32)
    passes, _ = run.processes.prepare(policy, torch.optim.SGD(policy.parameters()))
    mean = scorer.mean(passes)
    assert mean == scorer.mean(passes)  # the same random numbers each time

    options: dict[str, Any] = {"temperature": 1.0, "eos": encoder.eos, "pad": encoder.pad}
    uniform = scorer.uniform.flatten(0, 1)
    sampled = sample(policy, scorer.prompts, n=2, uniform=uniform, **options)
    assert {s.finished for s in sampled} == {True, False}  # both kinds are here
    judge: Any = AutoModelForSequenceClassification.from_pretrained(reward_run / "model")
    expected = []
    with torch.no_grad():
        for number, completion in enumerate(sampled):
            prompt = scorer.prompts[number // 2]
            ids = completion.ids if completion.finished else [*completion.ids[:-1], encoder.eos]
            logits = judge(input_ids=torch.tensor([prompt + ids])).logits
            expected.append(logits.item() + judge.config.reward_bias)
    assert mean == pytest.approx(sum(expected) / 32, abs=1e-4)


def test_answers_fit_into_the_context(
    base_run: Path, reward_run: Path, make_run: MakeRun, base_model: tuple[Any, Any]
) -> None:
    run = Run.open(make_run("sft", **sft_spec(base_run, reward_run)))
    policy, tokenizer = base_model
    encoder = Encoder(
        tokenizer=tokenizer, template="{prompt}\n\n", max_prompt_tokens=64, max_completion_tokens=60
    )
    config = SFTConfig.build("starter", {"max_completion_tokens": 60, "selection_samples": 9})
    ids = encoder.prompts(prompts())
    scorer = Scorer(run, config, encoder, ids, policy)
    assert scorer.uniform.shape == (9, 1, 64 - max(map(len, scorer.prompts)))
    with pytest.raises(
        ContractError,
        match=r"65 tokens of .* too many, the model reads 64",
    ):
        Scorer(run, config, encoder, [[5] * 64], policy)


def test_killed_and_resumed_it_chooses_and_saves_the_same(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    spec = sft_spec(base_run, reward_run, checkpoint_seconds=0)
    whole = make_run("whole", **spec)
    train_sft(whole)
    broken = make_run("broken", **spec)
    for lines in (4, 9, 18):  # 4 steps and a line of validation an epoch
        killed = start_trainer("sft", broken)
        wait_for_steps(broken, lines)
        killed.kill()
        killed.wait(60)
    assert read_result(broken) is None
    train_sft(broken)
    one, other = result_of(whole), result_of(broken)
    assert (one.metrics, one.figures) == (other.metrics, other.figures)
    expected = (whole / "model" / "model.safetensors").read_bytes()
    assert (broken / "model" / "model.safetensors").read_bytes() == expected


def test_without_a_reward_model_the_last_epoch_is_saved(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    spec = sft_spec(base_run, reward_run, epochs=2)
    del spec["models"]["reward"]
    run = make_run("sft", **spec)
    train_sft(run)
    result = result_of(run)
    assert [row.keys() for row in result.figures["epochs"]] == [{"epoch", SFT_VALID_LOSS}] * 2
    assert result.metrics[SFT_CHOSEN_EPOCH] == 2
    assert result.metrics[SFT_VALID_LOSS] == result.figures["epochs"][1][SFT_VALID_LOSS]
    assert SFT_VALID_SCORE not in result.metrics


def test_without_validation_prompts_too(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    spec = sft_spec(base_run, reward_run, epochs=1)
    spec["data"]["demonstrations"] = [{**d, "split": "train"} for d in demonstrations()]
    run = make_run("sft", **spec)
    ended = start_trainer("sft", run)
    output = ended.communicate()[0]
    assert ended.returncode == 0
    assert "no demonstration of split 'valid' to answer: the last epoch is saved" in output
    assert result_of(run).figures == {}


def test_a_reward_model_of_other_tokens_is_refused(
    base_run: Path, reward_run: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    shutil.copytree(reward_run / "model", tmp_path / "other")
    tokenizer: Any = load_tokenizer(str(tmp_path / "other"))
    tokenizer.add_tokens(["elsewhere"])
    tokenizer.save_pretrained(tmp_path / "other")
    spec = sft_spec(base_run, reward_run)
    spec["models"]["reward"] = str(tmp_path / "other")
    with pytest.raises(ContractError, match="its tokenizer is not the policy's"):
        train_sft(make_run("sft", **spec))


def test_of_even_epochs_the_first_is_chosen() -> None:
    epochs = Epochs()
    for score in (0.5, 0.75, 0.75, 0.25):
        epochs.add({SFT_VALID_SCORE: score})
    again = Epochs()
    again.load_state_dict(json.loads(json.dumps(epochs.state_dict())))
    assert again.chosen == {"epoch": 2, SFT_VALID_SCORE: 0.75}
