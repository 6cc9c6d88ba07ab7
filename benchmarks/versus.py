"""What the benchmarks against TRL share: a model, texts of known length, runs in turn, a table.

Ours and the peer's run are processes of their own, one after the other, with the same weights,
data, dtype, threads and optimizer. Each prints one JSON line: seconds and CPU seconds from the end
of its first step to the end of its last, its peak memory, and its losses. The peer has an
environment of its own: `python -m venv DIR; DIR/bin/pip install torch==2.13.0 trl==1.16.0` (for PPO
trl==1.12.0).

With --gpu both run on the first GPU with float32 weights and passes in bfloat16, peak memory is the
GPU's, and SFT and reward model also print how much of the GPU's measured ceiling they reach.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
VOCABULARY = 4096  # of the tokenizer
EOS, PAD = "<|endoftext|>", "<|pad|>"


@dataclass(frozen=True)
class Size:
    """A GPT-2's: width, layers, heads, rows of the embedding."""

    width: int
    layers: int
    heads: int
    rows: int

    def training_flops(self, tokens: int, predicted: int, pairs: int) -> float:
        """Of a forward and backward pass over so many tokens, with so many of them predicted and
        so many pairs of a token and one that it looks back on.
        """
        trunk = 72 * self.layers * self.width**2 * tokens  # 6 for each of 12 d^2 weights a layer
        return trunk + 6 * self.width * (self.rows * predicted + 2 * self.layers * pairs)


SIZES = {
    "4M": Size(256, 4, 4, VOCABULARY),
    "124M": Size(768, 12, 12, 50_257),
    "1B": Size(2048, 20, 16, 50_257),
}


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark that has a peer."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--peer", required=True, help="the Python of the peer's environment")
    made.add_argument("--runs", type=int, default=3)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--size", choices=SIZES, default="4M", help="of the models")
    made.add_argument("--gpu", action="store_true", help="bfloat16 on the first GPU")
    return made


def words(rng: random.Random, count: int) -> str:
    """A text of `count` tokens."""
    return " ".join(f"w{rng.randrange(VOCABULARY - 2)}" for _ in range(count))


def save_models(directory: Path, size: str) -> None:
    """directory/policy and directory/reward: a GPT-2 with random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        GPT2ForSequenceClassification,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
    )

    vocabulary = {EOS: 0, PAD: 1} | {f"w{i}": i + 2 for i in range(VOCABULARY - 2)}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=EOS, pad_token=PAD)
    config = GPT2Config(
        vocab_size=SIZES[size].rows,
        n_positions=2048,
        n_embd=SIZES[size].width,
        n_layer=SIZES[size].layers,
        n_head=SIZES[size].heads,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        num_labels=1,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    )
    torch.manual_seed(0)
    policy = GPT2LMHeadModel(config)
    reward = GPT2ForSequenceClassification(config)
    reward.transformer.load_state_dict(policy.transformer.state_dict())
    for name, model in (("policy", policy), ("reward", reward)):
        model.save_pretrained(directory / name)
        tokenizer.save_pretrained(directory / name)


def write_run(directory: Path, data: dict[str, list[dict[str, Any]]], **spec: Any) -> None:
    """A run directory of the trainer."""
    (directory / "data").mkdir(parents=True)
    for name, records in data.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (directory / "data" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    spec = {"preset": "paper", "seed": 0, "prompt_template": "{prompt} ", **spec}
    spec["data"] = {name: f"{name}.jsonl" for name in data}
    (directory / "spec.json").write_text(json.dumps(spec), encoding="utf-8")


def measured(command: Sequence[str | Path], given: argparse.Namespace) -> dict[str, Any]:
    """The JSON line that the command prints last."""
    where = {"CUDA_VISIBLE_DEVICES": ""}
    if given.gpu:  # the first alone: the peer would divide its batches among all
        first = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0]
        where = {
            "CUDA_VISIBLE_DEVICES": first,
            "BENCHMARK_GPU": "1",
            "ACCELERATE_MIXED_PRECISION": "bf16",
        }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(given.threads),
            "OMP_WAIT_POLICY": "ACTIVE",  # nothing else wants a core: threads may spin
            "HF_HUB_OFFLINE": "1",
            **where,
            "TRL_EXPERIMENTAL_SILENCE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def against(
    bench: str,
    given: argparse.Namespace,
    ours: Sequence[str | Path],
    peer: Sequence[str | Path],
    flops: float | None = None,
    passed: int | None = None,
    **about: Any,
) -> None:
    """Run both in turn, print a table of medians and one JSON line.

    flops are those of ours; passed are the tokens that each trains on or samples, if they are to be
    told by the second.
    """
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(given.runs):
        for name, command in (("ours", ours), ("peer", peer)):
            found[name].append(measured(command, given))
    medians = {
        name: {
            key: statistics.median(run[key] for run in runs)
            for key in ("seconds", "cpu_seconds", "peak_mb")
        }
        for name, runs in found.items()
    }
    print(f"{bench}: {about}")
    print(f"{'':<8}{'seconds':>10}{'CPU':>10}{'peak MB':>10}   each run's seconds; losses")
    for name, figures in medians.items():
        each = " ".join(f"{run['seconds']:.2f}" for run in found[name])
        losses = ", ".join(f"{loss:.4f}" for loss in found[name][0]["losses"][:4])
        print(
            f"{name:<8}{figures['seconds']:>10.2f}{figures['cpu_seconds']:>10.2f}"
            f"{figures['peak_mb']:>10.0f}   {each}; {losses}"
        )
    line = {
        "bench": bench,
        **about,
        "ours_s": medians["ours"]["seconds"],
        "peer_s": medians["peer"]["seconds"],
        "ratio": medians["peer"]["seconds"] / medians["ours"]["seconds"],
        "cpu_ratio": medians["peer"]["cpu_seconds"] / medians["ours"]["cpu_seconds"],
        "ours_peak_mb": medians["ours"]["peak_mb"],
        "peer_peak_mb": medians["peer"]["peak_mb"],
        "runs": given.runs,
        "threads": given.threads,
        "size": given.size,
    }
    if passed is not None:
        for name, figures in medians.items():
            line[f"{name}_tokens_s"] = round(passed / figures["seconds"])
    if given.gpu and flops is not None:
        ceiling = measured([sys.executable, "-m", "benchmarks.ceiling"], given)["tflops"]
        line["ceiling_tflops"] = ceiling
        line["utilisation"] = flops / medians["ours"]["seconds"] / 1e12 / ceiling
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()}))
    most = 0.05 if given.gpu else 0.0002
    for ours_of, theirs in zip(found["ours"], found["peer"], strict=True):
        both = ours_of["losses"], theirs["losses"]
        alike = [abs(a - b) <= most for a, b in zip(*both, strict=False)]  # NaN is like nothing
        if len(both[0]) != len(both[1]) or not all(alike):
            raise SystemExit(f"the losses differ by more than {most}: {both[0]} and {both[1]}")


def our_command(run_dir: Path) -> list[str | Path]:
    return [sys.executable, "-m", "benchmarks.timed", run_dir]
