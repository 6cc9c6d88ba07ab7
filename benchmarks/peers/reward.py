"""TRL's RewardTrainer: MODEL PAIRS PAIRS_A_PASS PASSES_A_STEP STEPS RATE."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from benchmarks.peers.common import Steps, optimizers
from benchmarks.peers.machine import WHERE


def main() -> None:
    source, pairs, together, passes, steps, rate = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
    rows = []
    for pair in json.loads(Path(pairs).read_text(encoding="utf-8")):
        chosen, rejected = (tokenizer(pair["prompt"] + t)["input_ids"] for t in pair["texts"])
        rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    with tempfile.TemporaryDirectory() as out:
        noted = Steps()
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                output_dir=out,
                per_device_train_batch_size=int(together),
                gradient_accumulation_steps=int(passes),
                num_train_epochs=1,
                max_length=None,
                gradient_checkpointing=False,
                **WHERE,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                train_sampling_strategy="sequential",
                dataloader_pin_memory=False,
                max_grad_norm=1.0,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            optimizers=optimizers(model, float(rate), int(steps)),
            callbacks=[noted],
        )
        trainer.train()
    noted.report([line["loss"] for line in trainer.state.log_history if "loss" in line])


if __name__ == "__main__":
    main()
