"""sft: supervised fine-tuning on demonstrations (section 3.5).

The loss is on the completion's tokens and its end-of-text only. Cosine decay to 10 %, no warm-up,
residual dropout 0.2. Where the spec names a reward model it scores answers to the validation
prompts after every epoch, and the epoch with the highest score is saved (trainer.selection). The
policy that PPO starts from is a run of its own, with a preset that ends in "-rl-init".

Deviations from the paper, and what it leaves open:
- Without a reward model, as in a study's first round, the last epoch is saved: there is no score
  to choose by, and the validation loss would choose the first one or two.
- The pretraining mix of the RL init is a weight: with pretraining_fraction f the loss is
  (1 - f) * SFT + f * pretraining, each a mean over tokens, from examples of their own.
- Weights and optimizer are float32; the passes are in half precision where accelerate is told so
  (trainer/accelerate/bf16.yaml). The paper's weights are half precision with a float32 copy.
- A completion of more than max_completion_tokens is cut, and its end-of-text with it: it teaches no
  end. The paper's are at most 1,000 tokens.
- An epoch's batches are as even as can be, so they may hold fewer than batch_size demonstrations.
- The gradient's norm is clipped. The paper does not say whether it does so, nor Adam's epsilon,
  which is PPO's here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainer.config import SFTConfig
from trainer.contract import (
    LEARNING_RATE,
    LOSS,
    SFT_CHOSEN_EPOCH,
    SFT_VALID_LOSS,
    SFT_VALID_SCORE,
    ContractError,
    DemonstrationRecord,
    TextRecord,
)
from trainer.data import endless, epoch_batches, load_records, packed_rows
from trainer.models import check_context, load_policy, load_tokenizer, model_source
from trainer.passes import mean_language_loss
from trainer.processes import Processes
from trainer.run import Run, cosine, set_learning_rate
from trainer.selection import EPOCH, Epochs, Scorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Example = tuple[list[int], list[int]]  # ids of prompt, of completion and end-of-text


# Where GPT-2 and its kin, GPT-NeoX (Pythia) and Phi 3 keep it; Starcoder 2 has a number of its own,
# and so has a layer of OPT.
RESIDUAL_DROPOUTS = (
    "resid_dropout",
    "mlp.dropout",
    "post_attention_dropout",
    "post_mlp_dropout",
    "resid_attn_dropout",
    "resid_mlp_dropout",
)


def set_residual_dropout(model: PreTrainedModel, probability: float) -> bool:
    """Dropout where a block adds to the residual stream, none to embeddings and in attention.

    False where the architecture has no such place.
    """
    found = False
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            residual = name.endswith(RESIDUAL_DROPOUTS)
            module.p = probability if residual else 0.0
            found = found or residual
        for number in ("dropout", "attention_dropout", "embedding_dropout", "residual_dropout"):
            if type(getattr(module, number, None)) in (float, int):
                layer = type(module).__name__.endswith("Layer")
                residual = number == "residual_dropout" or (number == "dropout" and layer)
                setattr(module, number, probability if residual else 0.0)
                found = found or residual
    return found


def completion_loss(
    processes: Processes,
    policy: nn.Module,
    examples: list[Example],
    pass_tokens: int,
    weight: float = 0.0,
) -> float:
    """Nats a completion token; the prompts' tokens bear no loss. See `mean_language_loss`."""
    documents = [prompt + completion for prompt, completion in examples]
    first = [len(prompt) for prompt, _ in examples]
    return mean_language_loss(processes, policy, documents, pass_tokens, first=first, weight=weight)


def train_sft(run_dir: Path) -> None:
    """Fine-tune models["init"] on the demonstrations of a run directory of kind "sft"."""
    run = Run.open(run_dir)
    config = run.configure(SFTConfig)
    source = model_source(run.spec, "init")
    records = load_records(run_dir, run.spec, "demonstrations", DemonstrationRecord)
    tokenizer = load_tokenizer(source)
    encoder = run.encoder(tokenizer, config)
    records, prompts = run.fitting(encoder, records, "demonstrations")
    answers = [r.completion for r in records]
    completions = run.completions(encoder, answers, "demonstrations", ended=False)
    examples = list(zip(prompts, completions, strict=True))
    train = [e for e, r in zip(examples, records, strict=True) if r.split == "train"]
    valid = [e for e, r in zip(examples, records, strict=True) if r.split == "valid"]
    if not train:
        raise ContractError(
            "there is no demonstration of split 'train' with a prompt of at most "
            f"{config.max_prompt_tokens} tokens (max_prompt_tokens)"
        )
    pretraining = None
    if config.pretraining_fraction > 0:
        documents = load_records(run_dir, run.spec, "pretraining", TextRecord)
        pretraining = packed_rows(encoder.documents(documents), config.pretraining_tokens)

    model = load_policy(source, tokenizer)
    check_context(model.config, max(len(p) + len(c) for p, c in examples))
    if pretraining is not None:
        longest = max(len(document) for row in pretraining for document in row)
        check_context(
            model.config, longest, of="a pretraining document", lower="pretraining_tokens"
        )
    scorer = None
    if "reward" in run.spec.models and valid:
        unique = {tuple(prompt): prompt for prompt, _ in valid}
        scorer = Scorer(run, config, encoder, list(unique.values()), model)
    elif "reward" in run.spec.models:
        print("no demonstration of split 'valid' to answer: the last epoch is saved", flush=True)
    if not set_residual_dropout(model, config.residual_dropout) and config.residual_dropout > 0:
        print(f"{model.config.model_type} has no residual dropout: trained without", flush=True)
    model.train()
    optimizer: torch.optim.Optimizer = torch.optim.Adam(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )
    steps_per_epoch = -(-len(train) // config.batch_size)
    total = config.epochs * steps_per_epoch
    run.check_batch(config.batch_size, "batch_size")
    run.check_warmup(config.warmup_steps, total, "warmup_steps")
    policy, optimizer = run.processes.prepare(model, optimizer)
    epochs = Epochs()
    start, checkpoints, metrics = run.resume(
        {"model": model, "optimizer": optimizer, "epochs": epochs}, config, total_steps=total
    )

    def validate() -> dict[str, float]:
        """Loss and score on the validation split, without dropout."""
        model.eval()
        loss = completion_loss(run.processes, policy, valid, config.pass_tokens)
        figures = {SFT_VALID_LOSS: loss}
        if scorer is not None:
            figures[SFT_VALID_SCORE] = scorer.mean(policy)
        model.train()
        return figures

    for step in range(start, total):
        epoch, position = divmod(step, steps_per_epoch)
        picked = epoch_batches(len(train), config.batch_size, run.spec.seed, epoch)[position]
        run.seed(step)
        warmup, final = config.warmup_steps, config.final_learning_rate
        rate = config.learning_rate * cosine(step, total, warmup=warmup, final=final)
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad()
        share = 1 - config.pretraining_fraction
        examples = [train[i] for i in picked]
        loss = completion_loss(run.processes, policy, examples, config.pass_tokens, share)
        values = {LOSS: loss, LEARNING_RATE: rate}
        if pretraining is not None:
            at, size = step * config.pretraining_rows, config.pretraining_rows
            drawn = endless(len(pretraining), run.spec.seed, at, size)
            values["pretraining/loss_nats_per_token"] = mean_language_loss(
                run.processes,
                policy,
                [document for i in drawn for document in pretraining[i]],
                config.pass_tokens,
                weight=config.pretraining_fraction,
            )
        values["train/gradient_norm"] = run.processes.clip(model, config.gradient_clip)
        optimizer.step()

        done = step + 1
        metrics.write(done, values)
        score: float | None = None
        if valid and done % steps_per_epoch == 0:
            measured = validate()
            metrics.write(done, measured, phase="valid")
            epochs.add(measured)
            score = measured.get(SFT_VALID_SCORE)
        checkpoints.after(done, score)  # which keeps the first state of those that score highest

    last = {"train/demonstrations": float(len(train)), "train/epochs": float(config.epochs)}
    figures: dict[str, Any] = {}
    if valid:
        chosen = {**epochs.chosen}
        last |= {SFT_CHOSEN_EPOCH: float(chosen.pop(EPOCH)), **chosen}
        figures = {"epochs": epochs.rows}
    if scorer is not None:
        figures |= {"scored_prompts": len(scorer.prompts), "scored_samples": scorer.samples}
        checkpoints.load_best("model")
    run.save(model, tokenizer)
    run.finish(last, figures=figures)
