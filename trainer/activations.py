"""Activations in few operations, where transformers composes them of many."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TWICE = torch.tensor(math.sqrt(8 / math.pi))


def _gelu(x: Tensor) -> Tensor:
    bend = torch.addcmul(TWICE, x, x, value=0.044715 * TWICE.item())
    return bend.mul_(x).sigmoid_().mul_(x)


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _gelu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        made: Tensor = torch.ops.aten.gelu_backward(gradient, x, approximate="tanh")
        return made


class GELU(nn.Module):
    """GPT-2's GELU, of x of any shape, in few operations instead of nine.

    On a CPU it is computed as x * sigmoid(2 u), u as in the tanh approximation: torch takes its
    sigmoid from a faster library than its tanh.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return F.gelu(x, approximate="tanh")
        made: Tensor = _GELU.apply(x) if torch.is_grad_enabled() else _gelu(x)  # type: ignore[no-untyped-call]
        return made


def fuse_activations(model: nn.Module) -> None:
    """Replace what transformers composes of nine operations."""
    from transformers.activations import FastGELUActivation, NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, GELU())
