"""Base model, SFT and reward model beside plain loops: transformers, a sequence a pass."""

from __future__ import annotations

import math
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.trainer.conftest import BASE_CONFIG, MakeRun, demonstrations, rankings, texts
from tests.trainer.test_models import encoder_of
from tests.trainer.test_ppo import tensors_of, watched
from trainer.base import new_model, train_base
from trainer.config import BaseConfig
from trainer.contract import TextRecord
from trainer.data import endless, epoch_batches, packed_rows
from trainer.models import load_tokenizer
from trainer.reward import train_reward
from trainer.run import Run
from trainer.sft import train_sft

pytestmark = pytest.mark.train

SEED, EPOCHS = 3, 2
OPTIMIZER: dict[str, Any] = {
    "epochs": EPOCHS,
    "learning_rate": 3e-3,
    "final_learning_rate": 0.2,
    "adam_beta1": 0.8,
    "adam_beta2": 0.97,
    "adam_eps": 1e-3,
    "gradient_clip": 0.3,
}


def batches(records: int, size: int) -> list[list[int]]:
    """Indices of each batch of all epochs, in each of which every record has its turn."""
    of_epochs = [epoch_batches(records, size, SEED, epoch) for epoch in range(EPOCHS)]
    for epoch in of_epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(records))
    assert of_epochs[0] != of_epochs[1]
    return [batch for epoch in of_epochs for batch in epoch]


class Steps:
    """Adam with the rate of each step, and the weights after it."""

    def __init__(
        self,
        model: Any,
        total: int,
        *,
        warmup: int = 0,
        final: float = OPTIMIZER["final_learning_rate"],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.model, self.total, self.warmup, self.final = model, total, warmup, final
        self.weights: list[list[Tensor]] = []
        self.optimizer = optimizer or torch.optim.Adam(
            model.parameters(),
            betas=(OPTIMIZER["adam_beta1"], OPTIMIZER["adam_beta2"]),
            eps=OPTIMIZER["adam_eps"],
        )

    def take(self, loss: Tensor) -> None:
        done = len(self.weights)
        progress = (done - self.warmup) / (self.total - 1 - self.warmup)
        share = self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
        if done < self.warmup:
            share = (done + 1) / self.warmup
        for group in self.optimizer.param_groups:
            group["lr"] = OPTIMIZER["learning_rate"] * share
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER["gradient_clip"])
        self.optimizer.step()
        self.weights.append([p.detach().clone() for p in tensors_of(self.optimizer)])


def assert_same(ours: list[list[Tensor]], theirs: list[list[Tensor]]) -> None:
    assert len(ours) == len(theirs) > 4
    for step, other_step in zip(ours, theirs, strict=True):
        for one, other in zip(step, other_step, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


def mean_loss(model: Any, documents: list[list[int]], first: list[int]) -> Tensor:
    """Over all tokens of the documents from each one's first on."""
    total, tokens = torch.zeros(()), 0
    for document, start in zip(documents, first, strict=True):
        logits = model(input_ids=torch.tensor([document])).logits[0, start - 1 : -1]
        aims = torch.tensor(document[start:])
        total = total + F.cross_entropy(logits, aims, reduction="sum")
        tokens += len(aims)
    return total / tokens


def test_the_base_model_equals_a_plain_loop(make_run: MakeRun) -> None:
    total, size = 12, 4
    told = BASE_CONFIG | {
        "steps": total,
        "warmup_fraction": 0.25,
        "batch_rows": size,
        "learning_rate": OPTIMIZER["learning_rate"],
        "gradient_clip": OPTIMIZER["gradient_clip"],
    }
    config = BaseConfig.build("starter", told)
    run = make_run(
        "base",
        kind="base",
        seed=SEED,
        data={"pretraining": texts(60)},
        config=told,
    )
    with watched() as (_, weights):
        train_base(run)

    tokenizer = load_tokenizer(str(run / "model"))
    opened = Run.open(run)
    opened.seed(0, purpose=1)
    model: Any = new_model(config, tokenizer)
    records = [TextRecord(text=t["text"]) for t in texts(60)]
    random.Random(SEED).shuffle(records)
    documents = encoder_of(tokenizer).documents(records[1:])  # the first is held out
    rows = packed_rows(documents, BASE_CONFIG["row_tokens"])
    vectors = {p for p in model.parameters() if p.ndim < 2}
    groups = [
        {"params": [p for p in model.parameters() if p not in vectors], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p in vectors], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    steps = Steps(model, total, warmup=3, final=0.1, optimizer=optimizer)
    for number in range(total):
        picked = endless(len(rows), SEED, size * number, size)
        read = [document for i in picked for document in rows[i]]
        steps.take(mean_loss(model, read, [1] * len(read)))
    assert_same(weights, steps.weights)


def test_sft_equals_a_plain_loop(base_run: Path, make_run: MakeRun) -> None:
    from transformers import AutoModelForCausalLM

    source = str(base_run / "model")
    config = {"batch_size": 4, "residual_dropout": 0.0, "warmup_steps": 2}
    mix = {"pretraining_fraction": 0.25, "pretraining_rows": 2, "pretraining_tokens": 16}
    run = make_run(
        "sft",
        kind="sft",
        seed=SEED,
        models={"init": source},
        data={"demonstrations": demonstrations(), "pretraining": texts(50)},
        config=OPTIMIZER | config | mix,
    )
    with watched() as (_, weights):
        train_sft(run)

    model: Any = AutoModelForCausalLM.from_pretrained(source).eval()
    encoder = encoder_of(load_tokenizer(source))
    train = [d for d in demonstrations() if d["split"] == "train"]
    assert len(train) < len(demonstrations())
    prompts = encoder.prompts([d["prompt"] for d in train])
    completions = encoder.completions([d["completion"] for d in train])
    rows = packed_rows(encoder.documents([TextRecord(text=t["text"]) for t in texts(50)]), 16)
    picked = batches(len(train), 4)
    steps = Steps(model, len(picked), warmup=2)
    for number, batch in enumerate(picked):
        answered = mean_loss(
            model, [prompts[i] + completions[i] for i in batch], [len(prompts[i]) for i in batch]
        )
        drawn = endless(len(rows), SEED, 2 * number, 2)
        read = [document for i in drawn for document in rows[i]]
        steps.take(0.75 * answered + 0.25 * mean_loss(model, read, [1] * len(read)))
    assert_same(weights, steps.weights)


def test_the_reward_model_equals_a_plain_loop(base_run: Path, make_run: MakeRun) -> None:
    from transformers import AutoModelForSequenceClassification

    source = str(base_run / "model")
    run = make_run(
        "reward",
        kind="reward",
        seed=SEED,
        models={"init": source},
        data={"rankings": rankings()},
        config=OPTIMIZER | {"batch_prompts": 5},
    )
    with watched() as (_, weights):
        train_reward(run)

    model: Any = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1).eval()
    torch.nn.init.zeros_(model.score.weight)
    encoder = encoder_of(load_tokenizer(source))
    train = [r for r in rankings() if r["split"] == "train"]
    assert len(train) < len(rankings())
    picked = batches(len(train), 5)
    steps = Steps(model, len(picked))
    for batch in picked:
        loss = torch.zeros(())
        for record in (train[i] for i in batch):
            (prompt,) = encoder.prompts([record["prompt"]])
            scores = []
            for completion in encoder.completions(record["completions"]):
                trunk = getattr(model, model.base_model_prefix)
                hidden = trunk(input_ids=torch.tensor([prompt + completion])).last_hidden_state
                scores.append(model.score(hidden[0, -1])[0])
            pairs = [  # groups stand from the best to the worst, those of a group tie
                scores[i] - scores[j]
                for better, worse in combinations(record["groups"], 2)
                for i in better
                for j in worse
            ]
            loss = loss - F.logsigmoid(torch.stack(pairs)).mean() / len(batch)
        steps.take(loss)
    assert_same(weights, steps.weights)
