"""Matrix products on a CPU, by oneDNN: torch has it, and in float32 multiplies by MKL all the same.

MKL leaves the wide vectors of processors of another make than its own unused; oneDNN writes its
kernels for whatever processor it finds. On an AMD EPYC with AVX-512 it is up to twice as fast,
forward and backward. On Intel's own MKL is the faster one, up to twice backward, and nothing here
is in its way (python -m benchmarks.products).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALL = 1 << 20  # multiplications: up to here MKL has done before oneDNN has begun
NARROW = 16  # columns: fewer, as a reward model's one, are not worth a kernel
LARGE = 1 << 16  # elements: up to here a weight is not worth to be laid out, MKL has begun sooner
ROWS = 32  # that weights are laid out for: for one the layout is another, for more the same


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (..., k) @ b (k, m) + bias (m,), of float32 on a CPU where oneDNN is. No gradients."""
    return _linear_pointwise(a, b.t(), bias)


def _linear_pointwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, after: tuple[str, str] = ("none", "")
) -> Tensor:
    does, how = after
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, does, [], how)
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
        return product(_transposed(gradient), x)
    return product(_transposed(x), gradient).t()


def _transposed(x: Tensor) -> Tensor:
    """A copy of x (n, m), the other way round: oneDNN makes it by all threads, torch by one."""
    return torch._mkldnn_transpose(x.to_mkldnn(), 0, 1).to_dense()


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
        and _may_multiply()
    )


@cache
def prefers_onednn() -> bool:
    """Whether float32 is multiplied by oneDNN here: where it is, and MKL is not at home."""
    if not torch.backends.mkldnn.is_available():
        return False
    about = Path("/proc/cpuinfo")  # where there is none, the processor's name has its make
    made = about.read_text("utf-8", "replace") if about.exists() else platform.processor()
    return not (torch.backends.mkl.is_available() and "GenuineIntel" in made)


def _may_multiply() -> bool:
    """Whether oneDNN is to multiply, and that not in half precision."""
    return prefers_onednn() and not torch.is_autocast_enabled("cpu")


def rounded(rows: int, device: torch.device) -> int:
    """Where oneDNN multiplies the next of few numbers: up to 32 all, then 16 to every doubling.

    oneDNN writes a kernel for every number of rows, in a millisecond, and keeps it. A trainer whose
    every batch has another number would go on writing, and its memory would go on growing.
    """
    if device.type != "cpu" or not prefers_onednn():
        return rows
    step = 1 << max(0, rows.bit_length() - 5)
    return -(-rows // step) * step


class Map:
    """The forward of a linear map of transformers or torch."""

    def __init__(self, module: Any, *, transposed: bool) -> None:
        self.module, self.transposed = module, transposed
        self.laid_out: Tensor | None = None  # a copy of the weight, without gradients
        self.cast: tuple[Tensor, Tensor | None] | None = None  # weight and bias, in half precision
        self.called = False
        self.idle = False  # nobody reads what it makes

    @property
    def weight(self) -> Tensor:
        """(out, in)"""
        weight: Tensor = self.module.weight
        return weight.t() if self.transposed else weight

    def __call__(self, x: Tensor) -> Tensor:
        self.called = True
        if self.idle:
            return x.new_full((), torch.nan).expand(*x.shape[:-1], len(self.weight))
        if torch.is_grad_enabled():
            return linear(x, self.weight, self.module.bias)
        if self.laid_out is not None:
            return _linear_pointwise(x, self.laid_out, self.module.bias)
        return linear(x, *(self.cast or (self.weight, self.module.bias)))

    def gelu(self, x: Tensor) -> Tensor | None:
        """GPT-2's GELU of what it makes of x, None where that is no gain or needs gradients."""
        if torch.is_grad_enabled() or self.idle:
            return None
        self.called = True
        weight = self.laid_out
        if weight is None:
            weight = self.weight
            if not applies(x, len(weight)):
                return None
        return _linear_pointwise(x, weight, self.module.bias, ("gelu", "tanh"))


def use_fast_products(model: nn.Module) -> None:
    """Let the model's linear maps multiply so; their weights stay where they are."""
    from transformers.pytorch_utils import Conv1D

    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D):
            module.forward = Map(module, transposed=type(module) is Conv1D)


def _maps(module: nn.Module) -> list[Map]:
    return [made for part in module.modules() if isinstance(made := part.forward, Map)]


@contextmanager
def noted_maps(module: nn.Module) -> Iterator[list[Map]]:
    """Yields a list that in the end holds the linear maps within a module that were called."""
    maps, called = _maps(module), list[Map]()
    for made in maps:
        made.called = False
    try:
        yield called
    finally:
        called += [made for made in maps if made.called]


@contextmanager
def idle(maps: list[Map]) -> Iterator[None]:
    """Around passes for which what these maps make is not needed: they give no numbers, so that
    nobody can read them unnoticed.
    """
    for made in maps:
        made.idle = True
    try:
        yield
    finally:
        for made in maps:
            made.idle = False


@contextmanager
def ready(model: nn.Module, head: nn.Module | None = None) -> Iterator[None]:
    """Around many products of few rows each, without gradients, by the weights as they are now.

    In half precision autocast would cast every weight anew for each of them: here each but the
    head's, whose products are float32, has a copy, the model's size by half once more. In float32
    oneDNN would lay it out anew, which takes longer than to multiply a few rows by it: here each
    large one has a copy that lies as oneDNN wants it, the model's size once more.
    """
    maps = [made for made in _maps(model) if made.weight.dtype == torch.float32]
    try:
        for made in maps:
            weight, bias = made.weight, made.module.bias
            device = weight.device.type
            if torch.is_autocast_enabled(device):
                if made.module is not head:
                    lower = torch.get_autocast_dtype(device)
                    made.cast = weight.to(lower), None if bias is None else bias.to(lower)
            elif device == "cpu" and prefers_onednn() and weight.numel() > LARGE:
                made.laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        yield
    finally:
        for made in maps:
            made.laid_out = made.cast = None
