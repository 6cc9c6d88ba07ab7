"""sample: completions of the policies of a spec, scored where it names a reward model.

A request with best_of b draws b samples for each completion, and the reward model's favourite is
it: a policy at most log b - (b - 1)/b nats from the one that is sampled (Stiennon et al. 2020). A
completion without end-of-text is scored as if it ended there, and may be the favourite.

Requests are grouped by policy and by length; the n completions of one prompt share its prefill.
Every batch has its own seed, so a resumed run writes what an uninterrupted one would have written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from trainer.config import SampleConfig
from trainer.contract import (
    COMPLETIONS,
    CompletionRecord,
    ContractError,
    SampleRequest,
    write_records,
)
from trainer.data import Encoder, load_records
from trainer.engine import Engine, engine_for
from trainer.ensemble import load_members
from trainer.metrics import writing
from trainer.models import (
    check_context,
    load_config,
    load_policy,
    load_reward_model,
    load_tokenizer,
    model_source,
)
from trainer.passes import score_completions
from trainer.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REWARD = "reward"
Work = tuple[int, int, int]  # request, number of its first sample here, how many


class Done:
    """The completions so far, by (request, index): the state that a checkpoint keeps."""

    def __init__(self) -> None:
        self.records: dict[tuple[int, int], CompletionRecord] = {}

    def offer(self, request: int, record: CompletionRecord) -> None:
        """Keep the record, unless one with the same place and no lower score is kept already."""
        kept = self.records.get((request, record.index))
        if kept is None or _score(record) > _score(kept):
            self.records[request, record.index] = record

    def state_dict(self) -> dict[str, Any]:
        return {"records": [[request, r.to_json()] for (request, _), r in self.records.items()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        records = [(i, CompletionRecord.from_json(r)) for i, r in state_dict["records"]]
        self.records = {(request, record.index): record for request, record in records}


def _score(record: CompletionRecord) -> float:
    return -math.inf if record.score is None else record.score


def plan(requests: list[SampleRequest], lengths: list[int], size: int) -> Iterator[list[Work]]:
    """Batches of at most `size` completions of one policy, prompts of similar length together."""
    by_policy = sorted(range(len(requests)), key=lambda i: (requests[i].policy, lengths[i]))
    for _, group in groupby(by_policy, key=lambda i: requests[i].policy):
        batch: list[Work] = []
        room = size
        for i in group:
            first = 0
            draws = requests[i].n * requests[i].best_of
            while first < draws:
                count = min(room, draws - first)
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
    """Loads one policy at a time, with its encoder, and has the engine sample from it."""

    run: Run
    config: SampleConfig
    engine: Engine
    name: str | None = None
    policy: PreTrainedModel = field(init=False)
    encoder: Encoder = field(init=False)

    def use(self, name: str) -> None:
        if name == self.name:
            return
        source = model_source(self.run.spec, name)
        self.encoder = self.run.encoder(load_tokenizer(source), self.config)
        self.policy = load_policy(source, self.encoder.tokenizer)
        self.engine.use(self.policy, self.encoder)
        self.name = name


def check_prompts(run: Run, config: SampleConfig, requests: list[SampleRequest]) -> None:
    """Raises ContractError where a policy or the reward model cannot read what it will be given."""
    for name in run.spec.models:
        asked = {r.prompt for r in requests if name in (REWARD, r.policy)}
        if not asked:
            continue
        source = model_source(run.spec, name)
        prompts = run.encoder(load_tokenizer(source), config).prompts(list(asked))
        longest = max(map(len, prompts))
        check_context(load_config(source), longest + config.max_completion_tokens)


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
        if request.best_of > 1 and (REWARD not in run.spec.models or config.temperature == 0):
            raise ContractError(
                f"prompt {request.prompt_id}: the best of {request.best_of} samples needs a reward "
                "model to choose, and a temperature above 0"
            )
    # All that the requests name count, also those that a run which is resumed has sampled.
    engine = engine_for(run, exact=False, policies=len({r.policy for r in requests}))
    # Lengths in characters, so that the plan is the same whatever the policies' tokenizers are.
    check_prompts(run, config, requests)
    batches = list(plan(requests, [len(r.prompt) for r in requests], config.batch_completions))
    policies = Policies(run, config, engine)
    reward_model = reward_encoder = None
    if REWARD in run.spec.models:
        source = model_source(run.spec, REWARD)
        reward_encoder = run.encoder(load_tokenizer(source), config)
        reward_model = load_reward_model(source, reward_encoder.tokenizer)
        load_members(reward_model, source)
    done = Done()
    start, checkpoints, metrics = run.resume({"done": done}, config, total_steps=len(batches))

    for step, batch in enumerate(batches[start:], start):
        began = time.monotonic()
        policies.use(requests[batch[0][0]].policy)
        encoder = policies.encoder
        prompts = encoder.prompts([requests[i].prompt for i, _, _ in batch])
        uniform = torch.rand(
            sum(count for _, _, count in batch),
            config.max_completion_tokens,
            generator=run.seed(step),
        ).split([count for _, _, count in batch])
        own = run.processes.share(range(len(batch)))
        drawn = iter(
            engine.sample(
                [prompts[k] for k in own],
                n=[batch[k][2] for k in own],
                uniform=torch.cat([uniform[k] for k in own]),
                temperature=config.temperature,
            )
            if own
            else []
        )
        shares = [[next(drawn) for _ in range(batch[k][2])] for k in own]
        sampled = [one for several in run.processes.together(shares) for one in several]
        texts = encoder.tokenizer.batch_decode([s.ids for s in sampled], skip_special_tokens=True)
        owners = [(i, first + k) for i, first, count in batch for k in range(count)]
        scores: list[float] | None = None
        spreads: list[float] | None = None
        if reward_model is not None and reward_encoder is not None:
            with run.processes.accelerator.autocast():
                scores, spreads = score_completions(
                    reward_model,
                    reward_encoder,
                    [requests[i].prompt for i, _ in owners],
                    texts,
                    config.pass_tokens,
                )
        for row, (i, draw) in enumerate(owners):
            record = CompletionRecord(
                prompt_id=requests[i].prompt_id,
                policy=requests[i].policy,
                index=draw // requests[i].best_of,
                text=texts[row],
                finish_reason="stop" if sampled[row].finished else "length",
                tokens=len(sampled[row].ids),
                score=None if scores is None else scores[row],
                spread=None if spreads is None else spreads[row],
            )
            done.offer(i, record)
        tokens = sum(len(s.ids) for s in sampled)
        metrics.write(
            step + 1,
            {
                "rollout/completion_tokens": tokens / len(sampled),
                "rollout/missing_eos_share": sum(not s.finished for s in sampled) / len(sampled),
                "speed/tokens_per_second": tokens / (time.monotonic() - began),
            },
            phase=f"sample {requests[batch[0][0]].policy}",
        )
        checkpoints.after(step + 1)

    records = [done.records[place] for place in sorted(done.records)]
    if run.processes.main:
        with writing(run_dir / COMPLETIONS):
            write_records(run_dir / COMPLETIONS, records)
    figures = {"sample/completions": float(len(records))}
    for name in names:
        theirs = [r for r in records if r.policy == name]
        for key in ("score", "spread"):
            values = [getattr(r, key) for r in theirs]
            if values and values[0] is not None:
                figures[f"{key}/{name}"] = fmean(values)
    run.finish(figures, completions=COMPLETIONS, versions=engine.versions)
