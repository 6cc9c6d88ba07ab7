"""PPO on a task whose optimum is known: benchmarks/known_optimum.py."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.known_optimum import ANIMALS, OPTIMUM, PROMPTS, TEMPLATE, Task, answers
from tests.trainer.conftest import BASE_CONFIG, MakeRun, metric_lines, write_run
from trainer.base import train_base
from trainer.contract import PPO_SCORE
from trainer.data import Encoder
from trainer.models import load_policy, load_reward_model, load_tokenizer
from trainer.passes import tree_scores
from trainer.ppo import train_ppo
from trainer.rollout import sample

pytestmark = pytest.mark.train

HELD_OUT = {"Name a red fox.", "Name a blue cat.", "Name a green dog.", "Name a white duck."}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has read `answers`, and errs as often as their writer."""
    run = write_run(
        tmp_path_factory.mktemp("writer") / "run",
        kind="base",
        data={"pretraining": [{"text": f"{p}\n\n{a}"} for p, a in answers(1000)]},
        config=BASE_CONFIG | {"steps": 300, "learning_rate": 1e-2, "initial_deviation": 0.15},
    )
    train_base(run)
    return run / "model"


@pytest.fixture(scope="module")
def task_and_reward(writer: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Path]:
    """The task, and the reward model that computes its score."""
    tokenizer = load_tokenizer(str(writer))
    task = Task.of(tokenizer, [f" {animal}" for animal in ANIMALS])
    directory = tmp_path_factory.mktemp("known") / "model"
    task.save_reward_model(directory, tokenizer)
    return task, directory


def encoder_of(tokenizer: Any) -> Encoder:
    return Encoder(
        tokenizer=tokenizer, template=TEMPLATE, max_prompt_tokens=60, max_completion_tokens=60
    )


def test_the_reward_model_scores_as_the_checker(task_and_reward: tuple[Task, Path]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    task, directory = task_and_reward
    tokenizer = load_tokenizer(str(directory))
    rng = random.Random(3)
    texts = [f"Name a red{words}." for words in ("", " cat", " dog", " fox, a dog", " duck cat")]
    trees = []
    for prompt in encoder_of(tokenizer).prompts(texts):
        alike = [*task.words, *prompt, task.line_end]  # more often than chance has them
        completions = [
            [
                rng.choice(alike) if rng.random() < 0.8 else rng.randrange(3, len(tokenizer))
                for _ in range(rng.randint(0, 30))
            ]
            for _ in range(200)
        ]
        trees.append((prompt, [[*ids, task.eos] for ids in completions]))
    pairs = [(prompt, c) for prompt, completions in trees for c in completions]
    expected = [task.score(prompt, completion) for prompt, completion in pairs]
    assert (min(expected), max(expected)) == (0, OPTIMUM)
    assert len(set(expected)) > 100
    model = load_reward_model(str(directory), tokenizer)
    plain = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        assert tree_scores(model, trees).tolist() == pytest.approx(expected, abs=1e-4)
        for number in range(0, len(pairs), 10):  # without anything of ours
            prompt, completion = pairs[number]
            logits = plain(input_ids=torch.tensor([prompt + completion])).logits
            assert logits.item() == pytest.approx(expected[number], abs=1e-4)


def test_a_word_of_two_tokens_is_refused(writer: Path) -> None:
    with pytest.raises(ValueError, match=r"' camel' is \d tokens of this tokenizer, not one"):
        Task.of(load_tokenizer(str(writer)), [" cat", " camel"])


def mean_score(task: Task, source: Path, prompts: list[str]) -> float:
    """By the checker, of 50 samples of each prompt; one without an end of text has -1."""
    import torch

    tokenizer = load_tokenizer(str(source))
    encoder = encoder_of(tokenizer)
    ids = encoder.prompts(prompts)
    uniform = torch.rand(50 * len(ids), 8, generator=torch.Generator().manual_seed(1))
    made = sample(
        load_policy(str(source), tokenizer),
        ids,
        n=50,
        uniform=uniform,
        temperature=1.0,
        eos=encoder.eos,
        pad=encoder.pad,
    )
    scores = [
        task.score(ids[k // 50], one.ids) if one.finished else -1.0 for k, one in enumerate(made)
    ]
    return sum(scores) / len(scores)


def test_ppo_reaches_the_known_optimum(
    writer: Path, task_and_reward: tuple[Task, Path], make_run: MakeRun
) -> None:
    task, reward = task_and_reward
    run = make_run(
        "ppo",
        kind="ppo",
        seed=0,
        models={"init": str(writer), "reference": str(writer), "reward": str(reward)},
        data={
            "prompts": [
                {"prompt_id": i, "prompt": p, "split": "valid" if p in HELD_OUT else "train"}
                for i, p in enumerate(PROMPTS)
            ]
        },
        config={
            "episodes": 40 * 64,
            "batch_episodes": 64,
            "minibatches": 4,
            "max_completion_tokens": 8,
            "policy_learning_rate": 2e-3,
            "value_learning_rate": 1e-3,
            "warmup_iterations": 2,
            "kl_coefficient": 0.02,
            "ptx_coefficient": 0.0,
            "ema_decay": 0.9,
        },
    )
    train_ppo(run)
    scores = [line["values"][PPO_SCORE] for line in metric_lines(run)]
    assert scores[0] < 0.7
    assert sum(scores[-5:]) / 5 > 0.95 * OPTIMUM
    for prompts in (sorted(PROMPTS.keys() - HELD_OUT), sorted(HELD_OUT)):
        before = mean_score(task, writer, prompts)
        assert before < 0.7
        assert mean_score(task, run / "model", prompts) > 0.95 * OPTIMUM
