"""K samples of one prompt against Hugging Face generate: python -m benchmarks.sampling.

generate with num_return_sequences=K encodes the prompt K times; here it passes once and its keys
and values are shared out. Each way in a process of its own, in turn; no completion ends early.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.versus import against, parser, save_models, words

REPEATS = 6


def once(way: str, source: str, prompt: str, k: int, tokens: int) -> None:
    """Sample REPEATS times and print the figures of all but the first."""
    import torch

    from trainer.data import Encoder
    from trainer.models import load_policy, load_tokenizer
    from trainer.rollout import sample

    tokenizer = load_tokenizer(source)
    policy = load_policy(source, tokenizer)
    encoder = Encoder(
        tokenizer=tokenizer,
        template="{prompt} ",
        max_prompt_tokens=2000,
        max_completion_tokens=tokens,
    )
    ids = encoder.prompts([prompt])
    with torch.no_grad():  # no end-of-text, so that both sample every token
        policy.get_output_embeddings().weight[encoder.eos] = 0
    wall = cpu = 0.0
    if way == "peer":
        policy.set_attn_implementation("sdpa")
        policy.config.use_cache = True
    for repeat in range(REPEATS):
        if repeat == 1:
            wall, cpu = time.perf_counter(), time.process_time()
        if way == "ours":
            uniform = torch.rand(k, tokens, generator=torch.Generator().manual_seed(repeat))
            made = sample(
                policy, ids, n=k, uniform=uniform, temperature=1.0, eos=-1, pad=encoder.pad
            )
            assert all(len(one.ids) == tokens for one in made)
        else:
            made = policy.generate(  # type: ignore[operator]
                torch.tensor(ids),
                attention_mask=torch.ones(1, len(ids[0]), dtype=torch.long),
                do_sample=True,
                num_return_sequences=k,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                top_k=0,
                return_dict_in_generate=True,
                output_logits=True,  # the logprobs of what was sampled are part of the work
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": peak,
        "losses": [],
    }
    print(json.dumps(figures))


def options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--k", type=int, default=9)
    made.add_argument("--prompt", type=int, default=512)
    made.add_argument("--tokens", type=int, default=64)
    made.set_defaults(peer=sys.executable)
    for action in made._actions:
        action.required = False
    return made


def main() -> None:
    given = options().parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        save_models(home)
        prompt = words(random.Random(1), given.prompt)
        arguments = [home / "policy", prompt, str(given.k), str(given.tokens)]
        command = [sys.executable, "-m", "benchmarks.sampling", "--once"]
        against(
            "sampling",
            given,
            [*command, "ours", *arguments],
            [*command, "peer", *arguments],
            k=given.k,
            prompt=given.prompt,
            tokens=given.tokens,
            repeats=REPEATS - 1,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        once(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
    else:
        main()
