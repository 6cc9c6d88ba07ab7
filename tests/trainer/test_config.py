"""Configurations refuse what they do not know."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config import (
    BaseConfig,
    ConfigError,
    PPOConfig,
    RewardConfig,
    SampleConfig,
    SFTConfig,
)

KINDS = (BaseConfig, SFTConfig, RewardConfig, PPOConfig, SampleConfig)


@pytest.mark.parametrize("kind", KINDS)
def test_presets_are_valid(kind: type[Any]) -> None:
    for preset in kind.presets:
        assert kind.build(preset, {}) == kind.build(preset, {})


@pytest.mark.parametrize("kind", [SFTConfig, RewardConfig, PPOConfig, SampleConfig])
def test_defaults_are_the_papers(kind: type[Any]) -> None:
    assert kind.build("paper", {}) == kind()


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        (SFTConfig, {"epoch": 3}, "no field 'epoch'; did you mean 'epochs'"),
        (SFTConfig, {"epochs": "3"}, "SFTConfig.epochs: expected int, got '3'"),
        (SFTConfig, {"epochs": True}, "SFTConfig.epochs: expected int, got True"),
        (SFTConfig, {"epochs": 0}, "SFTConfig.epochs: 0 is below 1"),
        (SFTConfig, {"learning_rate": float("nan")}, "SFTConfig.learning_rate: nan"),
        (RewardConfig, {"learning_rate": 0}, "RewardConfig.learning_rate: 0.0 must be above 0"),
        (PPOConfig, {"kl_controller": "fix"}, "PPOConfig.kl_controller: 'fix' is none of"),
        (PPOConfig, {"minibatches": 7}, "PPOConfig.minibatches: 7 do not divide"),
        (PPOConfig, {"episodes": 100}, "PPOConfig.episodes: 100 are less than one batch"),
        (PPOConfig, {"episodes": 1000}, "1000 are no whole number of .* 512; 512 or 1024 are"),
        (PPOConfig, {"temperature": 0}, "PPOConfig.temperature: 0.0 must be above 0"),
        (PPOConfig, {"ema_decay": 1}, r"PPOConfig.ema_decay: 1.0 is not in \[0, 1\)"),
        (SampleConfig, {"temperature": -1}, "SampleConfig.temperature: -1.0 is below 0"),
        (SampleConfig, {"threads": 10**12}, "SampleConfig.threads: 1000000000000 is above 1024"),
        (SFTConfig, {"selection_samples": 10**9}, "selection_samples: 1000000000 is above 100000"),
    ],
)
def test_bad_overrides_name_the_field(
    kind: type[Any], overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind.build("paper", overrides)


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match="no preset 'papper'; there is paper, paper-6b, "):
        PPOConfig.build("papper", {})
    with pytest.raises(ConfigError, match="no preset 'paper'; there is starter"):
        BaseConfig.build("paper", {})


def test_an_int_is_welcome_where_a_float_is_due() -> None:
    assert SFTConfig.build("paper", {"learning_rate": 1}).learning_rate == 1.0
