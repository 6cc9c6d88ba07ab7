"""What a round is asked to do. Defaults are for a real study, REHEARSAL for a demo."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import Invalid

Preset = Literal["paper", "paper-6b", "paper-175b", "starter"]  # of trainer.config
RL_INIT: Final = "rl-init"  # the stage that makes the policy PPO starts from, and its overrides


class RoundConfig(BaseModel):
    """Counts are of prompts unless they say otherwise. A typo raises."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset = "paper"
    base_model: str | None = Field(
        default=None,
        description="A path or a Hugging Face name; None builds the starter base model.",
    )
    prompt_template: str = "{prompt}\n\n"
    demonstrations: int = Field(default=1000, ge=0, description="New ones to collect; 0 for none.")
    ranking_prompts: int = Field(default=1000, ge=2)
    completions_min: int = Field(default=4, ge=2, le=9)
    completions_max: int = Field(default=9, ge=2, le=9)
    contrast_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the completions to rank that an earlier policy gave: the base "
        "policy beside SFT samples, the SFT policy beside PPO samples.",
    )
    ranking_overlap: float = Field(
        default=0.1, ge=0, le=1, description="Share of rankings by two labelers, for agreement."
    )
    evaluation_prompts: int = Field(default=200, ge=1)
    evaluation_labels: int = Field(default=2, ge=1, description="Held-out labels a prompt.")
    rl_init: bool = Field(
        default=True,
        description="PPO starts from the base model after two epochs of SFT with pretraining text "
        "mixed in, as in the paper; or else from the SFT policy.",
    )
    baselines: tuple[str, ...] = Field(
        default=(),
        max_length=6,
        description="Names of external policies that are judged beside base, SFT and PPO.",
    )
    best_of: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Above 1, the blind evaluation also judges the best of so many SFT samples by "
        "the reward model.",
    )
    next_ranking_prompts: int = Field(
        default=500, ge=0, description="Samples of the new policy to rank in the next round."
    )
    starter_texts: int = Field(
        default=30_000, ge=100, description="Documents of the starter's pretraining text."
    )
    overrides: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="On the trainer's preset, by kind of run; rl-init has its own.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> RoundConfig:
        if self.completions_min > self.completions_max:
            raise ValueError("completions_min is larger than completions_max")
        if self.prompt_template.count("{prompt}") != 1:
            raise ValueError("prompt_template must contain {prompt} exactly once")
        if len(self.baselines) + (self.best_of > 1) > 6:
            raise ValueError(
                "6 policies at most are judged beside base, SFT and PPO: fewer baselines, please"
            )
        unknown = self.overrides.keys() - {"base", "sft", RL_INIT, "reward", "ppo", "sample"}
        if unknown:
            raise ValueError(f"overrides: no such kind of run: {', '.join(sorted(unknown))}")
        return self


REHEARSAL: dict[str, Any] = {
    "preset": "starter",
    "demonstrations": 300,
    "ranking_prompts": 600,
    "completions_min": 4,
    "completions_max": 9,
    "contrast_share": 0.33,
    "ranking_overlap": 0.25,
    "evaluation_prompts": 400,
    "evaluation_labels": 2,
    "next_ranking_prompts": 40,
}


def round_config(values: dict[str, Any]) -> RoundConfig:
    """The config, or Invalid with the fields and reasons in plain words."""
    try:
        return RoundConfig(**values)
    except ValidationError as error:
        raise Invalid(
            "; ".join(
                f"{'.'.join(str(part) for part in item['loc']) or 'round'}: {item['msg']}"
                for item in error.errors()
            )
        ) from None
