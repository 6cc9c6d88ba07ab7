"""The processes of one run, through accelerate: one when started plainly, N under its launcher.

Every process reads the same data, plans the same batches and takes its share of each: rank, then
every N-th after it. Losses are sums over a share divided by a count of the whole batch, so that
the processes' gradients add up to the gradient that one process would have computed.

Under FSDP2 a prepared model, its optimizer and its average are sharded: their tensors are DTensors
but within a pass, for which the layers' weights are gathered one after another. So the processes
make the same number of passes (`parts`), or gather the weights before passes of which each makes
its own number (`gathered`). Models that are not trained stay whole.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import Tensor, nn

from trainer.contract import ContractError
from trainer.data import parts_of
from trainer.gpt2 import check_sharding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
PRECISIONS = ("no", "bf16")


class Passes(nn.Module):
    """A model whose forward is any function of it, so that accelerate may wrap and shard it.

    passes(function, *arguments) is function(model, *arguments).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self._no_split_modules = model._no_split_modules  # the layers, each a unit of sharding

    def forward(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        with self.precision():
            return function(self.model, *arguments, **options)


class Processes:
    """What the loops need to know of each other's processes."""

    def __init__(self) -> None:
        try:
            self.accelerator = Accelerator(
                # Without this, processes that find no GPU would not find each other either.
                cpu=not torch.cuda.is_available(),
                # Buffers (rotary angles) never change; to send them is work of all at every pass.
                kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
            )
        except ValueError as error:
            raise ContractError(f"the launcher's configuration: {error}") from error
        if (steps := self.accelerator.gradient_accumulation_steps) != 1:
            raise ContractError(
                f"the launcher's configuration asks for gradients of {steps} steps: the trainer "
                "adds those of a batch itself, by pass_tokens"
            )
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes
        self.sharded: bool = self.accelerator.is_fsdp2
        if self.accelerator.mixed_precision not in PRECISIONS:
            raise ContractError(
                f"mixed precision {self.accelerator.mixed_precision}: the trainer computes in "
                "float32 or bf16, which need no scaled losses"
            )
        if self.accelerator.mixed_precision == "bf16" and self.accelerator.device.type == "cuda":
            # What stays float32 there, logits and scores, is multiplied to 10 bits, summed to 23.
            torch.set_float32_matmul_precision("high")
        if not self.sharded and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
            raise ContractError(
                "the launcher's configuration asks for sharding, which needs fsdp_version 2 and "
                "accelerators"
            )
        if self.sharded:
            self._keep_precision()
        self._hollow: dict[nn.Module, PreTrainedModel] = {}  # of a sharded model its like

    def _keep_precision(self) -> None:
        """Sharded weights of a lower precision, but losses and sums of gradients in float32.

        As without sharding: `Passes` computes under autocast, which knows what needs float32.
        """
        plugin = self.accelerator.state.fsdp_plugin
        if plugin.mixed_precision_policy is not None:
            plugin.mixed_precision_policy = replace(
                plugin.mixed_precision_policy,
                reduce_dtype=torch.float32,
                output_dtype=None,
                cast_forward_inputs=False,
            )

    def __str__(self) -> str:
        number = "1 process" if self.count == 1 else f"{self.count} processes"
        number += ", sharded" if self.sharded else ""
        passes = "bfloat16" if self.accelerator.mixed_precision == "bf16" else "float32"
        return f"{number} on {self.accelerator.device.type}, passes in {passes}"

    @property
    def main(self) -> bool:
        return self.rank == 0

    def prepare(
        self, model: PreTrainedModel, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, Any]:
        """(passes of the model, its optimizer), wrapped as the launcher's configuration says."""
        passes = Passes(model, self.accelerator.autocast if self.sharded else nullcontext)
        if not self.sharded:
            plain: tuple[nn.Module, Any] = self.accelerator.prepare(passes, optimizer)
            return plain
        self._hollow[model] = hollow(model)
        plugin = self.accelerator.state.fsdp_plugin
        named = plugin.transformer_cls_names_to_wrap
        sharded: tuple[nn.Module, Any] = self.accelerator.prepare(passes, optimizer)
        plugin.transformer_cls_names_to_wrap = named  # the next model may have other layers
        check_sharding(model)
        self._reshard_after_forward(passes)
        return sharded

    def _reshard_after_forward(self, passes: Any) -> None:
        """What the configuration says, but for what no layer holds: embeddings and head.

        Those torch would leave gathered, in the lower precision, after a pass without gradients,
        and they would come so into a checkpoint.
        """
        passes.set_reshard_after_forward(self.accelerator.state.fsdp_plugin.reshard_after_forward)
        passes.set_reshard_after_forward(True, recurse=False)

    def as_gathered(self, model: PreTrainedModel) -> PreTrainedModel:
        """A whole model, rounded to what the weights of a sharded one are gathered in: a policy
        differs from it in what it has learned, and in nothing else.
        """
        policy = self.accelerator.state.fsdp_plugin.mixed_precision_policy if self.sharded else None
        if policy is not None and policy.param_dtype is not None:
            for parameter in model.parameters():
                parameter.data = parameter.data.to(policy.param_dtype)
        return model

    @contextmanager
    def gathered(self, passes: Any) -> Iterator[None]:
        """Around passes without gradients of which each process makes its own number.

        The weights are whole meanwhile.
        """
        if not hasattr(passes, "set_reshard_after_forward"):  # not sharded
            yield
            return
        from torch.distributed.fsdp import FSDPModule

        units = [unit for unit in passes.modules() if isinstance(unit, FSDPModule)]
        for unit in units:
            unit.unshard()
        passes.set_reshard_after_forward(False)
        yield
        for unit in units:
            unit.reshard()
        self._reshard_after_forward(passes)

    def whole(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, or of a sharded one a whole copy in every process. All of them must call."""
        if model not in self._hollow:
            return model
        like = hollow(self._hollow[model])
        state = {name: full(value) for name, value in model.state_dict().items()}
        like.load_state_dict(state, assign=True)
        like.tie_weights()
        like.train(model.training)
        return like

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

    def parts(self, lengths: Sequence[int], tokens: int) -> Iterator[tuple[list[int], float, bool]]:
        """This process's passes over a batch whose elements have these lengths.

        Yields (indices of elements, weight, whether it is the last pass): a pass of at most
        `tokens` tokens and weight 1, or one of weight 0, which is made only because the others
        make one, and adds nothing.
        """
        plans = [
            [
                [rank + self.count * i for i in part]
                for part in parts_of(lengths[rank :: self.count], tokens)
            ]
            for rank in range(self.count)
        ]
        own = plans[self.rank]
        # As many in every process: where models take turns, what they send each other does too.
        number = max(map(len, plans))
        for i in range(number):
            if i < len(own):
                yield own[i], 1.0, i + 1 == number
            else:
                yield own[-1] if own else [0], 0.0, i + 1 == number

    def clip(self, model: nn.Module, limit: float) -> float:
        """Scale the model's gradient to at most this norm; returns the norm that it had."""
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        return full(norm).item()

    def synced(self, last: bool, *models: nn.Module) -> AbstractContextManager[object]:
        """Around a backward pass: gradients are added across processes in the last one only.

        Sharded ones in each: a whole gradient may have no room.
        """
        stack = ExitStack()
        if not last and not self.sharded:
            for model in models:
                stack.enter_context(self.accelerator.no_sync(model))
        return stack

    def backward(self, loss: Tensor) -> None:
        """The gradient of the sum of all processes' losses; accelerate's is that of their mean."""
        self.accelerator.backward(loss * self.count)


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor in one piece, gathered from all processes; any other as it is."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)  # of a DTensor
    return tensor if gather is None else gather()


def sharded_like(tensor: Tensor, like: Any) -> Tensor:
    """This process's shard of a whole tensor, if `like` is sharded, in the same way."""
    if not hasattr(like, "placements"):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # a second to import

    whole = tensor.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def hollow(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model whose parameters hold nothing yet."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, empty)
