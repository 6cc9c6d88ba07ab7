"""The training tables of InstructGPT (Ouyang et al. 2022) against the presets that bear its name.

A row is what the paper says, where it says it, and the fields that say the same. Sections with a
letter are of the appendix. "field" rows are of what the paper leaves open and the reference
implementations of its authors fix: lm-human-preferences (Ziegler et al. 2019) and
summarize-from-feedback (Stiennon et al. 2020).
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from trainer import crossvalidate, ppo, reward, sft
from trainer.config import PPOConfig, RewardConfig, SampleConfig, SFTConfig
from trainer.losses import pairs_of
from trainer.models import load_policy, load_tokenizer
from trainer.run import cosine

SIZES = ("paper", "paper-6b", "paper-175b")  # 1.3B, 6B, 175B
LEARNED = (SFTConfig, RewardConfig, PPOConfig)

# (section, what the paper says, kinds, preset by preset, fields and values)
Row = tuple[str, str, tuple[type[Any], ...], tuple[str, ...], dict[str, Any]]
RL_INITS = tuple(f"{size}-rl-init" for size in SIZES)
TABLE: tuple[Row, ...] = (
    ("C", "Adam, beta 0.9 and 0.95", LEARNED, SIZES, {"adam_beta1": 0.9, "adam_beta2": 0.95}),
    (
        "C, A",
        "the same for the RL init, and the same lengths",
        (SFTConfig,),
        RL_INITS,
        {
            "adam_beta1": 0.9,
            "adam_beta2": 0.95,
            "adam_eps": 1e-5,
            "max_prompt_tokens": 1000,
            "max_completion_tokens": 1000,
        },
    ),
    ("field", "Adam eps 1e-5", LEARNED, SIZES, {"adam_eps": 1e-5}),
    ("A", "prompts of at most 1,000 tokens", LEARNED, SIZES, {"max_prompt_tokens": 1000}),
    ("A", "responses of at most 1,000 tokens", LEARNED, SIZES, {"max_completion_tokens": 1000}),
    (
        "A",
        "the same when it is sampled, temperature 1",
        (SampleConfig,),
        SIZES,
        {"max_prompt_tokens": 1000, "max_completion_tokens": 1000, "temperature": 1.0},
    ),
    (
        "A",
        "context of 2,048 tokens",
        (SFTConfig,),
        SIZES + RL_INITS,
        {"pretraining_tokens": 2048},
    ),
    ("A", "context of 2,048 tokens", (PPOConfig,), SIZES, {"ptx_tokens": 2048}),
    (
        "3.5, C",
        "16 epochs, cosine to 10 % without warm-up, residual dropout 0.2, no pretraining text",
        (SFTConfig,),
        SIZES,
        {
            "epochs": 16,
            "warmup_steps": 0,
            "final_learning_rate": 0.1,
            "residual_dropout": 0.2,
            "pretraining_fraction": 0.0,
        },
    ),
    (
        "C",
        "LR 9.65e-6, batch 32 (1.3B, 6B)",
        (SFTConfig,),
        SIZES[:2],
        {"learning_rate": 9.65e-6, "batch_size": 32},
    ),
    (
        "C",
        "LR 5.03e-6, batch 8 (175B)",
        (SFTConfig,),
        SIZES[2:],
        {"learning_rate": 5.03e-6, "batch_size": 8},
    ),
    (
        "C",
        "RL init: 2 epochs with 10 % pretraining data, cosine to 10 %",
        (SFTConfig,),
        RL_INITS,
        {
            "epochs": 2,
            "warmup_steps": 0,
            "pretraining_fraction": 0.1,
            "final_learning_rate": 0.1,
            "residual_dropout": 0.2,
        },
    ),
    ("C", "its LR (1.3B)", (SFTConfig,), RL_INITS[:1], {"learning_rate": 5e-6, "batch_size": 32}),
    ("C", "its LR (6B)", (SFTConfig,), RL_INITS[1:2], {"learning_rate": 1.04e-5, "batch_size": 32}),
    ("C", "its LR (175B)", (SFTConfig,), RL_INITS[2:], {"learning_rate": 2.45e-6, "batch_size": 8}),
    (
        "3.5, C",
        "reward model: one epoch, LR 9e-6, cosine to 10 %, 64 prompts a batch; one model",
        (RewardConfig,),
        SIZES,
        {
            "epochs": 1,
            "learning_rate": 9e-6,
            "final_learning_rate": 0.1,
            "batch_prompts": 64,
            "members": 1,
        },
    ),
    (
        "C",
        "PPO: 256k episodes, 512 a batch, 8 minibatches, one inner epoch",
        (PPOConfig,),
        SIZES,
        {"episodes": 256_000, "batch_episodes": 512, "minibatches": 8, "inner_epochs": 1},
    ),
    (
        "C",
        "clip 0.2, temperature 1, no discount, EMA of weights 0.992",
        (PPOConfig,),
        SIZES,
        {"clip": 0.2, "temperature": 1.0, "discount": 1.0, "ema_decay": 0.992},
    ),
    (
        "C",
        "constant LR after a warm-up of 10 iterations from a tenth",
        (PPOConfig,),
        SIZES,
        {"warmup_iterations": 10, "warmup_start": 0.1},
    ),
    (
        "3.5, C",
        "KL penalty of 0.02 a token",
        (PPOConfig,),
        SIZES,
        {"kl_coefficient": 0.02, "kl_controller": "fixed"},
    ),
    ("C", "value function: LR 9e-6", (PPOConfig,), SIZES, {"value_learning_rate": 9e-6}),
    (
        "C",
        "PPO-ptx: 8 pretraining examples an episode, gamma 27.8",
        (PPOConfig,),
        SIZES,
        {"ptx_examples_per_episode": 8.0, "ptx_coefficient": 27.8},
    ),
    (
        "field",
        "lambda 0.95, value clip 0.2, -1 without end-of-text",
        (PPOConfig,),
        SIZES,
        {"gae_lambda": 0.95, "value_clip": 0.2, "missing_eos_score": -1.0},
    ),
)

# No figure of the paper's is behind these, so the table does not hold them.
OURS = {
    "checkpoint_seconds",
    "threads",
    "pass_tokens",
    "gradient_clip",
    "checkpoints_kept",
    "batch_completions",
    "selection_samples",  # it selects by the score; of how many answers is not said
    "pretraining_rows",
    "policy_learning_rate",  # what is found by a sweep; the one LR it names is the value function's
    "ptx_held_out",
    "kl_target",
    "kl_horizon",
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}: {row[1]}")
def test_the_papers_table_is_the_preset(row: Row) -> None:
    section, says, kinds, presets, values = row
    for kind in kinds:
        for preset in presets:
            config = kind.build(preset, {})
            held = {name: getattr(config, name) for name in values}
            assert held == values, f"{kind.__name__}, {preset}: section {section} says {says}"


@pytest.mark.parametrize("kind", [*LEARNED, SampleConfig])
def test_every_other_field_is_known_to_be_ours(kind: type[Any]) -> None:
    for preset in (name for name in kind.presets if name.startswith("paper")):
        held = {
            name
            for _, _, kinds, presets, values in TABLE
            if kind in kinds and preset in presets
            for name in values
        }
        assert {f.name for f in fields(kind)} - held <= OURS, preset
        assert not held & OURS


def test_a_batch_of_the_reward_model_holds_2304_comparisons_at_most() -> None:
    nine = [[i] for i in range(9)]
    assert len(pairs_of(nine)) == len(list(combinations(range(9), 2))) == 36
    assert RewardConfig.build("paper", {}).batch_prompts * 36 == 2304


def test_a_ppo_batch_is_8_minibatches_of_64() -> None:
    config = PPOConfig.build("paper", {})
    assert config.batch_episodes // config.minibatches == 64
    assert config.episodes // config.batch_episodes == 500


def test_the_papers_schedules() -> None:
    config = SFTConfig.build("paper", {})
    rates = [
        config.learning_rate
        * cosine(step, 101, warmup=config.warmup_steps, final=config.final_learning_rate)
        for step in range(101)
    ]
    assert rates[0] == 9.65e-6
    assert rates[-1] == pytest.approx(9.65e-7)
    assert rates == sorted(rates, reverse=True)


def test_labelers_are_cross_validated_in_5_groups() -> None:
    assert inspect.signature(crossvalidate.crossvalidate).parameters["groups"].default == 5


def test_half_precision_passes_and_float32_weights(base_run: Path) -> None:
    accelerate = Path(sft.__file__).parent / "accelerate" / "bf16.yaml"
    assert yaml.safe_load(accelerate.read_text(encoding="utf-8"))["mixed_precision"] == "bf16"
    source = str(base_run / "model")
    model = load_policy(source, load_tokenizer(source))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("loop", "names"),
    [
        (sft, ("last epoch", "pretraining mix", "float32", "batches", "clipped")),
        (reward, ("6B", "float32", "batches", "clipped", "zero")),
        (ppo, ("sampling", "float32", "clipped", "pretraining example", "policy learning rate")),
    ],
)
def test_deviations_stand_in_the_docstring_of_the_loop(
    loop: ModuleType, names: tuple[str, ...]
) -> None:
    assert loop.__doc__ is not None
    _, deviations = loop.__doc__.split("Deviations from the paper")
    for name in names:
        assert name in " ".join(deviations.split()), name
