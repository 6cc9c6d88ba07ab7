"""The reward model against TRL's RewardTrainer: python -m benchmarks.reward --peer PYTHON.

A ranking of K completions is one element here and C(K, 2) pairs there, in the same order and with
the same batches. --prompt, --completion are sizes in tokens; --together is how many pairs the peer
passes at once, a ranking's by default.
"""

from __future__ import annotations

import json
import random
import tempfile
from itertools import combinations
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
from trainer.data import epoch_batches

RATE = 1e-4


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--k", type=int, default=9)
    options.add_argument("--prompt", type=int, default=128)
    options.add_argument("--completion", type=int, default=64)
    options.add_argument("--rankings", type=int, default=12)
    options.add_argument("--batch", type=int, default=2, help="rankings a step")
    options.add_argument("--together", type=int, help="pairs a pass of the peer's")
    given = options.parse_args()
    pairs_a_step = given.k * (given.k - 1) // 2 * given.batch
    together = given.together or pairs_a_step // given.batch
    if pairs_a_step % together:
        options.error(f"--together must divide a step's {pairs_a_step} pairs")
    if given.rankings % given.batch:
        options.error("--batch must divide --rankings: the peer would cut other batches")
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        save_models(home, given.size)
        rng = random.Random(1)
        records = [
            {
                "ranking_id": i,
                "prompt_id": i,
                "prompt": words(rng, given.prompt),
                "completions": [words(rng, given.completion - 1) for _ in range(given.k)],
                "groups": [[k] for k in rng.sample(range(given.k), given.k)],
                "split": "train",
                "labeler": "a",
            }
            for i in range(given.rankings)
        ]
        write_run(
            home / "run",
            {"rankings": records},
            kind="reward",
            models={"init": str(home / "reward")},
            config={
                "batch_prompts": given.batch,
                "learning_rate": RATE,
                "max_prompt_tokens": 2000,
                "checkpoint_seconds": 1e9,
            },
        )
        pairs = []
        order = [i for batch in epoch_batches(len(records), given.batch, 0, 0) for i in batch]
        for record in (records[i] for i in order):
            ranked = [group[0] for group in record["groups"]]
            for chosen, rejected in combinations(ranked, 2):
                texts = [f"{record['completions'][k]} {EOS}" for k in (chosen, rejected)]
                pairs.append({"prompt": record["prompt"] + " ", "texts": texts})
        (home / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
        steps = -(-given.rankings // given.batch)
        branch = given.prompt + given.completion  # its last token looks back on as many
        seen = given.prompt**2 // 2 + given.k * given.completion * (given.prompt + branch) // 2
        against(
            "reward",
            given,
            our_command(home / "run"),
            [
                *(given.peer, "-m", "benchmarks.peers.reward", home / "reward"),
                *(home / "pairs.json", str(together), str(pairs_a_step // together)),
                *(str(steps), str(RATE)),
            ],
            flops=(given.rankings - given.batch)
            * SIZES[given.size].training_flops(given.prompt + given.k * given.completion, 0, seen),
            k=given.k,
            prompt=given.prompt,
            completion=given.completion,
            rankings=given.rankings - given.batch,
            together=together,
        )


if __name__ == "__main__":
    main()
