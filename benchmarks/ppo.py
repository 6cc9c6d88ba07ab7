"""PPO against TRL 1.12.0, the last with a PPO trainer: python -m benchmarks.ppo --peer PYTHON.

Policy, reference, reward model and value function of 4M parameters each; one inner epoch, one step
a batch (TRL's num_mini_batches has no effect), no pretraining mix. End-of-text comes after --ends
tokens on average, a response has --response at most. What is sampled differs, so no losses are
compared.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from pathlib import Path

from benchmarks.versus import (
    against,
    our_command,
    parser,
    save_models,
    words,
    write_run,
)

RATE = 1e-5


def let_end(policy: Path, tokens: int) -> None:
    """Make end-of-text come after so many tokens on average, wherever the policy is.

    Its embedding, which is its row of the head too, is given a share of every last hidden state.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy)
    with torch.no_grad():
        head = model.lm_head.weight
        row = head[0]
        model.transformer.ln_f.bias += math.log(len(head) / tokens) * row / row.square().sum()
    model.save_pretrained(policy)


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--ends", type=int, default=32, help="mean tokens to an end-of-text; 0: next to never"
    )
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--prompt", type=int, default=32)
    options.add_argument("--response", type=int, default=48)
    options.add_argument("--iterations", type=int, default=6)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        save_models(home, given.size)
        if given.ends:
            let_end(home / "policy", given.ends)
        rng = random.Random(1)
        prompts = [words(rng, given.prompt) for _ in range(given.batch * given.iterations)]
        write_run(
            home / "run",
            {
                "prompts": [
                    {"prompt_id": i, "prompt": prompt, "split": "train"}
                    for i, prompt in enumerate(prompts)
                ]
            },
            kind="ppo",
            models={
                "init": str(home / "policy"),
                "reference": str(home / "policy"),
                "reward": str(home / "reward"),
            },
            config={
                "episodes": len(prompts),
                "batch_episodes": given.batch,
                "minibatches": 1,
                "max_completion_tokens": given.response,
                "policy_learning_rate": RATE,
                "value_learning_rate": RATE,
                "warmup_iterations": 0,
                "ptx_coefficient": 0.0,
                "checkpoint_seconds": 1e9,
            },
        )
        (home / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
        against(
            "ppo",
            given,
            our_command(home / "run"),
            [
                *(given.peer, "-m", "benchmarks.peers.ppo", home, home / "prompts.json"),
                *(str(given.batch), str(given.response), str(RATE)),
            ],
            batch=given.batch,
            prompt=given.prompt,
            response=given.response,
            ends=given.ends,
            episodes=given.batch * (given.iterations - 1),
        )


if __name__ == "__main__":
    main()
