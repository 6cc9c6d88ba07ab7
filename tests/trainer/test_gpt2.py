"""GPT-2's layers by the shorter way against transformers' own."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tests.trainer.test_packing import TINY, ids, tiny, trees
from trainer import products, rollout
from trainer.activations import fuse_activations
from trainer.architecture import use_packed_attention
from trainer.contract import ContractError
from trainer.decoding import Decoding
from trainer.gpt2 import check_sharding, use_fast_layers
from trainer.packing import pack
from trainer.passes import hidden_states, language_loss, scores_at, tree_scores
from trainer.products import use_fast_products
from trainer.rollout import Sampled, sample


def prepared(kind: str, *, fast: bool, architecture: str = "gpt2", **options: Any) -> Any:
    model = tiny(architecture, kind, **options)
    fuse_activations(model)
    use_fast_products(model)
    if fast:
        use_fast_layers(model)
    use_packed_attention(model)
    return model


def changed(model: nn.Module) -> set[str]:
    """The modules that have a forward of their own."""
    return {name for name, part in model.named_modules() if "forward" in vars(part)}


def test_it_is_gpt2_s_alone() -> None:
    own = {"transformer", "transformer.h.0", "transformer.h.1"}
    for architecture in TINY:
        plain, model = (prepared("policy", fast=f, architecture=architecture) for f in (0, 1))
        assert changed(model) == changed(plain) | (own if architecture == "gpt2" else set())


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("small", [0, 1 << 40], ids=["onednn", "mkl"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_losses_scores_and_gradients(
    small: int, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "SMALL", small)
    rng = random.Random(2)
    documents = [ids(rng, rng.randint(2, 40)) for _ in range(9)]
    found: list[list[Tensor]] = []
    for fast in (False, True):
        policy, reward = prepared("policy", fast=fast), prepared("reward", fast=fast)
        torch.manual_seed(3)
        for model in (policy, reward):
            model.train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = dropout
                if hasattr(module, "scaling"):
                    module.scaling = 0.4  # as some configurations have it by layer
        made = [language_loss(policy, documents), *tree_scores(reward, trees(3)[:-1])]
        torch.stack(made).sum().backward()
        made += [p.grad for m in (policy, reward) for p in m.parameters() if p.grad is not None]
        with torch.no_grad():
            packed = pack(trees(4))
            made.append(hidden_states(policy.eval(), packed))
            made.append(scores_at(reward.eval(), packed, [3, 17]))
        found.append(made)
    assert len(found[0]) == len(found[1]) > 50
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("large", [0, 1 << 40], ids=["laid out", "as they lie"])
@pytest.mark.parametrize("n", [1, 4])
def test_what_is_sampled(n: int, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(products, "LARGE", large)
    rng = random.Random(4)
    asked = [ids(rng, rng.randint(1, 9)) for _ in range(12)]
    uniform = torch.rand(12 * n, 40, generator=torch.Generator().manual_seed(2))

    def drawn(model: Any) -> list[Sampled]:
        for module in model.modules():
            if hasattr(module, "scaling"):
                module.scaling = 0.4
        return sample(model, asked, n=n, uniform=uniform, temperature=0.9, eos=7, pad=1)

    ours, theirs = (drawn(prepared("policy", fast=fast)) for fast in (True, False))
    assert len({len(one.ids) for one in ours}) > 3  # some leave the batch before the others
    for one, other in zip(ours, theirs, strict=True):
        assert one.ids == other.ids
        torch.testing.assert_close(one.logprobs, other.logprobs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("architecture", TINY)
def test_rows_that_move_when_others_have_ended(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many, where some that have ended stay for a number of rows seen before."""
    model = prepared("policy", fast=True, architecture=architecture)
    rng = random.Random(5)
    asked = [ids(rng, rng.randint(1, 9)) for _ in range(90)]
    uniform = torch.rand(90, 50, generator=torch.Generator().manual_seed(2))
    found = []
    for dense in (rollout.DENSE, 0.0):  # or nobody leaves
        monkeypatch.setattr(rollout, "DENSE", dense)
        found.append(sample(model, asked, uniform=uniform, temperature=1.5, eos=7, pad=1))
    assert len({len(one.ids) for one in found[0]}) > 8
    for one, other in zip(*found, strict=True):
        assert one.ids == other.ids
        torch.testing.assert_close(one.logprobs, other.logprobs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"activation_function": "relu"},
        {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
        {"scale_attn_weights": False, "n_inner": 24},
        {"layer_norm_epsilon": 0.1},
        {"add_cross_attention": True},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.usefixtures("onednn")
@torch.no_grad()
def test_every_configuration(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed, token by token, and without blocks."""
    monkeypatch.setattr(products, "SMALL", 0)
    model, plain = prepared("policy", fast=True, **options), tiny("gpt2", "policy", **options)
    documents = [[5, 6, 7, 8, 9, 3], [9, 8, 7]]
    alone = [torch.tensor([document]) for document in documents]
    expected = torch.cat([plain(tokens).logits[:, -1] for tokens in alone])
    made = torch.cat([model(tokens).logits[:, -1] for tokens in alone])
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    packed = pack([(document, ()) for document in documents])
    ends = [place + len(d) - 1 for place, d in zip(packed.prompts, documents, strict=True)]
    made = model.lm_head(hidden_states(model, packed, ends))
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    uniform = torch.rand(2, 9, generator=torch.Generator().manual_seed(2))
    sampled = sample(model, documents, uniform=uniform, temperature=1.0, eos=-1, pad=1)
    for document, one in zip(documents, sampled, strict=True):
        logits = plain(torch.tensor([document + one.ids])).logits[0, len(document) - 1 : -1]
        logits[:, 1] = -torch.inf
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(one.ids)[:, None])[:, 0]
        torch.testing.assert_close(chosen, torch.tensor(one.logprobs), rtol=1e-4, atol=1e-4)


def test_parts_of_a_layer_are_not_to_be_sharded() -> None:
    """As torch's fully_shard marks them; that whole layers may be is held in test_processes.py."""

    def shard(part: nn.Module) -> None:
        part.__class__ = type("Sharded", (FSDPModule, type(part)), {})

    model = prepared("policy", fast=True)
    shard(model.transformer.h[0])
    check_sharding(model)
    shard(model.transformer.h[1].mlp.c_fc)
    with pytest.raises(ContractError, match=r"^transformer.h.1: its parts are sharded one by one"):
        check_sharding(model)


@pytest.mark.parametrize("architecture", TINY)
@torch.no_grad()
def test_keys_and_values_are_kept_in_half_precision(architecture: str) -> None:
    model = prepared("policy", fast=True, architecture=architecture)
    packed = pack([([2, 3, 4, 5], ())])
    decoding = Decoding(packed.prompts, [4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_states(model, packed, [3], decoding)
    assert {kept.dtype for kept in decoding._prompts.values()} == {torch.bfloat16}


@torch.no_grad()
def test_a_copy_computes_by_its_own_weights() -> None:
    model = prepared("policy", fast=True)
    packed = pack([([2, 3, 4, 5], ())])
    made = hidden_states(model, packed, [3])
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.zero_()
    assert not hidden_states(other, packed, [3]).any()
    assert torch.equal(hidden_states(model, packed, [3]), made)


@pytest.mark.usefixtures("onednn")
@torch.no_grad()
def test_activations_are_joined_to_the_products_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "SMALL", 0)
    multiplied, does = products._linear_pointwise, []

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None, *after: Any) -> Tensor:
        does.append(after[0][0] if after else "none")
        return multiplied(x, weight, bias, *after)

    model = prepared("policy", fast=True)
    monkeypatch.setattr(products, "_linear_pointwise", noted)
    packed = pack([([2, 3, 4, 5], ())])
    made = hidden_states(model, packed)
    assert does == ["none", "none", "gelu", "none"] * 2
    with torch.enable_grad():
        torch.testing.assert_close(hidden_states(model, packed), made, rtol=1e-5, atol=1e-5)
    assert does.count("gelu") == 2  # its derivative needs what comes before it
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_states(model, packed)
    assert does.count("gelu") == 2


@torch.no_grad()
def test_without_blocks_it_is_transformers_own() -> None:
    plain, model = tiny("gpt2", "policy"), prepared("policy", fast=True)
    tokens = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
    options = {"use_cache": True, "output_hidden_states": True}
    ours, theirs = model(tokens, **options), plain(tokens, **options)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-4)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 3
    asked = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": 0}
    assert torch.equal(model.generate(tokens, **asked), plain.generate(tokens, **asked))


@pytest.mark.parametrize("architecture", TINY)
def test_queries_keys_and_values_are_made_once(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a last layer that is entered twice, for all places and for those that are wanted, too."""
    model = prepared("policy", fast=True, architecture=architecture)
    rows: dict[int, list[int]] = {}
    counted = products.linear

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows.setdefault(weight.data_ptr(), []).append(x.shape[-2])
        return counted(x, weight, bias)

    monkeypatch.setattr(products, "linear", noted)
    packed = pack([(ids(random.Random(1), 30), ())])
    hidden_states(model, packed, [3, 29]).sum().backward()
    assert all(len(each) == 1 for each in rows.values())
    assert sorted({n for each in rows.values() for n in each}) == [2, 30]
    rows.clear()
    hidden_states(model, packed)
    assert {n for each in rows.values() for n in each} == {30}
