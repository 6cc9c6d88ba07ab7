"""Packed rows against plain transformers, which reads one padless sequence at a time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.architecture import check_head, use_packed_attention
from trainer.contract import ContractError
from trainer.packing import Tree, pack
from trainer.passes import (
    hidden_states,
    mean_language_loss,
    summed_loss,
    token_losses,
    tree_scores,
)
from trainer.processes import Passes, Processes
from trainer.products import rounded
from trainer.rollout import sample
from trainer.sft import set_residual_dropout

TINY: dict[str, dict[str, Any]] = {
    "gpt_neox": {"num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt2": {"n_layer": 2, "n_head": 2},
    "llama": {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen3": {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
    "opt": {"num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64},
    "phi3": {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "starcoder2": {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
}
SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64}


def tiny(architecture: str, kind: str, **options: Any) -> Any:
    """An untrained model, and dropout nowhere. options are of its configuration."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
    )

    torch.manual_seed(5)
    config = AutoConfig.for_model(
        architecture,
        **SIZES,
        **TINY[architecture],
        initializer_range=0.2,
        num_labels=1,
        pad_token_id=1,
        **options,
    )
    config.reward_bias = 0.0
    classes = {"policy": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}
    model: Any = classes[kind].from_config(config)
    return model.eval()


def ids(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(2, 60) for _ in range(length)]


def trees(seed: int) -> list[Tree]:
    """Prompts and completions of many lengths; one prompt without a completion."""
    rng = random.Random(seed)
    made: list[Tree] = [
        (ids(rng, rng.randint(1, 9)), [ids(rng, rng.randint(1, 12)) for _ in range(k)])
        for k in (4, 9, 1, 5)
    ]
    return [*made, (ids(rng, 7), [])]


def alone(model: Any, sequence: list[int]) -> Tensor:
    trunk = getattr(model, model.base_model_prefix)
    hidden: Tensor = trunk(input_ids=torch.tensor([sequence])).last_hidden_state[0]
    return hidden


@torch.no_grad()
@pytest.mark.parametrize("architecture", TINY)
def test_every_architecture_reads_a_packed_row_as_it_reads_each_sequence(
    architecture: str,
) -> None:
    model = tiny(architecture, "policy")
    given = trees(1)
    expected = [
        [alone(model, [*prompt, *completion]) for completion in completions]
        or [alone(model, list(prompt))]
        for prompt, completions in given
    ]
    use_packed_attention(model)
    check_head(model)
    packed = pack(given)
    hidden = hidden_states(model, packed)
    places = iter(packed.completions)
    for (prompt, completions), start, own in zip(given, packed.prompts, expected, strict=True):
        row = hidden[start : start + len(prompt)]
        torch.testing.assert_close(row, own[0][: len(prompt)], rtol=1e-4, atol=1e-4)
        for completion, whole in zip(completions, own, strict=False):
            at = next(places)
            row = hidden[at : at + len(completion)]
            torch.testing.assert_close(row, whole[len(prompt) :], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("onednn")  # more places than those that are asked for are computed
@pytest.mark.parametrize("architecture", TINY)
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_the_last_layer_computes_what_is_wanted_and_no_more(
    architecture: str, share: float
) -> None:
    model = tiny(architecture, "policy")
    given = trees(3)
    use_packed_attention(model)
    packed = pack(given)
    rng = random.Random(6)
    own_completions = [completion for _, own in given for completion in own]
    ends = [
        place + len(completion) - 1
        for place, completion in zip(packed.completions, own_completions, strict=True)
    ]
    tokens = packed.tokens.shape[1]
    places = (
        rng.sample(ends, len(ends))
        if share < 0.5
        else rng.sample(range(tokens), round(share * tokens))
    )
    places.append(places[0])
    whole = hidden_states(model, packed)[places]
    weights = torch.randn(whole.shape, generator=torch.Generator().manual_seed(7))
    (whole * weights).sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    rows: list[int] = []
    linear = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm | torch.nn.Linear)]
    for module in linear:
        module.register_forward_hook(lambda _m, given, _o: rows.append(given[0].shape[-2]))
    trimmed = hidden_states(model, packed, places)
    torch.testing.assert_close(trimmed, whole, rtol=1e-4, atol=1e-4)
    (trimmed * weights).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-3)
    assert rounded(len(set(places)), model.device) in rows


@pytest.mark.parametrize("architecture", TINY)
def test_scores_and_their_gradients_equal_those_of_separate_sequences(architecture: str) -> None:
    model = tiny(architecture, "reward")
    given = [tree for tree in trees(2) if tree[1]]
    rows = [[*prompt, *completion] for prompt, completions in given for completion in completions]
    expected = torch.stack([model(input_ids=torch.tensor([row])).logits[0, 0] for row in rows])
    weights = torch.linspace(-1, 1, len(rows))
    (expected * weights).sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    use_packed_attention(model)
    scores = tree_scores(model, given)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    (scores * weights).sum().backward()
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-3)
    assert expected.std() > 0.01  # a model that says the same of all would pass for nothing


def test_language_loss_and_gradient_whatever_the_passes() -> None:
    model = tiny("gpt_neox", "policy")
    rng = random.Random(3)
    documents = [ids(rng, rng.randint(2, 20)) for _ in range(12)]
    first = [rng.randint(1, len(d) - 1) for d in documents]
    expected, count = torch.tensor(0.0), 0
    for document, start in zip(documents, first, strict=True):
        logits = model(input_ids=torch.tensor([document])).logits[0, start - 1 : -1]
        targets = torch.tensor(document[start:])
        expected = expected + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        count += len(targets)
    (0.5 * expected / count).backward()
    wanted = model.gpt_neox.layers[0].attention.query_key_value.weight.grad.clone()
    use_packed_attention(model)
    processes, passes = Processes(), Passes(model)
    for pass_tokens in (1000, 40, 1):
        model.zero_grad()
        loss = mean_language_loss(
            processes, passes, documents, pass_tokens, first=first, weight=0.5
        )
        assert loss == pytest.approx(expected.item() / count, rel=1e-5)
        grad = model.gpt_neox.layers[0].attention.query_key_value.weight.grad
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("biased", [False, True])
def test_losses_in_chunks_equal_losses_at_once(
    precision: str, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt2", "policy")
    hidden = torch.randn(50, 32, requires_grad=True)
    targets = torch.randint(2, 60, (50,))
    weights = torch.linspace(0, 1, 50)
    head = model.lm_head
    inputs = [hidden, head.weight]
    if biased:
        head.bias = torch.nn.Parameter(torch.randn(60))
        inputs.append(head.bias)
    logits = head(hidden)
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    barred = logits / 0.7
    barred[:, 1] = -torch.inf
    warm = torch.nn.functional.cross_entropy(barred, targets, reduction="none")
    expected = [
        (warm, torch.autograd.grad((warm * weights).sum(), inputs, retain_graph=True)),
        (plain.sum(), torch.autograd.grad(3 * plain.sum(), inputs)),
    ]
    far = {"float32": (1e-4, 1e-5), "bfloat16": (2e-2, 3e-2)}[precision]
    for held, chunk in ((1 << 26, 512), (1000, 16), (1, 1)):
        monkeypatch.setattr("trainer.passes.HELD_LOGITS", held)
        monkeypatch.setattr("trainer.passes.CHUNK", chunk)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            each = token_losses(model, hidden, targets, temperature=0.7, without=1)
            total = summed_loss(model, hidden, targets)
            with torch.no_grad():
                torch.testing.assert_close(summed_loss(model, hidden, targets), total)
        found = [
            (each, torch.autograd.grad((each * weights).sum(), inputs)),
            (total, torch.autograd.grad(3 * total, inputs)),
        ]
        for (loss, gradients), (wanted, wanted_gradients) in zip(found, expected, strict=True):
            torch.testing.assert_close(loss, wanted, rtol=far[0], atol=far[1])
            for gradient, other in zip(gradients, wanted_gradients, strict=True):
                torch.testing.assert_close(gradient, other, rtol=far[0], atol=4 * far[1])


def test_a_token_s_loss_however_unlikely_it_is() -> None:
    model = tiny("gpt2", "policy")
    hidden = 1e4 * torch.randn(20, 32)
    hidden.requires_grad_()
    targets = model.lm_head(hidden).argmax(-1)
    targets[::2] = 2
    made = token_losses(model, hidden, targets)
    expected = torch.nn.functional.cross_entropy(model.lm_head(hidden), targets, reduction="none")
    assert expected.max() > 1000 > 1 > expected.min()
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(expected.sum(), hidden)
    loss = made.sum()
    (ours,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, hidden)  # never a wrong gradient


def test_little_of_a_packed_row_is_padding() -> None:
    rng = random.Random(4)
    documents = [ids(rng, rng.randint(5, 60)) for _ in range(64)]
    packed = pack([(document, ()) for document in documents])
    used = sum(map(len, documents))
    assert used <= packed.tokens.shape[1] <= 1.05 * used
    assert len(packed.blocks) < 40


@pytest.mark.parametrize("architecture", ["bloom", "gpt_neo", "gptj", "gemma2"])
def test_an_architecture_that_cannot_read_packed_rows_is_refused(architecture: str) -> None:
    """Some have attention of their own, some do more in it than scores, mask and softmax.

    With weights as small as these they say nearly the same as if they could.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, dict[str, Any]] = {
        "bloom": {"n_layer": 1, "n_head": 2},
        "gpt_neo": {"num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
        "gptj": {"n_layer": 1, "n_head": 2, "rotary_dim": 4},
        "gemma2": {
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
        },
    }
    config = AutoConfig.for_model(
        architecture, **SIZES, **sizes[architecture], initializer_range=1e-4
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ContractError, match=f"{architecture}: its attention cannot be packed"):
        use_packed_attention(model.eval())


@torch.no_grad()
@pytest.mark.parametrize("counts", [(3, 1, 2), (1, 1, 1)], ids=["shared", "alone"])
@pytest.mark.parametrize("architecture", TINY)
def test_every_architecture_samples_what_it_reads(
    architecture: str, counts: tuple[int, ...]
) -> None:
    plain, model = tiny(architecture, "policy"), tiny(architecture, "policy")
    use_packed_attention(model)
    rng = random.Random(4)
    asked = [ids(rng, 5), ids(rng, 9), ids(rng, 1)]
    uniform = torch.rand(sum(counts), 40, generator=torch.Generator().manual_seed(2))
    options = {"n": counts, "uniform": uniform, "temperature": 0.7, "pad": 1}
    whole = sample(model, asked, eos=-1, **options)
    made = sample(model, asked, eos=whole[0].ids[9], **options)
    owners = [prompt for prompt, count in zip(asked, counts, strict=True) for _ in range(count)]
    assert len({len(one.ids) for one in made}) > 1  # some leave the batch before the others
    for prompt, one in zip(owners, made, strict=True):
        logits = plain(input_ids=torch.tensor([prompt + one.ids])).logits[0, len(prompt) - 1 : -1]
        logits[:, 1] = -torch.inf
        logprobs = (logits / 0.7).log_softmax(-1)
        chosen = logprobs.gather(1, torch.tensor(one.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(one.logprobs), chosen, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("architecture", TINY)
def test_dropout_is_the_residual_stream_s_alone(architecture: str) -> None:
    model = tiny(architecture, "policy")
    for module in model.modules():  # everywhere, as a base model's configuration may have it
        for number in (
            "p",
            "dropout",
            "attention_dropout",
            "embedding_dropout",
            "residual_dropout",
        ):
            if isinstance(getattr(module, number, None), float):
                setattr(module, number, 0.4)
    use_packed_attention(model)
    trunk = getattr(model, model.base_model_prefix)

    def last(*tokens: int) -> Tensor:
        packed = pack([(tokens, ())])
        row = {"input_ids": packed.tokens, "position_ids": packed.position_ids}
        return trunk(**row, blocks=packed.blocks)[0][0, -1]

    exact = last(5, 6, 7)
    model.train()
    assert not torch.allclose(last(5, 6, 7), exact)
    found = set_residual_dropout(model, 1.0)
    assert found == (architecture not in ("llama", "qwen3"))
    if found:  # nothing but the token's own embedding is left
        torch.testing.assert_close(last(5, 6, 7), last(9, 8, 7), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(last(5, 6, 7), exact, rtol=0.1, atol=0.1)
    set_residual_dropout(model, 0.0)
    torch.testing.assert_close(last(5, 6, 7), exact, rtol=1e-5, atol=1e-5)
