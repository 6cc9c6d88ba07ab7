"""Which epoch of SFT is kept: the one whose completions the reward model scores highest.

Section 3.5: the validation loss rises after the first epoch while the score and labelers'
preference still do, so the score on validation prompts decides. How the paper samples them it does
not say. Here each prompt is answered at temperature 1, which is how labelers and PPO will meet the
policy, several times where prompts are few, and with the same random numbers after every epoch, so
that two epochs differ by their weights only. They are sampled in this process, whatever server
samples rollouts (trainer.engine): a server could not promise the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainer.config import SFTConfig
from trainer.contract import SFT_VALID_SCORE
from trainer.data import Encoder, endless
from trainer.models import (
    check_context,
    check_same_tokenizer,
    context_of,
    device,
    load_reward_model,
    model_source,
)
from trainer.rollout import Rollout, final_scores, sample
from trainer.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AT_ONCE = 128  # completions that are sampled in one batch
EPOCH = "epoch"


class Scorer:
    """The mean score of config.selection_samples answers: as many to each prompt, at least one.

    Answers are as long as the contexts of policy and reward model let them be, where that is less
    than config.max_completion_tokens.
    """

    def __init__(
        self,
        run: Run,
        config: SFTConfig,
        encoder: Encoder,
        prompts: Sequence[list[int]],
        policy: PreTrainedModel,
    ) -> None:
        source = model_source(run.spec, "reward")
        check_same_tokenizer(source, encoder.tokenizer)
        self.reward_model = load_reward_model(source, encoder.tokenizer).requires_grad_(False)
        count = min(len(prompts), config.selection_samples)
        self.each = config.selection_samples // count
        self.prompts = [prompts[i] for i in endless(len(prompts), run.spec.seed, 0, count)]
        longest = max(map(len, self.prompts))
        limit = config.max_completion_tokens
        for model in (policy, self.reward_model):
            check_context(model.config, longest + 1)
            limit = min(limit, (context_of(model.config) or longest + limit) - longest)
        self.uniform = torch.rand(count, self.each, limit, generator=run.seed(0, purpose=2))
        self.processes = run.processes
        self.encoder = encoder
        self.pass_tokens = config.pass_tokens

    @property
    def samples(self) -> int:
        return len(self.prompts) * self.each

    @torch.no_grad()
    def mean(self, policy: nn.Module) -> float:
        """The mean score; policy is as `Processes.prepare` returned it, in evaluation mode.

        A completion without end-of-text is cut by a token and scored with one, as in kind sample.
        """
        total = 0.0
        own = self.processes.share(range(len(self.prompts)))
        step = max(1, AT_ONCE // self.each)
        with self.processes.gathered(policy):
            for first in range(0, len(own), step):
                part = own[first : first + step]
                prompts = [self.prompts[i] for i in part]
                eos, pad = self.encoder.eos, self.encoder.pad
                sampled = policy(
                    sample,
                    prompts,
                    n=self.each,
                    uniform=self.uniform[part].flatten(0, 1),
                    temperature=1.0,
                    eos=eos,
                    pad=pad,
                )
                ended = [s if s.finished else replace(s, ids=[*s.ids[:-1], eos]) for s in sampled]
                rollout = Rollout.of([p for p in prompts for _ in range(self.each)], ended, pad)
                with self.processes.accelerator.autocast():
                    for rows in rollout.parts(
                        torch.arange(len(ended), device=device()), self.pass_tokens
                    ):
                        scores = final_scores(self.reward_model, rollout.pack(rows))[0]
                        total += scores.float().sum().item()
        return self.processes.sum(total) / self.samples


class Epochs:
    """What was measured after each epoch, in order: a part of the run's state.

    A row holds "epoch", from 1 on, and metrics by their keys.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def add(self, figures: dict[str, float]) -> None:
        """Take the next epoch down."""
        self.rows.append({EPOCH: len(self.rows) + 1, **figures})

    @property
    def chosen(self) -> dict[str, float]:
        """The epoch with the highest score, the first of several; the last where none has one."""
        if SFT_VALID_SCORE not in self.rows[-1]:
            return self.rows[-1]
        return max(self.rows, key=lambda row: row[SFT_VALID_SCORE])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
