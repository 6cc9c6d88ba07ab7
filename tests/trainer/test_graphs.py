"""Sampling by steps that are recorded and replayed, as a CUDA graph does, without a GPU.

A tape stands in for the graph: it writes down every operation of a step with the tensors that it
took and made, and replays those on the same tensors. As with a graph nothing of Python runs then,
and an operation that brings a value from the device cannot be recorded.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer.test_packing import TINY, ids, tiny
from trainer import rollout
from trainer.architecture import use_packed_attention
from trainer.config import ConfigError
from trainer.graphs import VARIABLE, recorder
from trainer.rollout import sample

WAITING = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::masked_select"}


class Tape(TorchDispatchMode):
    """What happens within it, to be replayed any number of times."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []  # what was written to, and what it was

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        assert schema.name not in WAITING, f"{schema.name} waits for the device"
        if schema.is_mutable:
            self.before.append((args[0], args[0].clone()))
        made = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        for func, args, kwargs, made in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(made), pytree.tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def taped(step: Callable[[], None]) -> Tape:
    """As trainer.graphs.recorded: the step is taken once, and recorded without being taken."""
    step()
    tape = Tape()
    with tape:
        step()
    for written, before in reversed(tape.before):
        written.copy_(before)
    return tape


@torch.no_grad()
@pytest.mark.parametrize("counts", [(3, 1, 2, 3, 4, 1), (1,) * 6], ids=["shared", "alone"])
@pytest.mark.parametrize("architecture", TINY)
def test_replayed_steps_sample_the_same(
    architecture: str, counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(architecture, "policy")
    use_packed_attention(model)
    rng = random.Random(4)
    asked = [ids(rng, length) for length in (5, 9, 1, 4, 9, 3)]
    uniform = torch.rand(sum(counts), 40, generator=torch.Generator().manual_seed(2))
    options: dict[str, Any] = {"n": counts, "uniform": uniform, "temperature": 0.7, "pad": 1}
    whole = sample(model, asked, eos=-1, **options)
    ends = Counter(token for one in whole for token in set(one.ids[:30]) - set(one.ids[:2]))
    eos = ends.most_common(1)[0][0]
    steps = sample(model, asked, eos=eos, **options)

    tapes: list[Tape] = []

    def recorded(step: Callable[[], None]) -> Callable[[], object]:
        tapes.append(taped(step))
        return tapes[-1].replay

    monkeypatch.setattr(rollout, "recorder", lambda _: recorded)
    again = sample(model, asked, eos=eos, **options)
    assert len(tapes) > 1  # rows that had finished left the batch
    assert [(one.ids, one.finished) for one in again] == [(one.ids, one.finished) for one in steps]
    for one, other in zip(again, steps, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_a_word_that_is_neither_yes_nor_no_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2", "policy")
    for said in ("yes", "no", ""):
        monkeypatch.setenv(VARIABLE, said)
        assert recorder(model) is None  # there is no GPU
    monkeypatch.setenv(VARIABLE, "true")
    with pytest.raises(ConfigError, match=f"{VARIABLE}: 'true' is neither"):
        recorder(model)
