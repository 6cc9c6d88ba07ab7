"""Products by oneDNN against torch's own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.trainer.test_packing import TINY, ids, tiny
from trainer import products
from trainer.architecture import use_packed_attention
from trainer.packing import pack
from trainer.passes import hidden_states, language_loss, scores_at, token_losses, tree_scores
from trainer.products import linear, ready, rounded, use_fast_products
from trainer.rollout import sample


@pytest.fixture
def by_onednn(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, ...]]:
    """Whatever its size a product goes to oneDNN. Returns the shapes (n, k, m) of what did."""
    request.getfixturevalue("onednn")
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(products, "LARGE", 0)
    made: list[tuple[int, ...]] = []
    multiplied = products._linear_pointwise

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None, *after: Any) -> Tensor:
        made.append((x.numel() // x.shape[-1], *reversed(weight.shape)))
        return multiplied(x, weight, bias, *after)

    monkeypatch.setattr(products, "_linear_pointwise", noted)
    return made


@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24), (1, 300, 24)])
@pytest.mark.parametrize("outputs", [16, 20, 96])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("transposed", [False, True], ids=["linear", "conv1d"])
def test_a_linear_map_and_its_gradients(
    shape: tuple[int, ...],
    outputs: int,
    biased: bool,
    transposed: bool,
    by_onednn: list[tuple[int, ...]],
) -> None:
    torch.manual_seed(1)
    x = torch.randn(shape, requires_grad=True)
    kept = torch.randn((24, outputs) if transposed else (outputs, 24), requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True) if biased else None
    inputs = [x, kept] if bias is None else [x, kept, bias]
    upstream = torch.randn(*shape[:-1], outputs)

    def made(by: Any) -> list[Tensor]:
        output = by(x, kept.t() if transposed else kept, bias)
        return [output, *torch.autograd.grad((output * upstream).sum(), inputs)]

    expected = made(F.linear)
    assert not by_onednn
    for found, wanted in zip(made(linear), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert len(by_onednn) == 3  # the output and two gradients
    with torch.no_grad():
        torch.testing.assert_close(linear(x, kept.t() if transposed else kept, bias), expected[0])


def test_only_the_gradients_that_are_wanted(by_onednn: list[tuple[int, ...]]) -> None:
    x, weight = torch.randn(6, 8), torch.randn(20, 8, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(20, 8), rtol=1e-4, atol=1e-5)
    assert len(by_onednn) == 2  # none for x


def test_what_is_not_for_onednn_goes_to_torch(by_onednn: list[tuple[int, ...]]) -> None:
    weight = torch.randn(20, 8, requires_grad=True)
    assert linear(torch.randn(0, 8), weight).shape == (0, 20)
    assert linear(torch.randn(8), weight).shape == (20,)
    assert linear(torch.randn(3, 8), weight[:1]).shape == (3, 1)
    assert linear(torch.randn(3, 8).double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.randn(3, 8), weight).dtype == torch.bfloat16
    assert not by_onednn


@pytest.mark.usefixtures("onednn")
def test_small_products_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_linear_pointwise", lambda *_: pytest.fail("by oneDNN"))
    x, weight = torch.randn(64, 128), torch.randn(128, 128)
    torch.testing.assert_close(linear(x, weight), x @ weight.t())


@pytest.mark.parametrize(
    ("made", "mkl", "prefers"),
    [("GenuineIntel", True, False), ("GenuineIntel", False, True), ("AuthenticAMD", True, True)],
)
@pytest.mark.parametrize("linux", [True, False], ids=["cpuinfo", "by its name"])
def test_mkl_multiplies_on_processors_of_its_maker(
    made: str, mkl: bool, prefers: bool, linux: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(Path, "exists", lambda _: linux)
    about, name = (f"vendor_id\t: {made}\n", "") if linux else ("", f"Intel64 Family 6, {made}")
    monkeypatch.setattr(Path, "read_text", lambda *_: about)
    monkeypatch.setattr(products.platform, "processor", lambda: name)
    assert products.prefers_onednn.__wrapped__() == prefers


def test_where_mkl_is_preferred_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(products, "_linear_pointwise", lambda *_: pytest.fail("by oneDNN"))
    model = nn.Sequential(nn.Linear(64, 128))
    use_fast_products(model)
    x, weight = torch.randn(64, 64), model[0].weight
    torch.testing.assert_close(model(x), x @ weight.t() + model[0].bias)
    with torch.no_grad(), ready(model):
        assert model[0].forward.laid_out is None
        assert model[0].forward.gelu(x) is None
        model(x)


@pytest.mark.parametrize("architecture", TINY)
def test_every_architecture_learns_the_same(
    architecture: str, by_onednn: list[tuple[int, ...]]
) -> None:
    rng = random.Random(2)
    documents = [ids(rng, rng.randint(2, 40)) for _ in range(9)]
    losses: list[Tensor] = []
    gradients: list[dict[str, Tensor]] = []
    for fast in (False, True):
        model = tiny(architecture, "policy")
        use_packed_attention(model)
        by_onednn.clear()
        if fast:
            use_fast_products(model)
        loss = language_loss(model, documents)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert len(by_onednn) > 12 * 2  # forward and two gradients of four maps a layer, and the head
    torch.testing.assert_close(*losses)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("onednn")
def test_rounded_numbers_are_few_and_near(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    made = [rounded(n, cpu) for n in range(1, 16_385)]
    assert all(n <= m <= max(n, 17 / 16 * n + 1) for n, m in enumerate(made, 1))
    assert made == [rounded(m, cpu) for m in made]
    assert len(set(made)) == 32 + 9 * 16
    assert rounded(1001, torch.device("cuda")) == 1001  # nothing is kept there
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)
    assert rounded(1001, cpu) == 1001


def test_batches_of_many_lengths_need_few_kernels(by_onednn: list[tuple[int, ...]]) -> None:
    """Kernels are kept for every shape: a long run must come to an end of new ones."""
    policy, reward = tiny("gpt2", "policy"), tiny("gpt2", "reward")
    for model in (policy, reward):
        use_packed_attention(model)
        use_fast_products(model)
    rng = random.Random(2)
    for _ in range(60):
        documents = [ids(rng, rng.randint(9, 40)) for _ in range(20)]
        first = [rng.randint(2, len(document) - 1) for document in documents]
        language_loss(policy, documents, first).backward()
        rows = [(d[:n], [d[n:]]) for d, n in zip(documents, first, strict=True)]
        tree_scores(reward, rows).sum().backward()
        packed = pack([(document, ()) for document in documents])
        before = [p + i for p, n in zip(packed.prompts, first, strict=True) for i in range(n)]
        values = scores_at(reward, packed, before)
        losses = token_losses(
            policy,
            hidden_states(policy, packed, before),
            torch.ones(len(before), dtype=torch.int64),
        )
        (values.sum() + losses.sum()).backward()
    # k is the number of rows in a weight's gradient
    assert len({n for n, _, _ in by_onednn}) > 2
    assert len({max(n, k) for n, k, _ in by_onednn}) <= 50


def test_rows_that_are_sampled_need_few_kernels(by_onednn: list[tuple[int, ...]]) -> None:
    policy = tiny("gpt2", "policy")
    use_packed_attention(policy)
    use_fast_products(policy)
    uniform = torch.rand(290, 150, generator=torch.Generator().manual_seed(4))
    sampled = sample(policy, [[2, 3]] * 290, uniform=uniform, temperature=1.0, eos=0, pad=1)
    assert len({len(s.ids) for s in sampled}) > 20  # so the batch had many sizes
    cpu = torch.device("cpu")
    rows = {n for n, _, _ in by_onednn if n < 290}
    assert len(rows) > 1
    assert rows == {rounded(n, cpu) for n in rows}


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("architecture", TINY)
def test_sampling_by_weights_that_are_laid_out(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens and logprobs as without, by the weights as they are at each time."""
    policy = tiny(architecture, "policy")
    use_packed_attention(policy)
    use_fast_products(policy)
    multiplied = products._linear_pointwise
    layouts: list[torch.layout] = []

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None, *after: Any) -> Tensor:
        layouts.append(weight.layout)
        return multiplied(x, weight, bias, *after)

    monkeypatch.setattr(products, "_linear_pointwise", noted)
    uniform = torch.rand(9, 30, generator=torch.Generator().manual_seed(4))
    drawn = []
    for scale in (1, 3):
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(scale).add_(0.01)  # biases too
        found = []
        for large in (0, 1 << 40):
            monkeypatch.setattr(products, "LARGE", large)
            layouts.clear()
            found.append(
                sample(policy, [[2, 3, 4]] * 9, uniform=uniform, temperature=1.0, eos=0, pad=1)
            )
            assert (torch._mkldnn in layouts) == (large == 0)
        for one, other in zip(*found, strict=True):
            assert one.ids == other.ids
            torch.testing.assert_close(one.logprobs, other.logprobs, rtol=1e-4, atol=1e-5)
        drawn.append([one.ids for one in found[0]])
    assert drawn[0] != drawn[1]


def test_weights_are_laid_out_for_a_while_only(by_onednn: list[tuple[int, ...]]) -> None:
    model = nn.Sequential(nn.Linear(24, 20), nn.Linear(20, 7, bias=False))
    use_fast_products(model)
    maps = [module.forward for module in model]
    x = torch.randn(3, 24)
    with torch.no_grad():
        expected = (x @ model[0].weight.t() + model[0].bias) @ model[1].weight.t()

    def fails() -> None:
        with torch.no_grad(), ready(model):
            torch.testing.assert_close(model(x), expected)
            assert all(made.laid_out is not None for made in maps)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert by_onednn == [(3, 24, 20), (3, 20, 7)]
    assert all(made.laid_out is None for made in maps)
    with ready(model):  # with gradients the weights themselves
        model(x).sum().backward()
    assert model[0].weight.grad is not None
    with torch.no_grad(), ready(model.double()):
        assert model(x.double()).dtype == torch.float64


def test_in_half_precision_weights_are_cast_once() -> None:
    model = nn.Sequential(nn.Linear(24, 20), nn.Linear(20, 30, bias=False), nn.Linear(30, 9))
    use_fast_products(model)
    first, second, head = (module.forward for module in model)
    x = torch.randn(3, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            expected = model(x)
            with ready(model, model[2]):
                assert first.cast[1].dtype == second.cast[0].dtype == torch.bfloat16
                assert head.cast is first.laid_out is second.cast[1] is None
                assert model(x).equal(expected)
                first.cast[0].zero_()
                assert not model(x).equal(expected)  # it is the copy that multiplies
        with ready(model):  # with gradients the weights themselves
            model(x).sum().backward()
    assert first.cast is second.cast is None
    assert all(module.weight.grad is not None for module in model)


def test_losses_of_a_number_of_tokens_that_is_rounded_up() -> None:
    policy = tiny("gpt2", "policy")
    hidden = torch.randn(67, policy.config.n_embd, requires_grad=True)
    targets = torch.randint(0, policy.config.vocab_size, (67,))
    losses = token_losses(policy, hidden, targets)
    expected = F.cross_entropy(policy.lm_head(hidden), targets, reduction="none")
    torch.testing.assert_close(losses, expected)
    weights = torch.rand(67)
    for ours, plain in zip(
        *(torch.autograd.grad((x * weights).sum(), hidden) for x in (losses, expected)),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)
