"""K samples of one prompt against Hugging Face generate: python -m benchmarks.sampling.

generate with num_return_sequences=K encodes the prompt K times; here it passes once and its keys
and values are shared out. Each way in a process of its own, in turn; no completion ends early.
--prompts samples several prompts at once, with --k 1 as a rollout of PPO does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.peers.machine import GPU, peak_mb
from benchmarks.versus import against, parser, save_models, words

REPEATS = 6


def once(way: str, source: str, prompts: Path, k: int, tokens: int) -> None:
    """Sample REPEATS times and print the figures of all but the first."""
    import torch

    from trainer.data import Encoder
    from trainer.graphs import VARIABLE
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
    ids = encoder.prompts(json.loads(prompts.read_text(encoding="utf-8")))
    asked = torch.tensor(ids, device=policy.device)
    with torch.no_grad():  # no end-of-text, so that both sample every token
        policy.get_output_embeddings().weight[encoder.eos] = 0
    wall = cpu = 0.0
    os.environ.setdefault(VARIABLE, "yes")
    if way == "peer":
        policy.set_attn_implementation("sdpa")
        policy.config.use_cache = True
        if GPU:
            policy.bfloat16()
    elif GPU:
        torch.set_float32_matmul_precision("high")  # as trainer.processes does
    for repeat in range(REPEATS):
        if repeat == 1:
            wall, cpu = time.perf_counter(), time.process_time()
        if way == "ours":
            uniform = torch.rand(
                k * len(ids), tokens, generator=torch.Generator().manual_seed(repeat)
            )
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=GPU):
                made = sample(
                    policy, ids, n=k, uniform=uniform, temperature=1.0, eos=-1, pad=encoder.pad
                )
            assert all(len(one.ids) == tokens for one in made)
        else:
            made = policy.generate(  # type: ignore[operator]
                asked,
                attention_mask=torch.ones_like(asked),
                do_sample=True,
                num_return_sequences=k,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                top_k=0,
                return_dict_in_generate=True,
                output_logits=True,  # the logprobs of what was sampled are part of the work
            )
    if GPU:
        torch.cuda.synchronize()
    figures = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": peak_mb(),
        "losses": [],
    }
    print(json.dumps(figures))


def options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--k", type=int, default=9)
    made.add_argument("--prompt", type=int, default=512)
    made.add_argument("--prompts", type=int, default=1)
    made.add_argument("--tokens", type=int, default=64)
    made.set_defaults(peer=sys.executable)
    for action in made._actions:
        action.required = False
    return made


def main() -> None:
    given = options().parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        save_models(home, given.size)
        rng = random.Random(1)
        prompts = [words(rng, given.prompt) for _ in range(given.prompts)]
        (home / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
        arguments = [home / "policy", home / "prompts.json", str(given.k), str(given.tokens)]
        command = [sys.executable, "-m", "benchmarks.sampling", "--once"]
        against(
            "sampling",
            given,
            [*command, "ours", *arguments],
            [*command, "peer", *arguments],
            passed=given.k * given.prompts * given.tokens * (REPEATS - 1),
            k=given.k,
            prompt=given.prompt,
            prompts=given.prompts,
            tokens=given.tokens,
            repeats=REPEATS - 1,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        once(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
    else:
        main()
