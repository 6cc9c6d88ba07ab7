"""SFT against TRL's SFTTrainer with packing: python -m benchmarks.sft --peer PYTHON.

Each step is one epoch over the same --batch demonstrations (the paper's batch is 32) of 40 to 400
tokens, a quarter of them the prompt's; packed there into rows of --row tokens, with the loss on
completions only. --together is how many of its rows the peer passes at once: all, by default. It
makes one sequence of them, over which its attention on a CPU is quadratic: fewer are faster.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

from benchmarks.versus import (
    EOS,
    SIZES,
    against,
    our_command,
    parser,
    save_models,
    words,
    write_run,
)

RATE = 1e-4


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--row", type=int, default=512)
    options.add_argument("--batch", type=int, default=32, help="demonstrations a step")
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--together", type=int, help="rows a pass of the peer's")
    options.add_argument("--pass-tokens", type=int, help="of ours, at most")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        save_models(home, given.size)
        rng = random.Random(1)
        records: list[dict[str, object]] = []
        tokens = predicted = pairs = 0
        for _ in range(given.batch):
            length = rng.randint(40, 400)
            tokens += length
            prompt = length // 4
            predicted += length - prompt
            pairs += length * (length + 1) // 2
            records.append(
                {
                    "prompt_id": len(records),
                    "prompt": words(rng, prompt),
                    "completion": words(rng, length - prompt - 1),
                    "split": "train",
                    "labeler": "a",
                    "demonstration_id": len(records),
                }
            )
        write_run(
            home / "run",
            {"demonstrations": records},
            kind="sft",
            models={"init": str(home / "policy")},
            config={
                "batch_size": len(records),
                "epochs": given.steps,
                "residual_dropout": 0.0,
                "learning_rate": RATE,
                "checkpoint_seconds": 1e9,
                **({} if given.pass_tokens is None else {"pass_tokens": given.pass_tokens}),
            },
        )
        rows = tokens // given.row + 3  # as many as the packing may make
        together = given.together or rows
        texts = [
            {"prompt": f"{r['prompt']} ", "completion": f"{r['completion']} {EOS}"} for r in records
        ]
        (home / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        against(
            "sft",
            given,
            our_command(home / "run"),
            [
                *(given.peer, "-m", "benchmarks.peers.sft", home / "policy", home / "texts.json"),
                *(str(given.row), str(rows), str(together)),
                *(str(given.steps), str(RATE)),
            ],
            flops=(given.steps - 1) * SIZES[given.size].training_flops(tokens, predicted, pairs),
            passed=tokens * (given.steps - 1),
            row=given.row,
            tokens=tokens * (given.steps - 1),
            documents=len(records),
            together=together,
        )


if __name__ == "__main__":
    main()
