"""Matrix products on a CPU, by oneDNN: torch has it, and in float32 multiplies by MKL all the same.

MKL leaves the wide vectors of processors of another make than its own unused; oneDNN writes its
kernels for whatever processor it finds. On an AMD EPYC with AVX-512 it is up to twice as fast,
forward and backward (python -m benchmarks.products).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALL = 1 << 20  # multiplications: up to here MKL has done before oneDNN has begun
NARROW = 16  # columns: fewer, as a reward model's one, are not worth a kernel


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (..., k) @ b (k, m) + bias (m,), of float32 on a CPU where oneDNN is. No gradients."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return made


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows, given = x.flatten(0, -2), gradient.flatten(0, -2)
        return (
            product(gradient, weight) if of_x else None,
            weight_gradient(rows, given) if of_weight else None,
            given.sum(0) if of_bias else None,
        )


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """gradient (n, out) transposed @ x (n, in): (out, in). The narrower of them is transposed."""
    if gradient.shape[1] <= x.shape[1]:
        return product(gradient.t(), x)
    return product(x.t(), gradient).t()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's linear, of x (..., in) and a weight (out, in) that may be a transposed view."""
    if not applies(x, len(weight)):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return product(x, weight.t(), bias)
    made: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return made


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a (n, k) @ b (k, m), without gradients."""
    return product(a, b) if applies(a, b.shape[1]) else a @ b


def applies(x: Tensor, columns: int) -> bool:
    """Whether the product of x with a matrix of so many columns is one for oneDNN."""
    return (
        x.device.type == "cpu"
        and x.ndim > 1
        and x.dtype == torch.float32
        and x.numel() * columns > SMALL
        and columns >= NARROW
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def rounded(rows: int, device: torch.device) -> int:
    """On a CPU the next of few numbers: up to 32 all, from there sixteen from 2^n to 2^(n + 1).

    oneDNN writes a kernel for every number of rows, in a millisecond, and keeps it. A trainer whose
    every batch has another number would go on writing, and its memory would go on growing.
    """
    if device.type != "cpu":
        return rows
    step = 1 << max(0, rows.bit_length() - 5)
    return -(-rows // step) * step


def use_fast_products(model: nn.Module) -> None:
    """Let the model's linear maps multiply so; their weights stay where they are."""
    from transformers.pytorch_utils import Conv1D

    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D):
            module.forward = partial(_forward, module, transposed=type(module) is Conv1D)


def _forward(module: Any, x: Tensor, *, transposed: bool) -> Tensor:
    weight: Tensor = module.weight
    return linear(x, weight.t() if transposed else weight, module.bias)
