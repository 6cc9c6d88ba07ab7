"""reward: the reward model (section 3.5, Eq. 1).

A prompt with its K ranked completions is one batch element: a tree, where the prompt's tokens pass
once and each completion once. Ties are dropped, the loss is the mean over a prompt's
pairs. At the end a bias makes the demonstrations score 0 on average; it is stored in the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from trainer.config import RewardConfig
from trainer.contract import (
    LEARNING_RATE,
    LOSS,
    RM_ACCURACY,
    RM_ACCURACY_HIGH,
    RM_ACCURACY_LOW,
    RM_BIAS,
    RM_LONGER_WINS,
    RM_PAIRS,
    ContractError,
    DemonstrationRecord,
    RankingRecord,
)
from trainer.data import Encoder, epoch_batches, load_records, parts_of
from trainer.losses import clustered_accuracy, pairs_of, ranking_loss
from trainer.models import (
    check_context,
    load_reward_model,
    load_tokenizer,
    model_source,
)
from trainer.packing import Tree
from trainer.passes import tree_scores
from trainer.processes import Processes, with_last
from trainer.run import Run, cosine_to_tenth, set_learning_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Element:
    """One ranking: ids of the prompt and of its completions, and its (chosen, rejected) pairs."""

    prompt_id: int
    prompt: list[int]
    completions: list[list[int]]
    pairs: list[tuple[int, int]]
    characters: list[int]  # the length of each completion

    @property
    def tree(self) -> Tree:
        return self.prompt, self.completions

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


def elements_of(records: list[RankingRecord], encoder: Encoder) -> list[Element]:
    """Rankings as batch elements; those of ties only have no pair and are left out."""
    prompts = encoder.prompts([r.prompt for r in records])
    flat = iter(encoder.completions([c for r in records for c in r.completions]))
    elements = [
        Element(
            record.prompt_id,
            prompt,
            [next(flat) for _ in record.completions],
            pairs_of(record.groups),
            [len(c) for c in record.completions],
        )
        for record, prompt in zip(records, prompts, strict=True)
    ]
    return [e for e in elements if e.pairs]


def batch_loss(
    processes: Processes, model: nn.Module, elements: list[Element], pass_tokens: int
) -> float:
    """Eq. 1 on one batch: the mean over prompts of the mean over the prompt's pairs.

    Computed in passes of at most `pass_tokens` tokens; its gradient is added to the model's.
    """
    own = processes.share(elements)
    total = 0.0
    for part, last in with_last(parts_of([e.length for e in own], pass_tokens)):
        with processes.synced(last, model):
            loss = model(mean_loss, [own[i] for i in part]) * (len(part) / len(elements))
            processes.backward(loss)
        total += loss.item()
    return processes.sum(total)


def mean_loss(model: PreTrainedModel, elements: list[Element]) -> torch.Tensor:
    """Eq. 1 on elements that go through the model in one pass."""
    chosen: list[int] = []
    rejected: list[int] = []
    weights: list[float] = []
    first = 0
    for element in elements:
        chosen += [first + i for i, _ in element.pairs]
        rejected += [first + j for _, j in element.pairs]
        weights += [1 / len(element.pairs)] * len(element.pairs)
        first += len(element.completions)
    scores = tree_scores(model, [element.tree for element in elements])
    to = scores.device
    return ranking_loss(
        scores,
        torch.tensor(chosen, device=to),
        torch.tensor(rejected, device=to),
        torch.tensor(weights, device=to),
    )


@torch.no_grad()
def held_out_figures(
    model: PreTrainedModel, elements: list[Element], pass_tokens: int
) -> dict[str, float]:
    """Pairwise accuracy with its interval, clustered by prompt, and "the longer wins" beside it."""
    won: dict[int, list[float]] = {}
    longer: dict[int, list[float]] = {}
    for part in parts_of([e.length for e in elements], pass_tokens):
        batch = [elements[i] for i in part]
        scores = iter(tree_scores(model, [e.tree for e in batch]).tolist())
        for element in batch:
            own = [next(scores) for _ in element.completions]
            for i, j in element.pairs:
                won.setdefault(element.prompt_id, []).append(_win(own[i], own[j]))
                longer.setdefault(element.prompt_id, []).append(
                    _win(element.characters[i], element.characters[j])
                )
    share, low, high = clustered_accuracy(list(won.values()))
    return {
        RM_ACCURACY: share,
        RM_ACCURACY_LOW: low,
        RM_ACCURACY_HIGH: high,
        RM_PAIRS: float(sum(map(len, won.values()))),
        RM_LONGER_WINS: clustered_accuracy(list(longer.values()))[0],
    }


def _win(chosen: float, rejected: float) -> float:
    return 0.5 if chosen == rejected else float(chosen > rejected)


@torch.no_grad()
def demonstration_mean(
    model: PreTrainedModel, demonstrations: list[tuple[list[int], list[int]]], pass_tokens: int
) -> float:
    """Mean score of (prompt ids, completion ids)."""
    total = 0.0
    for part in parts_of([len(p) + len(c) for p, c in demonstrations], pass_tokens):
        trees = [(demonstrations[i][0], [demonstrations[i][1]]) for i in part]
        total += float(tree_scores(model, trees).sum())
    return total / len(demonstrations)


def train_reward(run_dir: Path) -> None:
    """Train a reward model from models["init"] on the rankings of a run of kind "reward"."""
    run = Run.open(run_dir)
    config = run.configure(RewardConfig)
    source = model_source(run.spec, "init")
    records = load_records(run_dir, run.spec, "rankings", RankingRecord)
    demonstrations: list[DemonstrationRecord] = []
    if "demonstrations" in run.spec.data:
        demonstrations = [
            d
            for d in load_records(run_dir, run.spec, "demonstrations", DemonstrationRecord)
            if d.split == "train"
        ]
    tokenizer = load_tokenizer(source)
    encoder = Encoder(
        tokenizer=tokenizer,
        template=run.spec.prompt_template,
        max_prompt_tokens=config.max_prompt_tokens,
        max_completion_tokens=config.max_completion_tokens,
    )
    train = elements_of([r for r in records if r.split == "train"], encoder)
    valid = elements_of([r for r in records if r.split == "valid"], encoder)
    if not train:
        raise ContractError("there is no ranking of split 'train' with a pair that is not a tie")
    model = load_reward_model(source, tokenizer, new_head=True)
    check_context(model, max(len(e.prompt) + max(map(len, e.completions)) for e in train + valid))
    optimizer: torch.optim.Optimizer = torch.optim.Adam(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )
    steps_per_epoch = -(-len(train) // config.batch_prompts)
    total = config.epochs * steps_per_epoch
    run.check_batch(config.batch_prompts)
    passes, optimizer = run.processes.prepare(model, optimizer)
    start, checkpoints, metrics = run.resume(
        {"model": model, "optimizer": optimizer},
        total_steps=total,
        seconds=config.checkpoint_seconds,
    )

    for step in range(start, total):
        epoch, position = divmod(step, steps_per_epoch)
        picked = epoch_batches(len(train), config.batch_prompts, run.spec.seed, epoch)[position]
        rate = config.learning_rate * cosine_to_tenth(step, total)
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad()
        elements = [train[i] for i in picked]
        loss = batch_loss(run.processes, passes, elements, config.pass_tokens)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        done = step + 1
        metrics.write(done, {LOSS: loss, LEARNING_RATE: rate, "train/gradient_norm": norm.item()})
        checkpoints.after(done)

    figures = {"train/rankings": float(len(train))}
    if valid:
        figures |= held_out_figures(model, valid, config.pass_tokens)
    if demonstrations:
        prompts = encoder.prompts([d.prompt for d in demonstrations])
        completions = encoder.completions([d.completion for d in demonstrations])
        pairs = list(zip(prompts, completions, strict=True))
        bias = float(model.config.reward_bias) - demonstration_mean(
            model, pairs, config.pass_tokens
        )
        model.config.reward_bias = bias
        figures[RM_BIAS] = bias
    metrics.write(total, figures, phase="valid")
    run.save(model, tokenizer)
    run.finish(figures)
