"""Two iterations of PPO-ptx beside a plain one: transformers, one episode a pass, nothing shared.

What is sampled is taken from the run; scores, rewards, advantages, both losses, the pretraining
mix, clipping, the rates and Adam are done here anew, and the weights after each update compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import MakeRun, prompts, split_of, texts
from tests.trainer.test_models import encoder_of
from tests.trainer.test_plain_training import assert_same
from tests.trainer.test_ppo import spec, watched
from trainer import engine
from trainer.contract import TextRecord
from trainer.data import endless, packed_rows
from trainer.models import load_tokenizer
from trainer.ppo import train_ppo
from trainer.rollout import Sampled

pytestmark = pytest.mark.train

EPISODES = 16
CONFIG: dict[str, Any] = {
    "episodes": 2 * EPISODES,
    "batch_episodes": EPISODES,
    "minibatches": 2,
    "inner_epochs": 2,
    "policy_learning_rate": 3e-2,
    "value_learning_rate": 1e-2,
    "warmup_iterations": 2,
    "warmup_start": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.97,
    "adam_eps": 1e-3,
    "temperature": 1.7,
    "max_completion_tokens": 8,
    "kl_coefficient": 0.3,
    "discount": 0.9,
    "gae_lambda": 0.6,
    "clip": 0.01,
    "value_clip": 0.003,
    "missing_eos_score": -2.0,
    "gradient_clip": 0.05,
    "ptx_coefficient": 0.5,
}


class Plain:
    """PPO-ptx of the models of a run, an episode at a time."""

    def __init__(self, policy: str, reference: str, reward: str) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        self.policy: Any = AutoModelForCausalLM.from_pretrained(policy).eval()
        self.reference: Any = AutoModelForCausalLM.from_pretrained(reference).eval()
        self.reward: Any = AutoModelForSequenceClassification.from_pretrained(reward).eval()
        self.value: Any = AutoModelForSequenceClassification.from_pretrained(reward).eval()
        self.tokenizer: Any = load_tokenizer(policy)
        betas = CONFIG["adam_beta1"], CONFIG["adam_beta2"]
        self.optimizers = [
            torch.optim.Adam(model.parameters(), betas=betas, eps=CONFIG["adam_eps"])
            for model in (self.policy, self.value)
        ]

    def logprobs(self, model: Any, prompt: Sequence[int], ids: list[int]) -> Tensor:
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        barred = torch.zeros(logits.shape[-1])
        barred[self.tokenizer.pad_token_id] = -torch.inf
        logprobs = (logits / CONFIG["temperature"] + barred).log_softmax(-1)
        return logprobs.gather(1, torch.tensor(ids)[:, None])[:, 0]

    def scores(self, model: Any, prompt: Sequence[int], ids: list[int]) -> Tensor:
        """At the last token of the prompt and at each of the completion's: (1 + n,)."""
        trunk = getattr(model, model.base_model_prefix)
        hidden = trunk(input_ids=torch.tensor([[*prompt, *ids]])).last_hidden_state[0]
        found: Tensor = model.score(hidden)[len(prompt) - 1 :, 0] + model.config.reward_bias
        return found

    def iteration(
        self,
        episodes: list[tuple[Sequence[int], Sampled]],
        updates: list[tuple[list[int], list[list[int]]]],
        warm: float,
    ) -> list[tuple[list[Tensor], list[Tensor]]]:
        """The weights of policy and value function after each update: of which episodes, with which
        pretraining documents.
        """
        asked = [(prompt, made.ids) for prompt, made in episodes]
        advantages: list[Tensor] = []
        returns: list[Tensor] = []
        with torch.no_grad():
            old = [self.logprobs(self.policy, *a) for a in asked]
            values = [self.scores(self.value, *a)[:-1] for a in asked]
            for (prompt, made), own, seen in zip(episodes, old, values, strict=True):
                kl = own - self.logprobs(self.reference, prompt, made.ids)
                rewards = -CONFIG["kl_coefficient"] * kl
                score = self.scores(self.reward, prompt, made.ids)[-1].item()
                rewards[-1] += score if made.finished else CONFIG["missing_eos_score"]
                following = [*seen[1:].tolist(), 0.0]
                deltas = [
                    reward + CONFIG["discount"] * after - value
                    for reward, after, value in zip(
                        rewards.tolist(), following, seen.tolist(), strict=True
                    )
                ]
                decay = CONFIG["discount"] * CONFIG["gae_lambda"]
                summed = [
                    sum(decay**n * delta for n, delta in enumerate(deltas[t:]))
                    for t in range(len(deltas))
                ]
                advantages.append(torch.tensor(summed))
                returns.append(advantages[-1] + seen)
        every = torch.cat(advantages)
        advantages = [(a - every.mean()) / every.std(correction=0) for a in advantages]

        after: list[tuple[list[Tensor], list[Tensor]]] = []
        for minibatch, mix in updates:
            policy_loss, value_loss = torch.zeros(()), torch.zeros(())
            tokens = sum(len(asked[i][1]) for i in minibatch)
            for i in minibatch:
                a = asked[i]
                ratio = (self.logprobs(self.policy, *a) - old[i]).exp()
                kept = ratio.clamp(1 - CONFIG["clip"], 1 + CONFIG["clip"])
                gain = torch.minimum(advantages[i] * ratio, advantages[i] * kept)
                policy_loss = policy_loss - gain.sum() / tokens
                now = self.scores(self.value, *a)[:-1]
                near = values[i] + (now - values[i]).clamp(
                    -CONFIG["value_clip"], CONFIG["value_clip"]
                )
                errors = torch.maximum((now - returns[i]) ** 2, (near - returns[i]) ** 2)
                value_loss = value_loss + 0.5 * errors.sum() / tokens
            predicted = sum(len(document) - 1 for document in mix)
            for document in mix:
                row = torch.tensor([document])
                mean = self.policy(input_ids=row, labels=row).loss
                share = (len(document) - 1) / predicted
                policy_loss = policy_loss + CONFIG["ptx_coefficient"] * share * mean
            rates = CONFIG["policy_learning_rate"], CONFIG["value_learning_rate"]
            models = self.policy, self.value
            for model, loss, rate, optimizer in zip(
                models, (policy_loss, value_loss), rates, self.optimizers, strict=True
            ):
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG["gradient_clip"])
                optimizer.param_groups[0]["lr"] = rate * warm
                optimizer.step()
            policy, value = ([p.detach().clone() for p in m.parameters()] for m in models)
            after.append((policy, value))
        return after


def test_two_iterations_equal_a_plain_ppo_s(
    base_run: Path,
    reward_run: Path,
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = spec(base_run, reward_run, **CONFIG)
    base, reward = str(base_run / "model"), str(reward_run / "model")
    plain = Plain(base, base, reward)
    with torch.no_grad():  # the KL is not 0 from the first
        plain.policy.get_output_embeddings().weight.mul_(1.1)
    plain.policy.save_pretrained(tmp_path / "start")
    plain.tokenizer.save_pretrained(tmp_path / "start")
    models = {**told["models"], "init": str(tmp_path / "start")}

    rollouts: list[list[tuple[Sequence[int], Sampled]]] = []

    def kept(policy: Any, asked: Sequence[Sequence[int]], **options: Any) -> list[Sampled]:
        found = sample(policy, asked, **options)
        rollouts.append(list(zip(asked, found, strict=True)))
        return found

    sample = engine.sample
    orders: list[list[int]] = []

    def shuffled(count: int, **options: Any) -> Tensor:
        order = randperm(count, **options)
        orders.append(order.tolist())
        return order

    randperm = torch.randperm
    monkeypatch.setattr(torch, "randperm", shuffled)
    monkeypatch.setattr(engine, "sample", kept)
    run = make_run("ppo", **{**told, "models": models})
    with watched() as (_, weights):
        train_ppo(run)

    encoder = encoder_of(plain.tokenizer)
    asked = [tuple(prompt) for rollout in rollouts for prompt, _ in rollout]
    train = [p for i, p in enumerate(prompts()) if split_of(i) == "train"]
    ids = encoder.prompts(train)
    drawn = endless(len(ids), 5, 0, 2 * EPISODES)
    assert asked == [tuple(ids[i]) for i in drawn]
    assert set(drawn) == set(range(len(ids)))  # all have had their turn
    made = [one for rollout in rollouts for _, one in rollout]
    assert {one.finished for one in made} == {True, False}

    documents = encoder.documents([TextRecord(text=t["text"]) for t in texts(30)])
    rows = packed_rows(documents, 16)
    each = EPISODES // 4  # half a pretraining example an episode of a minibatch
    # Each of two epochs of each iteration has an order of its own, and two minibatches.
    assert len({tuple(order) for order in orders}) == len(orders) == 4
    assert all(sorted(order) == list(range(EPISODES)) for order in orders)
    minibatches = [order[n::2] for order in orders for n in range(2)]
    expected: list[list[Tensor]] = []
    for number, rollout in enumerate(rollouts):
        updates = [
            (
                minibatches[n],
                [d for i in endless(len(rows), 5, n * each, each) for d in rows[i]],
            )
            for n in range(4 * number, 4 * number + 4)
        ]
        for pair in plain.iteration(rollout, updates, warm=(0.1, 0.55)[number]):
            expected += pair
    assert len(expected) == 16
    assert_same(weights, expected)
