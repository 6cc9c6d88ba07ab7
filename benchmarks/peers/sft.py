"""TRL's SFTTrainer, best-fit packing: MODEL TEXTS ROW_TOKENS ROWS_A_STEP ROWS_A_PASS STEPS RATE."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.peers.common import Steps, optimizers
from benchmarks.peers.machine import WHERE


def main() -> None:
    source, texts, row, rows, together, steps, rate = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source)
    examples = []
    for text in json.loads(Path(texts).read_text(encoding="utf-8")):
        prompt = tokenizer(text["prompt"])["input_ids"]
        completion = tokenizer(text["completion"])["input_ids"]
        mask = [0] * len(prompt) + [1] * len(completion)
        examples.append({"input_ids": prompt + completion, "completion_mask": mask})
    with tempfile.TemporaryDirectory() as out:
        noted = Steps()
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=out,
                per_device_train_batch_size=int(together),
                gradient_accumulation_steps=-(-int(rows) // int(together)),  # all rows, a step
                num_train_epochs=int(steps),
                max_length=int(row),
                packing=True,
                packing_strategy="bfd",
                completion_only_loss=True,
                gradient_checkpointing=False,
                **WHERE,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                max_grad_norm=1.0,
            ),
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            optimizers=optimizers(model, float(rate), int(steps)),
            callbacks=[noted],
        )
        trainer.train()
    noted.report([line["loss"] for line in trainer.state.log_history if "loss" in line])


if __name__ == "__main__":
    main()
