"""GPT-2's layers in fewer operations: the paper's models are of its architecture.

What a small model does to sample a token is more handling than arithmetic, so transformers' layers,
made for every use, are passed by. Queries, keys and values stay together as one product makes them,
and so do their gradients; the last layer goes on with the places that are wanted and no others.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.activations import GELU
from trainer.attention import Wanted, attend, sizes_of
from trainer.contract import ContractError
from trainer.decoding import Decoding
from trainer.packing import Block
from trainer.products import Map


def use_fast_layers(model: nn.Module) -> None:
    """Let a GPT-2's layers compute so, after `use_fast_products`; other models stay as they are."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2Model

    for module in model.modules():
        trunk: Any = module
        if type(module) is GPT2Model:
            trunk.forward = partial(_trunk, trunk, trunk.forward)
            trunk.packs_by_itself = True
            for layer in trunk.h:
                layer.forward = partial(_layer, layer, layer.forward)


def check_sharding(model: nn.Module) -> None:
    """Raises ContractError where parts of a GPT-2's layers are shards of their own: a layer is
    computed without calling them, so their weights would not be gathered.
    """
    from torch.distributed.fsdp import FSDPModule

    for name, module in model.named_modules():
        if getattr(getattr(module, "forward", None), "func", None) is _layer:
            for part in module.children():
                if any(isinstance(each, FSDPModule) for each in part.modules()):
                    raise ContractError(
                        f"{name}: its parts are sharded one by one; have whole layers sharded "
                        "(fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP, as in trainer/accelerate)"
                    )


class Passed(NamedTuple):
    last_hidden_state: Tensor  # (B, N, D), or (1, n, D) of n wanted places


def _trunk(
    trunk: Any,
    whole: Any,
    input_ids: Tensor | None = None,
    past_key_values: Decoding | None = None,
    attention_mask: Tensor | None = None,
    *,
    position_ids: Tensor | None = None,
    blocks: Any = None,
    **options: Any,
) -> Any:
    """The last hidden states of tokens (B, N) at position_ids (B, N), (1, n, D) where n places are
    wanted, and none of the options; without blocks all that transformers gives.
    """
    if blocks is None:
        options["position_ids"] = position_ids
        return whole(input_ids, past_key_values, attention_mask, **options)
    hidden = trunk.drop(trunk.wte(input_ids) + trunk.wpe(position_ids))
    whole_row = blocks.blocks if isinstance(blocks, Wanted) else blocks
    *others, last = trunk.h
    for layer in others:
        hidden = layer(hidden, past_key_values, blocks=whole_row)
    hidden = last(hidden, past_key_values, blocks=blocks)
    return Passed(trunk.ln_f(hidden))


def _layer(
    layer: Any,
    whole: Any,
    hidden: Tensor,
    past_key_values: Decoding | None = None,
    attention_mask: Tensor | None = None,
    *args: Any,
    blocks: tuple[Block, ...] | Wanted | Decoding | None = None,
    **options: Any,
) -> Tensor:
    """Hidden states (B, N, D) to (B, N, D), (1, n, D) where n places are wanted; without blocks
    transformers' own.
    """
    if blocks is None:
        made: Tensor = whole(hidden, past_key_values, attention_mask, *args, **options)
        return made
    attention, mlp = layer.attn, layer.mlp
    joined = attention.c_attn.forward(_normed(layer.ln_1, hidden))
    joined = joined.unflatten(-1, (3, attention.num_heads, attention.head_dim))  # (B, N, 3, H, D)
    if past_key_values is not None:
        past_key_values.keep(attention.layer_idx, joined[:, :, 1:])
    if isinstance(blocks, Decoding):
        query = joined[:, :, 0].transpose(1, 2)
        answers = blocks.attend(attention.layer_idx, query, attention.scaling)
    else:
        dropout = attention.attn_dropout.p if attention.training else 0.0
        parts = [part.unbind(1) for part in joined.squeeze(0).split(sizes_of(blocks))]
        answers = attend(parts, blocks, scaling=attention.scaling, dropout=dropout)[None]
    if isinstance(blocks, Wanted):
        places = torch.tensor(blocks.places, device=hidden.device)
        hidden = hidden.index_select(1, places)
    hidden = hidden + _dropped(
        attention.resid_dropout, attention.c_proj.forward(answers.flatten(2))
    )
    return hidden + _mlp(mlp, _normed(layer.ln_2, hidden))


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _dropped(dropout: nn.Dropout, x: Tensor) -> Tensor:
    return F.dropout(x, dropout.p) if dropout.training and dropout.p else x


def _mlp(mlp: Any, hidden: Tensor) -> Tensor:
    made = None
    if isinstance(mlp.act, GELU) and isinstance(mlp.c_fc.forward, Map):
        made = mlp.c_fc.forward.gelu(hidden)
    if made is None:
        made = mlp.act.forward(mlp.c_fc.forward(hidden))
    return _dropped(mlp.dropout, mlp.c_proj.forward(made))
