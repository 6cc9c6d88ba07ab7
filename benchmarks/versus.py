"""What the benchmarks against TRL share: a model, texts of known length, runs in turn, a table.

Ours and the peer's run are processes of their own, one after the other, with the same weights,
data, dtype, threads and optimizer. Each prints one JSON line: seconds and CPU seconds from the end
of its first step to the end of its last, its peak memory, and its losses. The peer has an
environment of its own: `python -m venv DIR; DIR/bin/pip install torch==2.13.0 trl==1.16.0` (for PPO
trl==1.12.0).
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
VOCABULARY = 4096
EOS, PAD = "<|endoftext|>", "<|pad|>"


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark that has a peer."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--peer", required=True, help="the Python of the peer's environment")
    made.add_argument("--runs", type=int, default=3)
    made.add_argument("--threads", type=int, default=2)
    return made


def words(rng: random.Random, count: int) -> str:
    """A text of `count` tokens."""
    return " ".join(f"w{rng.randrange(VOCABULARY - 2)}" for _ in range(count))


def save_models(directory: Path) -> None:
    """directory/policy and directory/reward: a GPT-2 of 4M parameters, width 256, 4 layers."""
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
        vocab_size=VOCABULARY,
        n_positions=2048,
        n_embd=256,
        n_layer=4,
        n_head=4,
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


def measured(command: Sequence[str | Path], threads: int) -> dict[str, Any]:
    """The JSON line that the command prints last."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "ACTIVE",  # nothing else wants a core: threads may spin
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
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
    **about: Any,
) -> None:
    """Run both in turn, print a table of medians and one JSON line."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(given.runs):
        for name, command in (("ours", ours), ("peer", peer)):
            found[name].append(measured(command, given.threads))
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
    }
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()}))


def our_command(run_dir: Path) -> list[str | Path]:
    return [sys.executable, "-m", "benchmarks.timed", run_dir]
