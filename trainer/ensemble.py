"""An ensemble of reward models: several heads on one trunk, and the spread of what they say.

Each head is a member. All begin as one, and each sees prompts drawn with replacement: where the
labels leave a score open, they come to differ. Heads and not M models, since the trunk is nearly
all of the cost: a spread for every completion, in PPO too, costs nothing. And the mean of linear
heads is a linear head: what is saved is an ordinary reward model that scores as the ensemble does,
with the members beside it. What is lost: the members read with the same eyes, so that what the
trunk overlooks shows in no spread. It is a lower bound of their doubt. (Heads that begin at random,
with variance 1 / (D + 1), were tried: on little data they stay what they were, and the calibration
is worse.)
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainer.contract import ContractError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEMBERS = "members.safetensors"  # in the directory of a reward model: weight (M, D), bias (M,)


def add_members(model: PreTrainedModel, count: int) -> None:
    """Give a reward model `count` heads that are the one it has; 1 changes nothing."""
    if count > 1:
        _set_heads(model, _head(model).weight.detach().expand(count, -1), None)


def _head(model: PreTrainedModel) -> nn.Linear:
    head: nn.Linear = model.score  # type: ignore[assignment]
    return head


def _set_heads(model: PreTrainedModel, weight: Tensor, bias: Tensor | None) -> None:
    heads = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, device=weight.device)
    heads.weight.data.copy_(weight)
    if bias is not None:
        heads.bias.data.copy_(bias)
    model.score = heads


def prompt_weights(seed: int, prompt_id: int, members: int) -> list[float]:
    """How often each member sees a prompt: Poisson(1), as in drawing with replacement; [1] of one.

    A function of its arguments, so that all rankings of a prompt come and stay away together.
    """
    if members == 1:
        return [1.0]
    rng = random.Random(f"{seed}/{prompt_id}")
    return [_poisson(rng.random()) for _ in range(members)]


def _poisson(uniform: float) -> float:
    """The value of a Poisson(1) variable at this place of its distribution."""
    count, probability = 0, math.exp(-1)
    while uniform >= probability and count < 10:
        uniform -= probability
        count += 1
        probability /= count
    return float(count)


def merge_members(model: PreTrainedModel, biases: Tensor) -> dict[str, Tensor]:
    """Leave the model the mean of its heads and of the biases (M,); returns the members' tensors.

    Its score of a completion is then the mean of the members'. With one head nothing is returned.
    """
    weight = _head(model).weight.detach()
    model.config.reward_bias = float(biases.mean())
    if len(weight) == 1:
        return {}
    _set_heads(model, weight.mean(0, keepdim=True), None)
    return {"weight": weight.cpu().contiguous(), "bias": biases.cpu().float().contiguous()}


def save_members(directory: Path, members: dict[str, Tensor]) -> None:
    """Write the members beside their reward model, if there are any."""
    from safetensors.torch import save_file

    if members:
        save_file(members, directory / MEMBERS)


def load_members(model: PreTrainedModel, source: str) -> int:
    """Give a reward model loaded from `source` its members as heads, if any; returns how many.

    Raises ContractError where they cannot be loaded or are not this model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(source) / MEMBERS
    if not path.is_file():
        return 1
    try:
        members = load_file(path)
    except SafetensorError as error:
        raise ContractError(f"{path}: cannot be loaded: {error}") from error
    weight = _head(model).weight.detach()
    own = members["weight"].mean(0, keepdim=True)
    if own.shape != weight.shape or not torch.allclose(own, weight.cpu(), rtol=1e-3, atol=1e-4):
        raise ContractError(f"{path}: its mean is not the model's head; was the model changed?")
    _set_heads(model, members["weight"].to(weight), members["bias"].to(weight))
    model.config.reward_bias = 0.0
    return len(members["weight"])


def mean_and_spread(scores: Tensor) -> tuple[Tensor, Tensor | None]:
    """(mean, standard deviation) (n,) over the members' scores (n, M); (scores, None) for (n,)."""
    if scores.ndim == 1:
        return scores, None
    return scores.mean(1), scores.std(1)
