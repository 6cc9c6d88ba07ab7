"""Eq. 1 on a batch whose prompts have unlike numbers of completions, beside plain transformers."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.contract import RankingRecord
from trainer.data import Encoder
from trainer.models import load_reward_model, load_tokenizer
from trainer.processes import Processes
from trainer.reward import batch_loss, elements_of

pytestmark = pytest.mark.train

WORDS = ("cat", "dog", "bird", "fox", "cat cat", "red cat", "blue dog", "green fox", "white bird")
GROUPS = (
    [[1], [0]],  # K = 2, one pair
    [[2], [0, 3], [1]],  # K = 4, five pairs: 0 and 3 tie
    [[8], [7], [6], [5], [4], [3], [2], [1], [0]],  # K = 9, 36 pairs
    [[0, 1, 2]],  # all tie: no pair, left out
)


def records() -> list[RankingRecord]:
    return [
        RankingRecord(
            ranking_id=i,
            prompt_id=i,
            prompt=f"Name a {word}.",
            completions=[f"The {w}." for w in WORDS[: sum(map(len, groups))]],
            groups=groups,
            split="train",
            labeler="a",
        )
        for i, (word, groups) in enumerate(zip(WORDS, GROUPS, strict=False))
    ]


@pytest.mark.parametrize(("pass_tokens", "passes"), [(10_000, 1), (60, 2)])
def test_a_batch_of_unequal_rankings(reward_run: Path, pass_tokens: int, passes: int) -> None:
    from transformers import AutoModelForSequenceClassification

    source = str(reward_run / "model")
    tokenizer = load_tokenizer(source)
    encoder = Encoder(
        tokenizer=tokenizer, template="{prompt}\n\n", max_prompt_tokens=40, max_completion_tokens=20
    )
    given = records()
    elements = elements_of(
        given,
        encoder.prompts([r.prompt for r in given]),
        encoder.completions([c for r in given for c in r.completions]),
    )
    assert [len(e.pairs) for e in elements] == [1, 5, 36]
    plain: Any = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32)
    losses = []
    for element, groups in zip(elements, GROUPS, strict=False):
        scores = [
            plain(input_ids=torch.tensor([[*element.prompt, *completion]])).logits[0, 0]
            for completion in element.completions
        ]
        of_pairs = [
            -torch.nn.functional.logsigmoid(scores[better] - scores[worse])
            for rank, group in enumerate(groups)
            for below in groups[rank + 1 :]
            for better, worse in product(group, below)
        ]
        losses.append(torch.stack(of_pairs).mean())
    expected = torch.stack(losses).mean()
    expected.backward()

    processes = Processes()
    model = load_reward_model(source, tokenizer)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    model.get_input_embeddings().register_forward_hook(count)
    wrapped, _ = processes.prepare(model, torch.optim.SGD(model.parameters()))
    loss = batch_loss(processes, wrapped, elements, pass_tokens)
    assert calls == passes
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert not math.isclose(loss, math.log(2), abs_tol=0.05)  # scores are apart
    wanted = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-5)
