"""Loading and saving policies and reward models, and their forward passes.

A reward model is an ordinary sequence classification checkpoint with one label; its normalisation
bias is `config.reward_bias`, added to every score.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.contract import ContractError, RunSpec
from trainer.data import Batch, Encoder, Rows
from trainer.losses import next_token_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD = "<|pad|>"
SCORED_PROMPTS = 32  # rows of a scoring batch


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model_source(spec: RunSpec, name: str) -> str:
    """The directory or Hugging Face name of one model of the spec.

    Raises ContractError where the spec names none, or a path that is no directory.
    """
    if name not in spec.models:
        raise ContractError(f"spec.json: kind {spec.kind} needs models {name!r}")
    source = spec.models[name]
    if source.startswith((".", "/", "~")) and not Path(source).is_dir():
        raise ContractError(f"spec.json: models {name!r}: {source} is not a directory")
    return source


def load_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """A tokenizer with an end-of-text token and a pad token that is another one."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerFast = _loaded(source, AutoTokenizer.from_pretrained)
    if tokenizer.eos_token_id is None:
        raise ContractError(f"{source}: its tokenizer has no end-of-text token")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def load_policy(source: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A causal language model, float32, in evaluation mode, with a row for every token."""
    from transformers import AutoModelForCausalLM

    model = _loaded(source, AutoModelForCausalLM.from_pretrained, dtype=torch.float32)
    return _prepared(model, tokenizer)


def load_reward_model(
    source: str, tokenizer: PreTrainedTokenizerFast, *, new_head: bool = False
) -> PreTrainedModel:
    """A scalar model in evaluation mode. With new_head its trunk is any language model's.

    Raises ContractError where `source` is no reward model and none is to be made of it.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = _loaded(source, AutoConfig.from_pretrained)
    classifies = any("SequenceClassification" in a for a in config.architectures or [])
    if not classifies and not new_head:
        raise ContractError(f"{source}: not a reward model ({config.architectures})")
    model = _loaded(
        source,
        AutoModelForSequenceClassification.from_pretrained,
        dtype=torch.float32,
        num_labels=1,
    )
    if model.num_labels != 1:
        raise ContractError(f"{source}: {model.num_labels} labels; a reward model has one")
    if not classifies:
        nn.init.zeros_(model.score.weight)  # every score starts at 0, whatever the seed
    if not classifies or not hasattr(model.config, "reward_bias"):
        model.config.reward_bias = 0.0
    return _prepared(model, tokenizer)


def _loaded(source: str, load: Any, **options: Any) -> Any:
    try:
        return load(source, **options)
    except (OSError, ValueError) as error:
        raise ContractError(f"{source}: cannot be loaded: {error}") from error


def _prepared(model: Any, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    prepared: PreTrainedModel = model.to(device()).eval()
    return prepared


def check_same_tokenizer(source: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raises ContractError where the model in `source` reads other tokens than the policy's."""
    if load_tokenizer(source).get_vocab() != tokenizer.get_vocab():
        raise ContractError(f"{source}: its tokenizer is not the policy's")


class Average:
    """Exponential moving average of a model's parameters: what is evaluated and published."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.tensors = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """average = decay * average + (1 - decay) * parameters."""
        torch._foreach_lerp_(self.tensors, list(model.parameters()), 1 - self.decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for parameter, average in zip(model.parameters(), self.tensors, strict=True):
            parameter.copy_(average)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.tensors, strict=True))

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        for name, average in zip(self.names, self.tensors, strict=True):
            average.copy_(state_dict[name])


def check_context(model: PreTrainedModel, tokens: int) -> None:
    """Raises ContractError where the model cannot read that many tokens."""
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and tokens > context:
        raise ContractError(
            f"prompt and completion may have {tokens} tokens together, the model reads {context}: "
            "lower max_prompt_tokens or max_completion_tokens"
        )


def save_model(directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """An ordinary Hugging Face directory, whole or not there: safetensors and tokenizer."""
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.config.use_cache = True
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def additive(allowed: Tensor) -> Tensor:
    """A bool attention mask as one to be added: 0 where allowed, the lowest float32 elsewhere.

    Not minus infinity: a padding row that may attend to nothing would become NaN.
    """
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, lowest)


def causal_mask(mask: Tensor) -> Tensor:
    """(B, T) token mask to the additive causal mask (B, 1, T, T)."""
    lower = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
    return additive((lower & mask[:, None, :])[:, None])


def positions(mask: Tensor) -> Tensor:
    """Position ids (B, T) counted from the first true position, 0 on padding before it."""
    return (mask.long().cumsum(1) - 1).clamp_(min=0)


def logits_of(policy: PreTrainedModel, batch: Batch, last: int = 0) -> Tensor:
    """Next-token logits (B, T, V) of padded rows, or (B, last, V) of the last positions only."""
    output = policy(
        input_ids=batch.tokens,
        attention_mask=causal_mask(batch.mask),
        position_ids=positions(batch.mask),
        logits_to_keep=last,
    )
    return output.logits  # type: ignore[no-any-return]


def packed_loss(policy: PreTrainedModel, rows: Rows) -> Tensor:
    """Mean negative log-likelihood, nats a token, of packed documents, but for their first tokens.

    A document sees only itself, and its positions begin at 0: as a prompt stands when it is
    answered. Small models learn to take words up from the text before many times sooner so.
    """
    segment = rows.segment
    same = (segment[:, :, None] == segment[:, None, :]) & (segment >= 0)[:, None, :]
    attention = same.tril()  # (B, T, T)
    goes_on = torch.zeros_like(segment, dtype=torch.bool)
    goes_on[:, 1:] = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] >= 0)
    output = policy(
        input_ids=rows.tokens,
        attention_mask=additive(attention[:, None]),
        position_ids=(attention.sum(-1) - 1).clamp_(min=0),
    )
    return next_token_loss(output.logits, rows.tokens, goes_on)


def trunk_scores(
    model: PreTrainedModel, tokens: Tensor, mask: Tensor, position_ids: Tensor
) -> Tensor:
    """A score (B, T) at every token; mask is an additive attention mask (B, 1, T, T)."""
    trunk = getattr(model, model.base_model_prefix)
    hidden = trunk(input_ids=tokens, attention_mask=mask, position_ids=position_ids)
    head: nn.Linear = model.score  # type: ignore[assignment]
    return head(hidden.last_hidden_state).squeeze(-1) + float(model.config.reward_bias)  # type: ignore[no-any-return]


def token_scores(model: PreTrainedModel, batch: Batch) -> Tensor:
    """A score (B, T) at every token of padded rows; a completion's is the one at end-of-text."""
    return trunk_scores(model, batch.tokens, causal_mask(batch.mask), positions(batch.mask))


@dataclass(frozen=True)
class TreeBatch:
    """Prompts with their completions, one row each: prompt, completion 1, ..., completion K.

    tokens, position_ids (B, T); attention (B, 1, T, T) additive: a completion sees the prompt and
    itself, and its positions go on from the prompt's. row, column (N,) point at the end-of-text of
    every completion, row after row.
    """

    tokens: Tensor
    position_ids: Tensor
    attention: Tensor
    row: Tensor
    column: Tensor


def tree_batch(items: list[tuple[list[int], list[list[int]]]], pad: int) -> TreeBatch:
    """Pack (prompt ids, ids of each completion) so that the prompt passes through once."""
    width = max(len(prompt) + sum(map(len, completions)) for prompt, completions in items)
    tokens = torch.full((len(items), width), pad)
    position_ids = torch.zeros(len(items), width, dtype=torch.long)
    segment = torch.full((len(items), width), -1)  # 0 prompt, 1... completions, -1 padding
    row: list[int] = []
    column: list[int] = []
    for i, (prompt, completions) in enumerate(items):
        start = 0
        for part, ids in enumerate([prompt, *completions]):
            end = start + len(ids)
            first = len(prompt) if part else 0
            tokens[i, start:end] = torch.tensor(ids)
            position_ids[i, start:end] = torch.arange(first, first + len(ids))
            segment[i, start:end] = part
            if part:
                row.append(i)
                column.append(end - 1)
            start = end
    same = segment[:, :, None] == segment[:, None, :]
    prompt_token = (segment == 0)[:, None, :]
    allowed = (same | prompt_token) & torch.ones(width, width, dtype=torch.bool).tril()
    return TreeBatch(
        tokens, position_ids, additive(allowed[:, None]), torch.tensor(row), torch.tensor(column)
    )


def tree_scores(model: PreTrainedModel, batch: TreeBatch) -> Tensor:
    """The score (N,) of every completion of the batch, in order."""
    to = device()
    scores = trunk_scores(
        model, batch.tokens.to(to), batch.attention.to(to), batch.position_ids.to(to)
    )
    return scores[batch.row.to(to), batch.column.to(to)]


@torch.no_grad()
def score_completions(
    model: PreTrainedModel, encoder: Encoder, prompts: list[str], completions: list[str]
) -> list[float]:
    """The score of each completion under its prompt; neighbours with one prompt share its pass."""
    prompt_ids = encoder.prompts(prompts)
    items: list[tuple[list[int], list[list[int]]]] = []
    for prompt, completion in zip(prompt_ids, encoder.completions(completions), strict=True):
        if not items or items[-1][0] != prompt:
            items.append((prompt, []))
        items[-1][1].append(completion)
    scores: list[float] = []
    for first in range(0, len(items), SCORED_PROMPTS):
        batch = tree_batch(items[first : first + SCORED_PROMPTS], encoder.pad)
        scores += tree_scores(model, batch).tolist()
    return scores
