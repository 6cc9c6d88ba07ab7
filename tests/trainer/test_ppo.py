"""What holds in the loop of PPO: ratio, penalty, sums of gradients, and whose weights are saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from tests.trainer.conftest import MakeRun, metric_lines, texts
from tests.trainer.test_kinds import ppo_spec
from trainer import engine
from trainer.config import PPOConfig
from trainer.contract import PPO_KL, PPO_SCORE, TextRecord
from trainer.data import Encoder, endless, packed_rows
from trainer.metrics import TrainingError
from trainer.models import load_tokenizer
from trainer.ppo import train_ppo

pytestmark = pytest.mark.train

CONFIG: dict[str, Any] = {
    "episodes": 32,
    "batch_episodes": 16,
    "minibatches": 2,
    "max_completion_tokens": 12,
    "policy_learning_rate": 3e-3,
    "ptx_tokens": 16,
    "ptx_coefficient": 0.5,
    "ptx_examples_per_episode": 0.5,
    "ptx_held_out": 0,
    "gradient_clip": 1e9,
}


def spec(base_run: Path, reward_run: Path, **config: Any) -> dict[str, Any]:
    told = ppo_spec(base_run, reward_run)
    return {
        **told,
        "data": {**told["data"], "pretraining": texts(30)},
        "config": CONFIG | config,
    }


def tensors_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


@contextmanager
def watched() -> Iterator[tuple[list[list[Tensor]], list[list[Tensor]]]]:
    """(gradients, weights) of each step of the optimizers, policy and value function in turn."""
    gradients: list[list[Tensor]] = []
    weights: list[list[Tensor]] = []
    before = register_optimizer_step_pre_hook(
        lambda optimizer, *_: gradients.append(
            [
                torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for p in tensors_of(optimizer)
            ]
        )
    )
    after = register_optimizer_step_post_hook(
        lambda optimizer, *_: weights.append([p.detach().clone() for p in tensors_of(optimizer)])
    )
    yield gradients, weights
    before.remove()
    after.remove()


def pretraining_gradient(base_run: Path, config: PPOConfig, seed: int) -> list[Tensor]:
    """That of the first minibatch's pretraining examples, by plain transformers."""
    from transformers import AutoModelForCausalLM

    source = str(base_run / "model")
    encoder = Encoder(
        tokenizer=load_tokenizer(source),
        template="{prompt}\n\n",
        max_prompt_tokens=64,
        max_completion_tokens=12,
    )
    documents = encoder.documents([TextRecord(text=t["text"]) for t in texts(30)])
    rows = packed_rows(documents, config.ptx_tokens)
    drawn = endless(len(rows), seed, 0, 4)  # half an example for each of 8 episodes
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    total, tokens = torch.zeros(()), 0
    for document in (document for i in drawn for document in rows[i]):
        ids = torch.tensor([document])
        total = total + model(input_ids=ids, labels=ids).loss * (len(document) - 1)
        tokens += len(document) - 1
    (total / tokens).backward()
    return [p.grad for p in model.parameters()]


def test_a_minibatch_s_gradient_is_the_sum_of_ppo_s_and_of_gamma_times_pretraining_s(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    found: dict[str, list[Tensor]] = {}
    for name, config in {
        "both": {"pass_tokens": 60},
        "ppo": {"ptx_coefficient": 0.0, "pass_tokens": 60},
        "ppo in one pass": {"ptx_coefficient": 0.0},
    }.items():
        run = make_run(name, **spec(base_run, reward_run, episodes=16, minibatches=2, **config))
        with watched() as (gradients, _):
            train_ppo(run)
        found[name] = gradients[0]
    config = PPOConfig.build("starter", CONFIG)
    mix = pretraining_gradient(base_run, config, seed=5)
    assert max(g.abs().max() for g in found["ppo"]) > 1e-3
    assert max(g.abs().max() for g in mix) > 1e-3
    for both, alone, whole, pretraining in zip(
        found["both"], found["ppo"], found["ppo in one pass"], mix, strict=True
    ):
        torch.testing.assert_close(both, alone + 0.5 * pretraining, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-6)


def test_the_average_of_the_weights_is_what_is_saved(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    run = make_run("ppo", **spec(base_run, reward_run, ema_decay=0.75))
    with watched() as (_, weights):
        train_ppo(run)
    of_policy = weights[::2]  # two iterations of two minibatches
    assert len(of_policy) == 4
    from transformers import AutoModelForCausalLM

    start: Any = AutoModelForCausalLM.from_pretrained(base_run / "model", dtype=torch.float32)
    average = [p.detach() for p in start.parameters()]
    for step in of_policy:
        average = [0.75 * mean + 0.25 * new for mean, new in zip(average, step, strict=True)]
    saved = load_file(run / "model" / "model.safetensors")
    names = [name for name, _ in start.named_parameters()]
    apart = 0.0
    for name, mean, last in zip(names, average, of_policy[-1], strict=True):
        torch.testing.assert_close(saved[name], mean, rtol=0, atol=1e-6)
        apart = max(apart, (saved[name] - last).abs().max().item())
    assert apart > 1e-4


def test_a_completion_without_end_of_text_gets_the_penalty(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    config = {"max_completion_tokens": 1, "missing_eos_score": -7.0, "episodes": 16}
    run = make_run("ppo", **spec(base_run, reward_run, **config))
    train_ppo(run)
    (line,) = metric_lines(run)
    assert line["values"]["rollout/missing_eos_share"] == 1
    assert line["values"][PPO_SCORE] == -7.0


def test_another_start_than_the_reference_has_its_kl_from_the_first(
    base_run: Path, reward_run: Path, make_run: MakeRun
) -> None:
    """As in a round, where PPO starts from the RL init and KL is measured from SFT."""
    from transformers import AutoModelForCausalLM

    other: Any = AutoModelForCausalLM.from_pretrained(base_run / "model", dtype=torch.float32)
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(1.3)
    told = spec(base_run, reward_run, episodes=16)
    run = make_run("ppo", **told)
    other.save_pretrained(run / "other")
    load_tokenizer(str(base_run / "model")).save_pretrained(run / "other")
    models = {**told["models"], "init": str(run / "other")}
    train_ppo(make_run("apart", **{**told, "models": models}))
    train_ppo(run)
    (same,) = metric_lines(run)
    (apart,) = metric_lines(run.parent / "apart")
    assert same["values"][PPO_KL] == pytest.approx(0, abs=1e-5)
    assert apart["values"][PPO_KL] > 0.05


@pytest.mark.parametrize("since", [1, 2], ids=["the first iteration", "the second"])
@pytest.mark.parametrize(("every", "one"), [(2e-5, 0.0), (0.0, 1.5e-4)])
def test_sampling_that_disagrees_with_the_update_ends_the_run(
    base_run: Path,
    reward_run: Path,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    every: float,
    one: float,
    since: int,
) -> None:
    """In float32 the first ratio is 1 within 1e-5 on average, and within 1e-4 at each token.

    As long as the policy is the reference, its KL is 0 as exactly.
    """
    calls = 0

    def wrong(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        found = sample(*arguments, **options)
        if calls < since:
            return found
        found = [replace(s, logprobs=[x + every for x in s.logprobs]) for s in found]
        return [
            replace(s, logprobs=[s.logprobs[0] + one, *s.logprobs[1:]]) if i == 0 else s
            for i, s in enumerate(found)
        ]

    sample = engine.sample
    monkeypatch.setattr(engine, "sample", wrong)
    run = make_run("ppo", **spec(base_run, reward_run, minibatches=1))
    message = "and the reference disagree" if since == 1 else "iteration 1: .* and update disagree"
    with pytest.raises(TrainingError, match=message):
        train_ppo(run)
    monkeypatch.setattr(engine, "sample", sample)
    train_ppo(run)
    for line in metric_lines(run):
        assert line["values"]["ppo/first_ratio_mean_error"] < 2e-6
