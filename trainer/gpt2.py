"""GPT-2's layers in fewer operations: the paper's models are of its architecture.

What a small model does to sample a token is more handling than arithmetic, so transformers' layers,
made for every use, are entered by a shorter way.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from trainer.activations import GELU
from trainer.attention import attention
from trainer.decoding import Decoding
from trainer.products import Map


def use_fast_layers(model: nn.Module) -> None:
    """Let a GPT-2's layers compute so, after `use_fast_products`; other models stay as they are."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Model

    for module in model.modules():
        part: Any = module
        if type(module) is GPT2Model:
            part.forward = partial(_trunk, module, module.forward)
        elif type(module) is GPT2Attention and not module.is_cross_attention:
            part.forward = partial(_attention, module, module.forward)
        elif (
            type(module) is GPT2MLP
            and isinstance(module.act, GELU)
            and isinstance(module.c_fc.forward, Map)
        ):
            part.forward = partial(_mlp, module)


class Passed(NamedTuple):
    last_hidden_state: Tensor  # (B, N, D)


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
    """The last hidden states of tokens (B, N) at position_ids (B, N), and none of the options;
    without blocks all that transformers gives.
    """
    if blocks is None:
        options["position_ids"] = position_ids
        return whole(input_ids, past_key_values, attention_mask, **options)
    hidden = trunk.drop(trunk.wte(input_ids) + trunk.wpe(position_ids))
    for layer in trunk.h:
        hidden = layer(hidden, past_key_values, blocks=blocks)
    return Passed(trunk.ln_f(hidden))


def _attention(
    module: Any,
    whole: Any,
    hidden: Tensor,
    past_key_values: Decoding | None = None,
    attention_mask: Tensor | None = None,
    *,
    blocks: Any = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of hidden states (B, N, D) to (B, N, D); without blocks transformers' own."""
    if blocks is None:
        made: tuple[Tensor, None] = whole(hidden, past_key_values, attention_mask, **options)
        return made
    joined = module.c_attn(hidden).unflatten(-1, (3, module.num_heads, module.head_dim))
    query, key, value = joined.transpose(1, 3).unbind(2)  # (B, H, N, D) each
    if past_key_values is not None:
        past_key_values.update(key, value, module.layer_idx)
    dropout = module.attn_dropout.p if module.training else 0.0
    answers, _ = attention(
        module, query, key, value, None, blocks=blocks, scaling=module.scaling, dropout=dropout
    )
    return module.resid_dropout(module.c_proj(answers.flatten(2))), None


def _mlp(module: Any, hidden: Tensor) -> Tensor:
    made = module.c_fc.forward.gelu(hidden)
    if made is None:
        made = module.act(module.c_fc(hidden))
    output: Tensor = module.dropout(module.c_proj(made))
    return output
