"""sample: completions of the policies of a spec, scored where it names a reward model.

Requests are grouped by policy and by length; the n completions of one prompt share its prefill.
Every batch has its own seed, so a resumed run writes what an uninterrupted one would have written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import SampleConfig
from trainer.contract import COMPLETIONS, CompletionRecord, ContractError, SampleRequest
from trainer.data import Encoder, load_records
from trainer.models import (
    check_context,
    load_policy,
    load_reward_model,
    load_tokenizer,
    model_source,
)
from trainer.passes import score_completions
from trainer.rollout import sample
from trainer.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REWARD = "reward"
Work = tuple[int, int, int]  # request, index of its first completion here, how many


class Done:
    """The completions so far, by (request, index): the state that a checkpoint keeps."""

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, Any]]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records = state_dict["records"]


def plan(requests: list[SampleRequest], lengths: list[int], size: int) -> Iterator[list[Work]]:
    """Batches of at most `size` completions of one policy, prompts of similar length together."""
    by_policy = sorted(range(len(requests)), key=lambda i: (requests[i].policy, lengths[i]))
    for _, group in groupby(by_policy, key=lambda i: requests[i].policy):
        batch: list[Work] = []
        room = size
        for i in group:
            first = 0
            while first < requests[i].n:
                count = min(room, requests[i].n - first)
                batch.append((i, first, count))
                first += count
                room -= count
                if room == 0:
                    yield batch
                    batch, room = [], size
        if batch:
            yield batch


@dataclass
class Policies:
    """Loads one policy at a time, with its encoder."""

    run: Run
    config: SampleConfig
    name: str | None = None
    policy: PreTrainedModel = field(init=False)
    encoder: Encoder = field(init=False)

    def use(self, name: str) -> None:
        if name == self.name:
            return
        source = model_source(self.run.spec, name)
        self.encoder = encoder_for(self.run, self.config, source)
        self.policy = load_policy(source, self.encoder.tokenizer)
        self.name = name


def encoder_for(run: Run, config: SampleConfig, source: str) -> Encoder:
    return Encoder(
        tokenizer=load_tokenizer(source),
        template=run.spec.prompt_template,
        max_prompt_tokens=config.max_prompt_tokens,
        max_completion_tokens=config.max_completion_tokens,
    )


def run_sample(run_dir: Path) -> None:
    """Sample what the requests of a run directory of kind "sample" ask for."""
    run = Run.open(run_dir)
    config = run.configure(SampleConfig)
    names = [name for name in run.spec.models if name != REWARD]
    requests = load_records(run_dir, run.spec, "requests", SampleRequest)
    for request in requests:
        if request.policy not in names:
            raise ContractError(
                f"prompt {request.prompt_id}: models names no policy {request.policy!r}"
            )
    # Lengths in characters, so that the plan is the same whatever the policies' tokenizers are.
    batches = list(plan(requests, [len(r.prompt) for r in requests], config.batch_completions))
    policies = Policies(run, config)
    reward_model = reward_encoder = None
    if REWARD in run.spec.models:
        source = model_source(run.spec, REWARD)
        reward_encoder = encoder_for(run, config, source)
        reward_model = load_reward_model(source, reward_encoder.tokenizer)
    done = Done()
    start, checkpoints, metrics = run.resume(
        {"done": done}, total_steps=len(batches), seconds=config.checkpoint_seconds
    )

    for step, batch in enumerate(batches[start:], start):
        began = time.monotonic()
        policies.use(requests[batch[0][0]].policy)
        encoder = policies.encoder
        prompts = encoder.prompts([requests[i].prompt for i, _, _ in batch])
        check_context(policies.policy, max(map(len, prompts)) + config.max_completion_tokens)
        rollout = sample(
            policies.policy,
            prompts,
            n=[count for _, _, count in batch],
            max_tokens=config.max_completion_tokens,
            temperature=config.temperature,
            eos=encoder.eos,
            pad=encoder.pad,
            generator=run.seed(step),
        )
        ids = rollout.token_ids
        texts = encoder.tokenizer.batch_decode(ids, skip_special_tokens=True)
        finished = rollout.finished.tolist()
        owners = [(i, first + k) for i, first, count in batch for k in range(count)]
        scores: list[float | None] = [None] * len(texts)
        if reward_model is not None and reward_encoder is not None:
            scores[:] = score_completions(
                reward_model, reward_encoder, [requests[i].prompt for i, _ in owners], texts
            )
        for row, (i, index) in enumerate(owners):
            record = CompletionRecord(
                prompt_id=requests[i].prompt_id,
                policy=requests[i].policy,
                index=index,
                text=texts[row],
                finish_reason="stop" if finished[row] else "length",
                tokens=len(ids[row]),
                score=scores[row],
            )
            done.records.append((i, record.to_json()))
        sampled = sum(map(len, ids))
        metrics.write(
            step + 1,
            {
                "rollout/completion_tokens": sampled / len(ids),
                "rollout/missing_eos_share": finished.count(False) / len(ids),
                "speed/tokens_per_second": sampled / (time.monotonic() - began),
            },
            phase=f"sample {requests[batch[0][0]].policy}",
        )
        checkpoints.after(step + 1)

    records = [r for _, r in sorted(done.records, key=lambda pair: (pair[0], pair[1]["index"]))]
    write_completions(run_dir / COMPLETIONS, records)
    figures = {"sample/completions": float(len(records))}
    for name in names:
        own = [r for r in records if r["policy"] == name]
        if own and own[0]["score"] is not None:
            figures[f"score/{name}"] = sum(r["score"] for r in own) / len(own)
    run.finish(figures, completions=COMPLETIONS)


def write_completions(path: Path, records: list[dict[str, Any]]) -> None:
    """JSONL, in the order of the requests, whole or not there."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
