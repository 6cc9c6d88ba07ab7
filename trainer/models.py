"""Loading and saving policies and reward models.

A reward model is an ordinary sequence classification checkpoint with one label; its normalisation
bias is `config.reward_bias`, added to every score.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trainer.activations import fuse_activations
from trainer.architecture import check_head, use_packed_attention
from trainer.contract import ContractError, RunSpec
from trainer.gpt2 import use_fast_layers
from trainer.metrics import TrainingError, sync, writing
from trainer.products import use_fast_products

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

PAD = "<|pad|>"


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
    """A causal language model, float32, in evaluation mode, with a row for every token.

    Raises ContractError where `source` is none.
    """
    from transformers import AutoModelForCausalLM

    if _classifies(load_config(source)):
        raise ContractError(f"{source}: a reward model, which is no policy")
    model = _prepared(_loaded_weights(source, AutoModelForCausalLM), tokenizer)
    check_head(model)
    return model


def load_reward_model(
    source: str, tokenizer: PreTrainedTokenizerFast, *, new_head: bool = False
) -> PreTrainedModel:
    """A scalar model in evaluation mode. With new_head its trunk is any language model's.

    Raises ContractError where `source` is no reward model and none is to be made of it.
    """
    from transformers import AutoModelForSequenceClassification

    config = load_config(source)
    classifies = _classifies(config)
    if not classifies and not new_head:
        raise ContractError(f"{source}: not a reward model ({config.architectures})")
    if classifies and config.num_labels != 1:
        raise ContractError(f"{source}: {config.num_labels} labels; a reward model has one")
    new = () if classifies else ("score.weight",)
    model = _loaded_weights(source, AutoModelForSequenceClassification, new=new, num_labels=1)
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
    except SafetensorError as error:
        file = _damaged(source)
        raise ContractError(f"{source}: its {file} cannot be loaded: {error}") from error


def _damaged(source: str) -> str:
    """The name of the file of weights that is not whole, where `source` is a directory."""
    for path in sorted(Path(source).glob("model*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError:
            return path.name
    return "weights"


def _classifies(config: PretrainedConfig) -> bool:
    return any("SequenceClassification" in a for a in config.architectures or [])


def _loaded_weights(source: str, kind: Any, *, new: tuple[str, ...] = (), **options: Any) -> Any:
    """A model in float32, from safetensors and no pickle, whole but for the `new` weights."""
    model, info = _loaded(
        source,
        kind.from_pretrained,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(set(info["missing_keys"]) - set(new)):
        raise ContractError(
            f"{source}: without {', '.join(missing[:3])}{', ...' * (len(missing) > 3)}: the "
            f"weights are not those of a {type(model).__name__}"
        )
    return model


def _prepared(model: Any, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    give_rows(model, len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    prepared: PreTrainedModel = model.to(device()).eval()
    fuse_activations(prepared)
    use_fast_products(prepared)
    use_fast_layers(prepared)
    use_packed_attention(prepared)
    return prepared


@torch.no_grad()
def give_rows(model: PreTrainedModel, tokens: int) -> None:
    """Have a row of the embedding, and of the head, for so many tokens.

    New ones are the mean of those there are: the same in every start and every process, where
    transformers draws them.
    """
    embedding: Any = model.get_input_embeddings()
    rows = len(embedding.weight)
    if tokens <= rows:
        return
    model.resize_token_embeddings(tokens, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for values in module.parameters() if module is not None else ():
            values[rows:] = values[:rows].mean(0)


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


def load_config(source: str) -> PretrainedConfig:
    """The configuration of a model, without its weights."""
    from transformers import AutoConfig

    config: PretrainedConfig = _loaded(source, AutoConfig.from_pretrained)
    return config


def context_of(config: PretrainedConfig) -> int | None:
    """How many tokens a model can read, None where its architecture sets no limit."""
    context: int | None = getattr(config, "max_position_embeddings", None)
    return context


def check_context(
    config: PretrainedConfig,
    tokens: int,
    *,
    of: str = "prompt and completion together",
    lower: str = "max_prompt_tokens or max_completion_tokens",
) -> None:
    """Raises ContractError where a model of this configuration cannot read that many tokens.

    of and lower say whose they are and which fields of the configuration bound them.
    """
    context = context_of(config)
    if context is not None and tokens > context:
        raise ContractError(
            f"{tokens} tokens of {of} are too many, the model reads {context}: lower {lower}"
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and tokens > window:
        raise ContractError(
            f"{tokens} tokens of {of} are too many, as the model attends to the last {window} "
            f"only, which packed rows do not: lower {lower}"
        )


def save_model(directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """An ordinary Hugging Face directory, whole or not there: safetensors and tokenizer.

    Raises TrainingError where its weights are not finite or it cannot be written.
    """
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise TrainingError(
            "the weights are not finite after training: lower the learning rate; no model is saved"
        )
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.config.use_cache = True
    try:
        with writing(directory):
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            for file in temporary.iterdir():
                sync(file)
            sync(temporary)
            shutil.rmtree(directory, ignore_errors=True)
            temporary.rename(directory)
            sync(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
