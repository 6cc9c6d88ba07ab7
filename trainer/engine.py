"""Where completions are sampled: in this process, or by a server (trainer.serving)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch import Tensor, nn

from trainer.data import Encoder
from trainer.processes import Processes
from trainer.rollout import Sampled, sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.run import Run

PREFIX: Final = "PLUMBLINE_ROLLOUT_"  # of the variables that name a server


class Engine(Protocol):
    """Samples completions of one policy at a time."""

    @property
    def name(self) -> str:
        """Who samples, for a sentence."""

    @property
    def versions(self) -> dict[str, str]:
        """What RunResult.versions shall say of it."""

    @property
    def ratio_tolerance(self) -> float | None:
        """How far PPO's first ratio may be from 1; None: as the trainer's precision has it."""

    def use(
        self, policy: PreTrainedModel, encoder: Encoder, passes: nn.Module | None = None
    ) -> None:
        """Sample from this policy, as it is now. To be called in every process of the run.

        passes is what Processes.prepare made of it, if it did.
        """

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        n: Sequence[int] | int = 1,
        uniform: Tensor,
        temperature: float,
    ) -> list[Sampled]:
        """As trainer.rollout.sample. What is sampled follows from uniform (completions, max_tokens)
        and from nothing else, as far as the engine can promise that.
        """


@dataclass
class LocalEngine:
    """trainer.rollout.sample, in this process."""

    processes: Processes
    name: str = "this process"
    versions: dict[str, str] = field(default_factory=dict)
    ratio_tolerance: float | None = None
    passes: Callable[..., Any] = field(init=False)
    encoder: Encoder = field(init=False)

    def use(
        self, policy: PreTrainedModel, encoder: Encoder, passes: nn.Module | None = None
    ) -> None:
        self.passes, self.encoder = passes or plain_passes(policy), encoder

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        n: Sequence[int] | int = 1,
        uniform: Tensor,
        temperature: float,
    ) -> list[Sampled]:
        # With gradients a wrapped model would expect a backward pass after this one.
        autocast = self.processes.accelerator.autocast()
        with torch.no_grad(), autocast, self.processes.gathered(self.passes):
            sampled: list[Sampled] = self.passes(
                sample,
                prompts,
                n=n,
                uniform=uniform,
                temperature=temperature,
                eos=self.encoder.eos,
                pad=self.encoder.pad,
            )
        return sampled


def plain_passes(policy: PreTrainedModel) -> Callable[..., Any]:
    """As trainer.processes.Passes of a policy that is not trained: passes(function, *arguments)."""
    return lambda function, *arguments, **options: function(policy, *arguments, **options)


def engine_for(run: Run, *, exact: bool, policies: int = 1) -> Engine:
    """The engine that this host's environment names: a server's where PLUMBLINE_ROLLOUT_URL is set.

    exact: the sampled ids and their logprobs are needed, as PPO does; else text is enough.
    policies: how many different ones a run samples from that trains none.
    Raises ConfigError for settings that cannot be, TrainingError where the server is no use.
    """
    if not any(name.startswith(PREFIX) and text.strip() for name, text in os.environ.items()):
        return LocalEngine(run.processes)
    from trainer.rollout_server import ServerSettings  # loads httpx, which others need not
    from trainer.serving import ServerEngine

    settings = ServerSettings.from_environment(os.environ)
    return ServerEngine(run, settings, exact=exact, policies=policies)
