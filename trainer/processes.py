"""The processes of one run, through accelerate: one when started plainly, N under its launcher.

Every process reads the same data, plans the same batches and takes its share of each: rank, then
every N-th after it. Losses are sums over a share divided by a count of the whole batch, so that
the processes' gradients add up to the gradient that one process would have computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


class Passes(nn.Module):
    """A model whose forward is any function of it, so that accelerate may wrap and shard it.

    passes(function, *arguments) is function(model, *arguments).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        return function(self.model, *arguments, **options)


class Processes:
    """What the loops need to know of each other's processes."""

    def __init__(self) -> None:
        self.accelerator = Accelerator()
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes

    @property
    def main(self) -> bool:
        return self.rank == 0

    def prepare(
        self, model: PreTrainedModel, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, Any]:
        """(passes of the model, its optimizer), wrapped as the launcher's configuration says."""
        prepared: tuple[nn.Module, Any] = self.accelerator.prepare(Passes(model), optimizer)
        return prepared

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's share of what all of them hold."""
        return list(items[self.rank :: self.count])

    def sum(self, value: float) -> float:
        """The sum of a number of each process."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, "sum"))

    def add(self, tensor: Tensor) -> None:
        """Replace the tensor by the sum of every process's."""
        if self.count > 1:
            tensor.copy_(self.accelerator.reduce(tensor, "sum"))

    def together(self, shares: Sequence[T]) -> list[T]:
        """What `share` divided, whole and in its order again. The items are pickled to be sent."""
        if self.count == 1:
            return list(shares)
        gathered: list[tuple[int, list[T]]] = gather_object([(self.rank, list(shares))])
        whole: list[T] = []
        longest = max(len(items) for _, items in gathered)
        for place in range(longest):
            whole += [items[place] for _, items in sorted(gathered) if place < len(items)]
        return whole

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()

    def synced(self, last: bool, *models: nn.Module) -> AbstractContextManager[object]:
        """Around a backward pass: gradients are added across processes in the last one only."""
        stack = ExitStack()
        if not last:
            for model in models:
                stack.enter_context(self.accelerator.no_sync(model))
        return stack

    def backward(self, loss: Tensor) -> None:
        """The gradient of the sum of all processes' losses; accelerate's is that of their mean."""
        self.accelerator.backward(loss * self.count)


def with_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each item, and whether it is the last."""
    listed = list(items)
    return ((item, i == len(listed) - 1) for i, item in enumerate(listed))
