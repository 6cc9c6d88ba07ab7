"""reward: the reward model (section 3.5, Eq. 1).

A prompt with its K ranked completions is one batch element: a tree, where the prompt's tokens pass
once and each completion once. Ties are dropped, the loss is the mean over a prompt's
pairs. At the end a bias makes the demonstrations score 0 on average; it is stored with the model,
in its config (reward_bias), as transformers' heads have none: whoever reads the logit adds it.

With members above 1 the model has so many heads while it is trained (trainer.ensemble).

Deviations from the paper, and what it leaves open:
- Its reward model has 6B parameters for policies of every size, as 175B was unstable; here its size
  is that of models["init"], in a round the SFT policy's.
- The scalar head starts at zero, so that no completion is ahead before the first step.
- A prompt that several labelers ranked has an element a labeler: their rankings are not merged.
- Weights and optimizer are float32; the passes are in half precision where accelerate is told so
  (trainer/accelerate/bf16.yaml). The paper's weights are half precision with a float32 copy.
- A completion of more than max_completion_tokens is cut and scored as if it ended there, as those
  of kind sample that had no end are. The paper's are at most 1,000 tokens.
- An epoch's batches are as even as can be, so they may hold fewer than batch_prompts prompts.
- The gradient's norm is clipped. The paper does not say whether it does so, nor Adam's epsilon,
  which is PPO's here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainer.config import RewardConfig
from trainer.contract import (
    LEARNING_RATE,
    LOSS,
    MODEL,
    RM_BIAS,
    ContractError,
    DemonstrationRecord,
    RankingRecord,
)
from trainer.data import epoch_batches, load_records, parts_of
from trainer.ensemble import add_members, merge_members, prompt_weights, save_members
from trainer.losses import pairs_of, ranking_loss
from trainer.metrics import writing
from trainer.models import (
    check_context,
    load_reward_model,
    load_tokenizer,
    model_source,
)
from trainer.packing import Tree
from trainer.passes import tree_scores
from trainer.processes import Processes
from trainer.reward_figures import held_out_figures
from trainer.run import Run, cosine, set_learning_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Element:
    """One ranking: ids of the prompt and of its completions, and its (chosen, rejected) pairs."""

    record: RankingRecord
    prompt: list[int]
    completions: list[list[int]]
    pairs: list[tuple[int, int]]
    weights: list[float]  # of the prompt, for each member

    @property
    def tree(self) -> Tree:
        return self.prompt, self.completions

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


def elements_of(
    records: Sequence[RankingRecord],
    prompts: Sequence[list[int]],
    completions: Iterable[list[int]],
    *,
    members: int = 1,
    seed: int = 0,
) -> list[Element]:
    """Rankings, with ids of their prompts and of all their completions in turn, as batch elements.

    Those of ties only have no pair and are left out.
    """
    flat = iter(completions)
    elements = [
        Element(
            record,
            prompt,
            [next(flat) for _ in record.completions],
            pairs_of(record.groups),
            prompt_weights(seed, record.prompt_id, members),
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
    total = 0.0
    for part, weight, last in processes.parts([e.length for e in elements], pass_tokens):
        with processes.synced(last, model):
            loss = model(mean_loss, [elements[i] for i in part])
            loss = loss * (weight * len(part) / len(elements))
            processes.backward(loss)
        total += loss.item()
    return processes.sum(total)


def mean_loss(model: PreTrainedModel, elements: list[Element]) -> torch.Tensor:
    """Eq. 1 on elements that go through the model in one pass, the mean over its heads."""
    chosen: list[int] = []
    rejected: list[int] = []
    weights: list[list[float]] = []
    first = 0
    for element in elements:
        chosen += [first + i for i, _ in element.pairs]
        rejected += [first + j for _, j in element.pairs]
        share = len(element.pairs) * len(elements) * len(element.weights)
        weights += [[weight / share for weight in element.weights]] * len(element.pairs)
        first += len(element.completions)
    scores = tree_scores(model, [element.tree for element in elements])
    to = scores.device
    return ranking_loss(
        scores.view(len(scores), -1),
        torch.tensor(chosen, device=to),
        torch.tensor(rejected, device=to),
        torch.tensor(weights, device=to),
    )


@torch.no_grad()
def member_scores(
    model: PreTrainedModel, elements: list[Element], pass_tokens: int
) -> list[list[list[float]]]:
    """For each element, for each of its completions, the score of each head."""
    found: list[list[list[float]]] = [[] for _ in elements]
    for part in parts_of([e.length for e in elements], pass_tokens):
        scores = tree_scores(model, [elements[i].tree for i in part])
        rows = iter(scores.view(len(scores), -1).tolist())
        for i in part:
            found[i] = [next(rows) for _ in elements[i].completions]
    return found


@torch.no_grad()
def demonstration_means(
    model: PreTrainedModel, demonstrations: list[tuple[list[int], list[int]]], pass_tokens: int
) -> torch.Tensor:
    """Mean score (M,) of (prompt ids, completion ids), by head."""
    total = torch.zeros(())
    for part in parts_of([len(p) + len(c) for p, c in demonstrations], pass_tokens):
        trees = [(demonstrations[i][0], [demonstrations[i][1]]) for i in part]
        scores = tree_scores(model, trees)
        total = total + scores.view(len(scores), -1).sum(0).cpu()
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
    encoder = run.encoder(tokenizer, config)
    records, prompts = run.fitting(encoder, records, "rankings")
    texts = [completion for record in records for completion in record.completions]
    completions = run.completions(encoder, texts, "rankings")
    members, seed = config.members, run.spec.seed
    elements = elements_of(records, prompts, completions, members=members, seed=seed)
    run.left_out_ties(len(records) - len(elements), len(records))
    train = [e for e in elements if e.record.split == "train"]
    valid = [e for e in elements if e.record.split == "valid"]
    if not train:
        raise ContractError(
            "there is no ranking of split 'train' with a pair that is not a tie and a prompt of "
            f"at most {config.max_prompt_tokens} tokens (max_prompt_tokens)"
        )
    written, prompts = run.fitting(encoder, demonstrations, "demonstrations")
    if demonstrations and not written:
        raise ContractError(
            "the bias cannot be set: there is no demonstration of split 'train' with a prompt of "
            f"at most {config.max_prompt_tokens} tokens (max_prompt_tokens)"
        )
    if not written:
        run.say("there is no demonstration of split 'train': the bias stays as it is")
    texts = [d.completion for d in written]
    completions = run.completions(encoder, texts, "demonstrations")
    answered = list(zip(prompts, completions, strict=True))
    model = load_reward_model(source, tokenizer, new_head=True)
    add_members(model, config.members)
    lengths = [len(e.prompt) + max(map(len, e.completions)) for e in train + valid]
    lengths += [len(prompt) + len(completion) for prompt, completion in answered]
    check_context(model.config, max(lengths))
    optimizer: torch.optim.Optimizer = torch.optim.Adam(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )
    steps_per_epoch = -(-len(train) // config.batch_prompts)
    total = config.epochs * steps_per_epoch
    run.check_batch(config.batch_prompts, "batch_prompts")
    passes, optimizer = run.processes.prepare(model, optimizer)
    start, checkpoints, metrics = run.resume(
        {"model": model, "optimizer": optimizer},
        config,
        total_steps=total,
    )

    for step in range(start, total):
        epoch, position = divmod(step, steps_per_epoch)
        picked = epoch_batches(len(train), config.batch_prompts, run.spec.seed, epoch)[position]
        rate = config.learning_rate * cosine(step, total, final=config.final_learning_rate)
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad()
        batch = [train[i] for i in picked]
        loss = batch_loss(run.processes, passes, batch, config.pass_tokens)
        norm = run.processes.clip(model, config.gradient_clip)
        optimizer.step()
        done = step + 1
        metrics.write(done, {LOSS: loss, LEARNING_RATE: rate, "train/gradient_norm": norm})
        checkpoints.after(done)

    model = run.processes.whole(model)
    last = {"train/rankings": float(len(train))}
    figures: dict[str, Any] = {}
    biases = torch.full((config.members,), float(model.config.reward_bias))
    if answered:
        biases = biases - demonstration_means(model, answered, config.pass_tokens)
    if valid:
        shifts = (biases - float(model.config.reward_bias)).tolist()
        scores = member_scores(model, valid, config.pass_tokens)
        held_out, of_one_number = held_out_figures(
            [e.record for e in valid],
            [[[s + b for s, b in zip(row, shifts, strict=True)] for row in own] for own in scores],
        )
        figures = asdict(held_out)
        last |= of_one_number
    heads = merge_members(model, biases)
    if answered:
        last[RM_BIAS] = float(model.config.reward_bias)
    metrics.write(total, last, phase="valid")
    run.save(model, tokenizer)
    if run.processes.main:
        with writing(run_dir / MODEL):
            save_members(run_dir / MODEL, heads)
    run.finish(last, figures=figures)
