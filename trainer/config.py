"""What a run may be told: one frozen, keyword-only dataclass a kind.

Defaults are the paper's (InstructGPT, section 3.5 and appendix C), for its 1.3B model: the preset
"paper". "paper-6b" and "paper-175b" hold what differs at its other sizes; "starter" scales all to a
model of about a million parameters on two CPU cores. Of SFT each has a second one that ends in
"-rl-init", for the policy that PPO starts from. tests/trainer/test_paper.py holds the paper's table
against them. Overrides are strict: a typo raises.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, get_args, get_type_hints

from trainer.contract import RunKind

KLController = Literal["fixed", "adaptive"]
KL_ERROR = 0.2  # of the target: as more the adaptive controller counts no KL

# Of kinds where the paper's sizes do not differ: there is a 6B reward model for all of them.
PAPER: dict[str, dict[str, Any]] = {"paper": {}, "paper-6b": {}, "paper-175b": {}}
RL_INIT = "-rl-init"  # the end of the presets of the SFT run that PPO starts from


class ConfigError(ValueError):
    """A configuration cannot be used. The message names the field and the reason."""


@dataclass(frozen=True, kw_only=True)
class _Config:
    presets: ClassVar[dict[str, dict[str, Any]]] = PAPER

    checkpoint_seconds: float = 60.0  # at least this long between two checkpoints
    checkpoints_kept: int = 2  # the newest so many, and the best where a kind has a best
    threads: int = 0  # of torch on a CPU; 0 leaves the choice to torch and OMP_NUM_THREADS

    @classmethod
    def build(cls, preset: str, overrides: dict[str, Any]) -> Self:
        """The preset with overrides. Raises ConfigError for an unknown name or a bad value."""
        if preset not in cls.presets:
            known = ", ".join(cls.presets)
            raise ConfigError(f"{cls.__name__}: there is no preset {preset!r}; there is {known}")
        known_fields = [f.name for f in fields(cls)]
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for name, value in {**cls.presets[preset], **overrides}.items():
            if name not in known_fields:
                close = difflib.get_close_matches(name, known_fields, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ConfigError(f"{cls.__name__}: there is no field {name!r}{hint}")
            values[name] = _checked(f"{cls.__name__}.{name}", value, hints[name])
        return cls(**values)

    def __post_init__(self) -> None:
        self._at_least(0, "checkpoint_seconds", "threads")
        self._at_most(1024, "threads")
        self._at_least(1, "checkpoints_kept")

    def _at_least(self, low: float, *names: str) -> None:
        for name in names:
            if getattr(self, name) < low:
                raise ConfigError(
                    f"{type(self).__name__}.{name}: {getattr(self, name)} is below {low}"
                )

    def _at_most(self, high: float, *names: str) -> None:
        for name in names:
            if getattr(self, name) > high:
                raise ConfigError(
                    f"{type(self).__name__}.{name}: {getattr(self, name)} is above {high}"
                )

    def _above_zero(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"{type(self).__name__}.{name}: {getattr(self, name)} must be above 0"
                )

    def _fraction(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"{type(self).__name__}.{name}: {getattr(self, name)} is not in [0, 1)"
                )

    def _share(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{type(self).__name__}.{name}: {getattr(self, name)} is not in [0, 1]"
                )


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value if it is of the field's type; an int is welcome where a float is due."""
    if choices := get_args(hint):
        if value in choices:
            return value
        raise ConfigError(f"{name}: {value!r} is none of {', '.join(map(repr, choices))}")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{name}: expected {hint.__name__}, got {value!r}")
    if hint is float and not abs(value) < float("inf"):
        raise ConfigError(f"{name}: {value!r} is not finite")
    return value


@dataclass(frozen=True, kw_only=True)
class BaseConfig(_Config):
    """A starter base model: byte-level BPE, a small GPT-NeoX. The paper starts from GPT-3."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"starter": {"checkpoint_seconds": 20.0}}

    vocab_size: int = 800  # tokens, <|endoftext|> and <|pad|> among them
    context: int = 256  # tokens
    width: int = 128
    layers: int = 2
    heads: int = 4
    initial_deviation: float = 0.08  # of the weights
    steps: int = 1400
    batch_rows: int = 8  # rows of `row_tokens` tokens
    row_tokens: int = 128
    learning_rate: float = 3e-3  # peak, after a warm-up over `warmup_fraction`, cosine to 10 %
    warmup_fraction: float = 0.05
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    valid_fraction: float = 0.02  # of the documents

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "layers", "heads", "steps", "batch_rows", "width")
        self._at_least(258, "vocab_size")  # 256 bytes and two special tokens
        self._at_least(2, "context", "row_tokens")
        self._above_zero("learning_rate", "gradient_clip", "initial_deviation")
        self._at_least(0, "weight_decay")
        self._fraction("warmup_fraction", "valid_fraction")
        if self.width % self.heads:
            raise ConfigError(f"BaseConfig.heads: {self.heads} do not divide width {self.width}")
        if self.width // self.heads % 2:  # rotary positions turn pairs
            raise ConfigError(f"BaseConfig.heads: {self.width // self.heads} columns each are odd")
        if self.row_tokens > self.context:
            raise ConfigError(f"BaseConfig.row_tokens: {self.row_tokens} > context {self.context}")


@dataclass(frozen=True, kw_only=True)
class _Optimized(_Config):
    """What all fine-tuning shares: Adam with the paper's betas and the paper's length limits."""

    max_prompt_tokens: int = 1000
    max_completion_tokens: int = 1000
    pass_tokens: int = 16_384  # at most, in one forward and backward pass
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-5
    gradient_clip: float = 1.0  # norm over all parameters; the paper names none

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "max_prompt_tokens", "max_completion_tokens", "pass_tokens")
        self._fraction("adam_beta1", "adam_beta2")
        self._above_zero("adam_eps", "gradient_clip")


_STARTER_SFT: dict[str, Any] = {
    "epochs": 6,
    "learning_rate": 1e-3,
    "max_prompt_tokens": 192,
    "max_completion_tokens": 64,
    "pretraining_tokens": 128,
    "selection_samples": 256,
    "checkpoint_seconds": 20.0,
}
_RL_INIT: dict[str, Any] = {"epochs": 2, "pretraining_fraction": 0.1}


@dataclass(frozen=True, kw_only=True)
class SFTConfig(_Optimized):
    """Supervised fine-tuning on demonstrations (section 3.5)."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "paper-6b": {},
        "paper-175b": {"learning_rate": 5.03e-6, "batch_size": 8},
        "starter": _STARTER_SFT,
        "paper-rl-init": {**_RL_INIT, "learning_rate": 5e-6},
        "paper-6b-rl-init": {**_RL_INIT, "learning_rate": 1.04e-5},
        "paper-175b-rl-init": {**_RL_INIT, "learning_rate": 2.45e-6, "batch_size": 8},
        "starter-rl-init": {**_STARTER_SFT, **_RL_INIT},
    }

    epochs: int = 16
    batch_size: int = 32  # demonstrations
    learning_rate: float = 9.65e-6  # peak
    warmup_steps: int = 0  # linear, to the peak; then a cosine
    final_learning_rate: float = 0.1  # share of the peak where the cosine ends
    residual_dropout: float = 0.2
    pretraining_fraction: float = 0.0  # weight of the pretraining loss; 0.1 to initialise RL
    pretraining_rows: int = 8  # a step, where pretraining_fraction is above 0
    pretraining_tokens: int = 2048  # a row
    selection_samples: int = 512  # at most, of validation prompts, for a reward model to score

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "epochs", "batch_size", "pretraining_rows", "selection_samples")
        self._at_most(100_000, "selection_samples")
        self._at_least(0, "warmup_steps")
        self._share("final_learning_rate")
        self._at_least(2, "pretraining_tokens")
        self._above_zero("learning_rate")
        self._fraction("residual_dropout", "pretraining_fraction")


@dataclass(frozen=True, kw_only=True)
class RewardConfig(_Optimized):
    """The reward model, Eq. 1: one epoch, a prompt with all its completions is one element."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PAPER | {
        "starter": {
            "epochs": 2,
            "batch_prompts": 8,
            "learning_rate": 5e-4,
            "max_prompt_tokens": 192,
            "max_completion_tokens": 64,
            "checkpoint_seconds": 20.0,
        },
    }

    epochs: int = 1  # more overfits
    batch_prompts: int = 64
    learning_rate: float = 9e-6  # peak; a cosine from the first step
    final_learning_rate: float = 0.1  # share of the peak where the cosine ends
    members: int = 1  # heads on one trunk: above 1 an ensemble, whose spread is reported

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "epochs", "batch_prompts", "members")
        self._share("final_learning_rate")
        self._above_zero("learning_rate")


@dataclass(frozen=True, kw_only=True)
class PPOConfig(_Optimized):
    """PPO with a per-token KL penalty and, with gamma above 0, a pretraining mix (Eq. 2)."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PAPER | {
        "starter": {
            "episodes": 6144,
            "batch_episodes": 128,
            "minibatches": 2,
            "policy_learning_rate": 7e-4,
            "value_learning_rate": 1e-3,
            "kl_coefficient": 0.2,
            "max_prompt_tokens": 192,
            "max_completion_tokens": 48,
            "ptx_coefficient": 0.25,
            "ptx_examples_per_episode": 0.125,
            "ptx_tokens": 128,
            "ptx_held_out": 16,
            "ema_decay": 0.95,
            "checkpoint_seconds": 20.0,
        },
    }

    episodes: int = 256_000
    batch_episodes: int = 512  # episodes an iteration
    minibatches: int = 8
    inner_epochs: int = 1
    policy_learning_rate: float = 9e-6  # constant after the warm-up
    value_learning_rate: float = 9e-6
    warmup_iterations: int = 10  # linear
    warmup_start: float = 0.1  # share of the rate in the first iteration
    temperature: float = 1.0
    kl_coefficient: float = 0.02  # beta, per token
    kl_controller: KLController = "fixed"
    kl_target: float = 6.0  # nats an episode, adaptive only
    kl_horizon: int = 10_000  # episodes, adaptive only
    discount: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2  # of the ratio
    value_clip: float = 0.2  # of the values, in units of score
    missing_eos_score: float = -1.0  # replaces the score of a completion without end-of-text
    ptx_coefficient: float = 27.8  # gamma; 0 is PPO without the pretraining mix
    ptx_examples_per_episode: float = 8.0
    ptx_tokens: int = 2048  # a pretraining example
    ptx_held_out: int = 0  # examples, a tenth at most, whose loss is logged: the alignment tax
    ema_decay: float = 0.992  # a policy update

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "episodes", "batch_episodes", "minibatches", "inner_epochs")
        self._at_least(1, "kl_horizon")
        self._at_least(0, "warmup_iterations", "kl_coefficient", "ptx_coefficient")
        self._at_least(0, "ptx_held_out")
        self._at_least(2, "ptx_tokens")
        self._above_zero("policy_learning_rate", "value_learning_rate", "temperature")
        self._above_zero("clip", "value_clip", "kl_target", "ptx_examples_per_episode")
        self._fraction("ema_decay", "warmup_start")
        self._share("discount", "gae_lambda")
        if self.batch_episodes % self.minibatches:
            raise ConfigError(
                f"PPOConfig.minibatches: {self.minibatches} do not divide "
                f"batch_episodes {self.batch_episodes}"
            )
        if self.kl_controller == "adaptive":
            self._above_zero("kl_coefficient")  # which is multiplied
            if self.kl_horizon <= KL_ERROR * self.batch_episodes:
                raise ConfigError(
                    f"PPOConfig.kl_horizon: {self.kl_horizon} episodes would take the coefficient "
                    f"to 0 or below in one batch of {self.batch_episodes}; above "
                    f"{KL_ERROR * self.batch_episodes:g} they cannot"
                )
        if self.episodes < self.batch_episodes:
            raise ConfigError(
                f"PPOConfig.episodes: {self.episodes} are less than one batch "
                f"of {self.batch_episodes}"
            )
        if rest := self.episodes % self.batch_episodes:
            fewer = self.episodes - rest
            raise ConfigError(
                f"PPOConfig.episodes: {self.episodes} are no whole number of batches of "
                f"{self.batch_episodes}; {fewer} or {fewer + self.batch_episodes} are"
            )


@dataclass(frozen=True, kw_only=True)
class SampleConfig(_Config):
    """Sampling completions. Temperature 0 is greedy."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PAPER | {
        "starter": {"max_prompt_tokens": 192, "max_completion_tokens": 48},
    }

    temperature: float = 1.0
    max_prompt_tokens: int = 1000
    max_completion_tokens: int = 1000
    batch_completions: int = 128
    pass_tokens: int = 16_384  # at most, in one pass of the reward model

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(0, "temperature")
        self._at_least(1, "max_prompt_tokens", "max_completion_tokens", "batch_completions")
        self._at_least(1, "pass_tokens")


CONFIGS: dict[RunKind, type[_Config]] = {
    "base": BaseConfig,
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "sample": SampleConfig,
}
