"""TRL's PPOTrainer: MODELS PROMPTS BATCH RESPONSE_TOKENS RATE."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.peers.common import Steps
from benchmarks.peers.machine import WHERE


def main() -> None:
    home, prompts, batch, response, rate = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(f"{home}/policy", padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(f"{home}/policy") for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(f"{home}/reward", num_labels=1)
        for _ in range(2)
    )
    ids = [
        tokenizer(p + " ")["input_ids"]
        for p in json.loads(Path(prompts).read_text(encoding="utf-8"))
    ]
    parameters = [*policy.parameters(), *value.parameters()]
    adam = torch.optim.Adam(parameters, lr=float(rate), betas=(0.9, 0.95), eps=1e-5, fused=True)
    with tempfile.TemporaryDirectory() as out:
        noted = Steps()
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=out,
                per_device_train_batch_size=int(batch),
                gradient_accumulation_steps=1,
                num_mini_batches=1,
                num_ppo_epochs=1,
                total_episodes=len(ids),
                local_rollout_forward_batch_size=int(batch),
                num_sample_generations=0,
                response_length=int(response),
                stop_token="eos",
                temperature=1.0,
                kl_coef=0.02,
                **WHERE,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_steps=1,
                dataloader_pin_memory=False,
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_list([{"input_ids": row} for row in ids]),
            eval_dataset=Dataset.from_list([{"input_ids": row} for row in ids[:2]]),
            optimizers=(adam, torch.optim.lr_scheduler.LambdaLR(adam, lambda _: 1.0)),
            callbacks=[noted],
        )
        trainer.train()
    noted.report([])


if __name__ == "__main__":
    main()
