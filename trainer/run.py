"""What every kind does around its loop: read the spec, seed, log, resume, write the result."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from trainer.card import write_card
from trainer.checkpoint import Checkpoints, Part
from trainer.config import SampleConfig, _Config, _Optimized
from trainer.contract import (
    CUT,
    MODEL,
    RESULT,
    TIED,
    TOO_LONG,
    ContractError,
    RunResult,
    RunSpec,
    inputs_of,
    read_spec,
    write_json,
)
from trainer.data import Encoder, Prompted
from trainer.metrics import Metrics, writing
from trainer.models import save_model
from trainer.processes import Processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

C = TypeVar("C", bound=_Config)
P = TypeVar("P", bound=Prompted)
SEEDS = 1 << 63  # so many are known to torch


@dataclass(frozen=True)
class Run:
    """One run directory with its spec."""

    directory: Path
    spec: RunSpec
    processes: Processes = field(default_factory=Processes)
    started: float = field(default_factory=time.monotonic)
    inputs: dict[str, str] = field(default_factory=dict)  # trainer.contract.inputs_of
    of_data: dict[str, float] = field(default_factory=dict)  # metrics: left out, cut

    @classmethod
    def open(cls, directory: Path) -> Run:
        """Read the spec, and log who computes and how.

        transformers, whose bars and hints would fill log.txt, is silenced.
        """
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        spec = read_spec(directory)
        run = cls(directory, spec, inputs=inputs_of(directory, spec))
        run.say(str(run.processes))
        return run

    def configure(self, kind: type[C]) -> C:
        """The run's strict configuration; sets torch's threads."""
        config = kind.build(self.spec.preset, self.spec.config)
        if config.threads:
            torch.set_num_threads(config.threads)
        return config

    def seed(self, step: int, purpose: int = 0) -> torch.Generator:
        """Seed torch for one step, dropout included, and return a generator of its own, on the CPU.

        A resumed run draws the same numbers as one that was never stopped. The generator is the
        same in every process, dropout is another in each.
        """
        number = (self.spec.seed * 1_000_003 + step) * 16 + purpose
        torch.manual_seed((number * 1009 + self.processes.rank) % SEEDS)
        return torch.Generator().manual_seed(number % SEEDS)

    def encoder(
        self, tokenizer: PreTrainedTokenizerFast, config: _Optimized | SampleConfig
    ) -> Encoder:
        """Text to token ids, by the run's template and the configuration's lengths."""
        return Encoder(
            tokenizer=tokenizer,
            template=self.spec.prompt_template,
            max_prompt_tokens=config.max_prompt_tokens,
            max_completion_tokens=config.max_completion_tokens,
        )

    def fitting(
        self, encoder: Encoder, records: list[P], what: str
    ) -> tuple[list[P], list[list[int]]]:
        """`Encoder.fitting`; log and result say how many of what were left out."""
        kept, prompts = encoder.fitting(records)
        if count := len(records) - len(kept):
            self._count(
                TOO_LONG.format(what),
                count,
                f"left out: {count} of {len(records)} {what}, whose prompts have more tokens "
                f"than max_prompt_tokens {encoder.max_prompt_tokens}",
            )
        return kept, prompts

    def completions(
        self, encoder: Encoder, completions: list[str], what: str, *, ended: bool = True
    ) -> list[list[int]]:
        """`Encoder.cut_completions`; log and result say how many of what were cut."""
        rows, count = encoder.cut_completions(completions, ended=ended)
        if count:
            self._count(
                CUT.format(what),
                count,
                f"cut: {count} of {len(rows)} completions of {what}, to max_completion_tokens "
                f"{encoder.max_completion_tokens}",
            )
        return rows

    def left_out_ties(self, count: int, of: int) -> None:
        """Log and result say how many rankings prefer no completion to another."""
        if count:
            self._count(
                TIED, count, f"left out: {count} of {of} rankings, in which nothing is preferred"
            )

    def _count(self, key: str, count: int, sentence: str) -> None:
        self.of_data[key] = float(count)
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Log it, once for all processes."""
        if self.processes.main:
            print(sentence, flush=True)

    def check_warmup(self, peak: int, total: int, field: str) -> None:
        """Log where the step (from 1) of the highest learning rate is above the total."""
        if peak > total:
            self.say(
                f"the learning rate does not reach its peak: {field} puts it at step {peak} of "
                f"{total}"
            )

    def check_batch(self, size: int, what: str) -> None:
        """Raises ContractError where a batch, `what`, has fewer elements than processes."""
        if size < self.processes.count:
            raise ContractError(
                f"{what}: {size} cannot be shared by {self.processes.count} processes"
            )

    def resume(
        self, parts: Mapping[str, Part], config: _Config, *, total_steps: int
    ) -> tuple[int, Checkpoints, Metrics]:
        """(the step to go on from, checkpoints, metrics)."""
        metrics = Metrics(self.directory, total_steps=total_steps, written=self.processes.main)
        checkpoints = Checkpoints(
            self.directory,
            {**parts, "metrics": metrics},
            self.processes,
            inputs=self.inputs,
            seconds=config.checkpoint_seconds,
            kept=config.checkpoints_kept,
        )
        step = checkpoints.resume()
        metrics.begin()
        return step, checkpoints, metrics

    def save(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """The run's model, once for all processes. All of them must call."""
        model = self.processes.whole(model)
        if self.processes.main:
            save_model(self.directory / MODEL, model, tokenizer)

    def finish(
        self,
        metrics: dict[str, float],
        *,
        completions: str | None = None,
        figures: dict[str, Any] | None = None,
        versions: dict[str, str] | None = None,
    ) -> None:
        """Write the card of its model, and result.json, the last file of a run.

        versions are those of what took part beside the packages that always do.
        """
        if not self.processes.main:
            return
        result = RunResult(
            kind=self.spec.kind,
            model=None if completions else MODEL,
            completions=completions,
            metrics=metrics | self.of_data,
            figures=figures or {},
            versions=_versions() | (versions or {}),
            inputs=self.inputs,
            seconds=round(time.monotonic() - self.started, 3),
        )
        with writing(self.directory / RESULT):
            if result.model is not None:
                write_card(self.directory, self.spec, result)
            write_json(self.directory / RESULT, result.to_json())


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("plumbline", "torch", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # plumbline run from its source tree
            versions[package] = "unknown"
    return versions


def cosine(step: int, total: int, *, warmup: int = 0, final: float = 0.1) -> float:
    """Learning rate factor of step 0...total - 1: linear warm-up, then a cosine from 1 to final."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
