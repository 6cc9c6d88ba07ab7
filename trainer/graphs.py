"""Steps of sampling recorded as CUDA graphs.

A token of a small model is some hundred kernels for each of its layers, and to launch them takes
longer than to run them. A graph launches them all at once. Nothing of Python runs when it is
replayed: a step must follow from tensors alone, find them where they were, and ask for no value.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from trainer.config import ConfigError
from trainer.metrics import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VARIABLE = "PLUMBLINE_CUDA_GRAPHS"


def recorder(model: PreTrainedModel) -> Callable[[Callable[[], None]], Callable[[], object]] | None:
    """`recorded`, where the host's environment says "yes" in PLUMBLINE_CUDA_GRAPHS.

    None elsewhere, without a GPU, and for a sharded model, whose layers wait for other processes.
    Raises ConfigError where it says something else than "yes" or "no".
    """
    said = os.environ.get(VARIABLE) or "no"
    if said not in ("yes", "no"):
        raise ConfigError(f'{VARIABLE}: {said!r} is neither "yes" nor "no"')
    if said == "no" or next(model.parameters()).device.type != "cuda":
        return None
    sharded = any(hasattr(module, "set_reshard_after_forward") for module in model.modules())
    return None if sharded else recorded


def recorded(step: Callable[[], None]) -> Callable[[], object]:
    """Take the step once, record it, and return what takes it again.

    Raises TrainingError where it cannot be recorded.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # libraries set themselves up outside the graph
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads may go on: the watchdog of NCCL asks the GPU for news all the time.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    except RuntimeError as error:
        raise TrainingError(
            f"sampling cannot be recorded as a CUDA graph ({error}): unset {VARIABLE}"
        ) from error
    return graph.replay
