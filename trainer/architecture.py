"""What the trainer asks of a model's architecture, tried when it is loaded.

Its passes go around a model's forward: packed rows through its attention, logits of chosen tokens
from its head. A model that does something else besides would be trained wrongly without a word, so
what it says so is held against what it says of single sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.attention import (
    ATTENTION,
    Wanted,
    attention,
    attention_is_called,
    trim_last_layer,
    untrim,
)
from trainer.contract import ContractError
from trainer.decoding import Decoding
from trainer.packing import Block, pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Two completions of a prompt, of unlike length so that one is padded, and one of another prompt.
PROMPTS = ([1, 2], [3, 2, 1])
COMPLETIONS = ([3, 1], [2, 0, 1], [0, 2])
PROMPT_OF = (0, 0, 1)


def check_head(policy: PreTrainedModel) -> None:
    """Raises ContractError where the logits are not a linear map of the last hidden states.

    The passes of the trainer compute logits for chosen tokens, from the trunk and the head.
    """
    head = policy.get_output_embeddings()
    tokens = torch.tensor([[1, 2, 3]], device=policy.device)
    with torch.no_grad():
        hidden = getattr(policy, policy.base_model_prefix)(input_ids=tokens)[0]
        logits = policy(input_ids=tokens).logits
        plain = isinstance(head, nn.Linear) and torch.allclose(head(hidden), logits, 1e-3, 1e-3)
    if not plain:
        raise ContractError(f"{policy.config.model_type}: its head does more than a linear map")


@torch.no_grad()
def use_packed_attention(model: PreTrainedModel) -> None:
    """Let the model read packed rows and sample. Raises ContractError where it cannot."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention)
    kind = model.config.model_type
    trunk: Any = getattr(model, model.base_model_prefix)
    # GPT-2 would look for padding at every pass, and warn of it; nobody attends to that of a row.
    trunk.warn_if_padding_and_no_attention_mask = lambda *_: None
    expected = []  # hidden states (n, D) of the completions
    for i, completion in zip(PROMPT_OF, COMPLETIONS, strict=True):
        tokens = torch.tensor([PROMPTS[i] + completion], device=model.device)
        expected.append(trunk(input_ids=tokens)[0][0, len(PROMPTS[i]) :])
    try:
        model.set_attn_implementation(ATTENTION)
        if not (
            attention_is_called(trunk)
            and _reads_packed_rows(trunk, expected)
            and _samples(trunk, expected)
        ):
            raise ContractError(f"{kind}: its attention cannot be packed")
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"{kind}: its attention cannot be packed: {error}") from error
    if (last := trim_last_layer(trunk)) is not None:
        try:
            trimmed = _reads_packed_rows(trunk, expected, trimmed=True)
        except (TypeError, RuntimeError, IndexError):
            trimmed = False
        if not trimmed:
            untrim(last)


def _reads_packed_rows(trunk: Any, expected: list[Tensor], *, trimmed: bool = False) -> bool:
    """Whether hidden states of a packed row are the expected ones; trimmed: the last ones only."""
    first, second = PROMPTS
    packed = pack([(first, COMPLETIONS[:2]), (second + COMPLETIONS[2], ())]).to(trunk.device)
    starts = [*packed.completions, packed.prompts[1] + len(second)]
    own = [range(at, at + len(c)) for at, c in zip(starts, COMPLETIONS, strict=True)]
    blocks: tuple[Block, ...] | Wanted = packed.blocks
    if trimmed:
        own, expected = [places[-1:] for places in own], [states[-1:] for states in expected]
        blocks = Wanted(packed.blocks, sorted(place for places in own for place in places))
    row = trunk(input_ids=packed.tokens, position_ids=packed.position_ids, blocks=blocks)[0][0]
    places = [place for places in own for place in places]
    return torch.allclose(row[places], torch.cat(expected), 1e-3, 1e-3)


def _samples(trunk: Any, expected: list[Tensor]) -> bool:
    """Whether hidden states are the expected ones where tokens come one by one."""
    packed = pack([(prompt, ()) for prompt in PROMPTS]).to(trunk.device)
    lengths = [len(prompt) for prompt in PROMPTS]
    decoding: Any = Decoding(packed.prompts, lengths, trunk.device)
    options: dict[str, Any] = {"past_key_values": decoding, "use_cache": True}
    position_ids = packed.position_ids
    trunk(input_ids=packed.tokens, position_ids=position_ids, blocks=packed.blocks, **options)
    decoding.begin(PROMPT_OF)
    first = torch.tensor([[lengths[i]] for i in PROMPT_OF], device=trunk.device)
    for step in range(min(map(len, COMPLETIONS))):
        decoding.advance()
        tokens = torch.tensor([[c[step]] for c in COMPLETIONS], device=trunk.device)
        made = trunk(input_ids=tokens, position_ids=first + step, blocks=decoding, **options)[0]
        if not torch.allclose(made[:, 0], torch.stack([s[step] for s in expected]), 1e-3, 1e-3):
            return False
    return True
