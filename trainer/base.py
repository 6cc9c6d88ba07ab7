"""base: a byte-level BPE tokenizer and a small GPT-NeoX, trained on text from nothing.

GPT-NeoX because it is a standard architecture with few operations a token, residual dropout, and
rotary positions, with which so small a model learns to take up words of its prompt several times
sooner than with GPT-2's learned ones. Newlines and digits are always tokens of
their own, so that a prompt ends in the same tokens whether or not a completion follows it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer.architecture import use_packed_attention
from trainer.config import BaseConfig
from trainer.contract import LEARNING_RATE, LOSS, SFT_VALID_LOSS, ContractError, TextRecord
from trainer.data import Encoder, endless, load_records, packed_rows
from trainer.models import PAD, device
from trainer.passes import mean_language_loss
from trainer.products import use_fast_products
from trainer.run import Run, cosine, set_learning_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

EOS = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], config: BaseConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most config.vocab_size tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=config.context,
        clean_up_tokenization_spaces=False,
    )


def new_model(config: BaseConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained GPT-NeoX of the configured size, without dropout."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    model: PreTrainedModel = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=config.context,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 1.0,
            },
            # About width ** -0.5: with the usual 0.02 a model so narrow learns to copy much later.
            initializer_range=config.initial_deviation,
            tie_word_embeddings=True,
            hidden_act="relu",  # gelu costs a sixth of a step on a CPU
            attention_dropout=0.0,
            hidden_dropout=0.0,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            use_cache=False,
        )
    )
    model = model.to(device())  # type: ignore[arg-type]
    use_fast_products(model)
    use_packed_attention(model)
    return model


def train_base(run_dir: Path) -> None:
    """Train the tokenizer and the model of a run directory of kind "base"."""
    run = Run.open(run_dir)
    config = run.configure(BaseConfig)
    records = load_records(run_dir, run.spec, "pretraining", TextRecord)
    if len(records) < 2:
        raise ContractError(f"the pretraining text has {len(records)} documents; 2 are the least")
    random.Random(run.spec.seed).shuffle(records)
    held_out = max(1, round(config.valid_fraction * len(records)))
    tokenizer = train_tokenizer((r.text for r in records[held_out:]), config)
    encoder = Encoder(
        tokenizer=tokenizer,
        template=run.spec.prompt_template,
        max_prompt_tokens=config.context,
        max_completion_tokens=config.context,
    )
    width = config.row_tokens
    train = packed_rows(encoder.documents(records[held_out:]), width)
    valid = packed_rows(encoder.documents(records[:held_out]), width)

    run.seed(0, purpose=1)
    model = new_model(config, tokenizer).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
        fused=True,
    )
    passes, optimizer = run.processes.prepare(model, optimizer)
    start, checkpoints, metrics = run.resume(
        {"model": model, "optimizer": optimizer},
        config,
        total_steps=config.steps,
    )
    warmup = round(config.warmup_fraction * config.steps)
    tokens = config.batch_rows * width  # in one pass

    for step in range(start, config.steps):
        rate = config.learning_rate * cosine(step, config.steps, warmup=warmup)
        set_learning_rate(optimizer, rate)
        picked = endless(len(train), run.spec.seed, step * config.batch_rows, config.batch_rows)
        optimizer.zero_grad()
        documents = [document for i in picked for document in train[i]]
        loss = mean_language_loss(run.processes, passes, documents, tokens, weight=1.0)
        run.processes.clip(model, config.gradient_clip)
        optimizer.step()

        done = step + 1
        if done % 10 == 0 or done == config.steps:
            metrics.write(done, {LOSS: loss, LEARNING_RATE: rate})
        checkpoints.after(done)

    model.eval()
    sizes = [sum(map(len, row)) for row in train]
    seen = endless(len(train), run.spec.seed, 0, config.steps * config.batch_rows)
    documents = [document for row in valid[:64] for document in row]
    figures = {
        SFT_VALID_LOSS: mean_language_loss(run.processes, passes, documents, tokens),
        "base/parameters": float(sum(p.numel() for p in model.parameters())),
        "base/tokens_seen": float(sum(sizes[i] for i in seen)),
    }
    metrics.write(config.steps, figures, phase="valid")
    run.save(model, tokenizer)
    run.finish(figures)
