"""Forward passes that must agree: packed and separate, padded and not, sampled and computed."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainer.conftest import MakeRun, demonstrations, prompts
from trainer.activations import GELU
from trainer.contract import ContractError, PromptRecord, TextRecord, read_result
from trainer.data import Encoder
from trainer.metrics import TrainingError
from trainer.models import (
    Average,
    check_context,
    load_policy,
    load_reward_model,
    load_tokenizer,
    save_model,
)
from trainer.passes import language_loss, score_completions, tree_scores
from trainer.rollout import (
    Rollout,
    completion_logprobs,
    completion_values,
    drawn,
    final_scores,
    sample,
)
from trainer.sft import train_sft


def encoder_of(tokenizer: Any, **limits: int) -> Encoder:
    limits = {"max_prompt_tokens": 40, "max_completion_tokens": 20, **limits}
    return Encoder(tokenizer=tokenizer, template="{prompt}\n\n", **limits)


def rollout_of(
    base_model: tuple[Any, Any],
    *,
    n: int = 1,
    max_tokens: int = 12,
    temperature: float = 0.7,
) -> tuple[Rollout, int]:
    policy, tokenizer = base_model
    encoder = encoder_of(tokenizer)
    ids = encoder.prompts(["Name a cat.", "Name a red bird.", "Hello there, you."])
    sampled = sample(
        policy,
        ids,
        n=n,
        uniform=torch.rand(len(ids) * n, max_tokens, generator=torch.Generator().manual_seed(3)),
        temperature=temperature,
        eos=encoder.eos,
        pad=encoder.pad,
    )
    prompts = [prompt for prompt in ids for _ in range(n)]
    return Rollout.of(prompts, sampled, encoder.pad), encoder.pad


@torch.no_grad()
def test_neighbours_leave_a_prompt_s_logits_as_they_were(base_model: tuple[Any, Any]) -> None:
    policy, tokenizer = base_model
    short, long = [30, 31, 32], [40, 41, 42, 43, 44, 45, 46]
    uniform = torch.rand(2, 8, generator=torch.Generator().manual_seed(1))
    options = {"temperature": 1.0, "eos": -1, "pad": tokenizer.pad_token_id}
    beside = sample(policy, [short, long], uniform=uniform, **options)
    for prompt, one, own in zip((short, long), beside, uniform, strict=True):
        logits = policy(input_ids=torch.tensor([prompt + one.ids])).logits[0].float()
        logits[:, tokenizer.pad_token_id] = -torch.inf
        expected = logits[len(prompt) - 1 : -1].log_softmax(-1)
        chosen = expected.gather(1, torch.tensor(one.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(one.logprobs), chosen, rtol=0, atol=1e-5)
        assert sample(policy, [prompt], uniform=own[None], **options)[0].ids == one.ids


@torch.no_grad()
def test_transformers_loads_the_reward_model_and_its_bias(
    reward_run: Path, reward_model: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    loaded: Any = AutoModelForSequenceClassification.from_pretrained(reward_run / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(reward_run / "model")
    assert loaded.config.num_labels == 1
    assert loaded.config.reward_bias == reward_model.config.reward_bias != 0
    trees = [([5, 6, 7], [[0]]), ([8, 9], [[10, 11, 12, 0]])]
    rows = [prompt + completion for prompt, (completion,) in trees]
    logits = [loaded(input_ids=torch.tensor([row])).logits[0, 0] for row in rows]
    ours = tree_scores(reward_model, trees)
    theirs = torch.stack(logits) + loaded.config.reward_bias
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)

    save_model(tmp_path / "ours", reward_model, tokenizer)
    loaded.save_pretrained(tmp_path / "theirs")
    for directory in ("ours", "theirs"):
        again = load_reward_model(str(tmp_path / directory), tokenizer)
        torch.testing.assert_close(tree_scores(again, trees), ours)


def test_demonstrations_score_zero_on_average(reward_run: Path, reward_model: Any) -> None:
    train = [d for d in demonstrations() if d["split"] == "train"]
    scores = score_completions(
        reward_model,
        encoder_of(load_tokenizer(str(reward_run / "model"))),
        [d["prompt"] for d in train],
        [d["completion"] for d in train],
        1000,
    )[0]
    assert sum(scores) / len(scores) == pytest.approx(0, abs=1e-5)
    assert abs(reward_model.config.reward_bias) > 0.01  # without it they would not


@pytest.fixture
def far_policy(base_model: tuple[Any, Any]) -> Any:
    """Its logits lie far below 0, as GPT-2's do, where bfloat16 keeps steps of a quarter."""
    policy = copy.deepcopy(base_model[0])
    with torch.no_grad():
        policy.gpt_neox.final_layer_norm.bias[0] += 14
        policy.get_output_embeddings().weight[:, 0] = -7
    return policy


def test_losses_of_logits_far_from_zero_in_half_precision(far_policy: Any) -> None:
    documents = [[5 + i, 6, 7 + i, 8, 9, 10 + i] for i in range(40)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = language_loss(far_policy, documents)
        with torch.no_grad():
            expected = language_loss(far_policy, documents)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    far_policy.zero_grad()
    loss.backward()
    assert far_policy.get_output_embeddings().weight.grad.dtype == torch.float32


@torch.no_grad()
def test_logprobs_of_logits_far_from_zero_in_half_precision(
    far_policy: Any, base_model: tuple[Any, Any]
) -> None:
    policy, tokenizer = far_policy, base_model[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rollout, pad = rollout_of((policy, tokenizer), n=20, temperature=1.0)
        episodes = rollout.pack(torch.arange(60))
        again = completion_logprobs(policy, episodes, 1.0, pad)
        _, *prompt = rollout.prompts[0]
        assert policy(torch.tensor([prompt])).logits.mean() < -40
    error = (rollout.logprobs - again).abs()
    assert error.max() < 0.05


@pytest.mark.parametrize("n", [1, 3])
def test_sampled_logprobs_equal_a_second_forward_pass(base_model: tuple[Any, Any], n: int) -> None:
    rollout, pad = rollout_of(base_model, n=n)
    episodes = rollout.pack(torch.arange(3 * n))
    with torch.no_grad():
        again = completion_logprobs(base_model[0], episodes, 0.7, pad)
        other = completion_logprobs(base_model[0], episodes, 1.0, pad)
    assert len(again) == 3 * n
    torch.testing.assert_close(rollout.logprobs, again, rtol=0, atol=1e-5)
    assert (other - again).abs().max() > 1e-2  # the temperature is in both or in none


def test_rollouts_end_at_the_first_end_of_text(base_model: tuple[Any, Any]) -> None:
    eos = base_model[1].eos_token_id
    rollout, pad = rollout_of(base_model, n=20, max_tokens=6, temperature=1.0)
    assert 0 < rollout.finished.sum() < len(rollout.finished)  # both kinds are here
    for ids, finished in [(s.ids, s.finished) for s in rollout.sampled]:
        assert (ids[-1] == eos) == finished
        assert eos not in ids[:-1]
        assert pad not in ids
        assert finished or len(ids) == 6
    assert (rollout.completions[~rollout.mask] == pad).all()


def test_what_is_sampled_beside_a_completion_does_not_change_it(
    base_model: tuple[Any, Any],
) -> None:
    policy, tokenizer = base_model
    encoder = encoder_of(tokenizer)
    ids = encoder.prompts(["Name a cat.", "Name a red bird.", "Hello there, you."])
    uniform = torch.rand(3, 20, generator=torch.Generator().manual_seed(4))
    options: dict[str, Any] = {"temperature": 1.0, "eos": encoder.eos, "pad": encoder.pad}
    beside = sample(policy, ids, uniform=uniform, **options)
    for i in range(3):
        (alone,) = sample(policy, ids[i : i + 1], uniform=uniform[i : i + 1], **options)
        assert alone.ids == beside[i].ids
        assert alone.logprobs == pytest.approx(beside[i].logprobs, abs=1e-5)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    chances = torch.tensor([[0.1, 0.0, 0.2, 0.7]]).expand(10_000, -1)
    uniform = (torch.arange(10_000) + 0.5) / 10_000  # every part of [0, 1) alike
    counts = torch.bincount(drawn(chances, uniform), minlength=4)
    assert counts.tolist() == pytest.approx([1000, 0, 2000, 7000], abs=1)
    just_below_one = torch.tensor([1 - 2**-24])
    impossible_last = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    assert drawn(impossible_last, just_below_one).item() == 1


def test_completions_of_one_prompt_follow_that_prompt(base_model: tuple[Any, Any]) -> None:
    rollout, _ = rollout_of(base_model, n=2)
    for first in (0, 2, 4):
        assert rollout.prompts[first] == rollout.prompts[first + 1]
    assert rollout.prompts[0] != rollout.prompts[2]


def test_greedy_takes_the_likeliest_token(base_model: tuple[Any, Any]) -> None:
    rollout, pad = rollout_of(base_model, n=2, temperature=0.0)
    assert torch.equal(rollout.completions[0], rollout.completions[1])
    prompt, completion = rollout.prompts[0], rollout.sampled[0].ids
    with torch.no_grad():
        logits = base_model[0](input_ids=torch.tensor([[*prompt, *completion]])).logits[0]
    logits[:, pad] = -torch.inf
    assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == completion


def test_parts_cover_every_episode_and_change_nothing(
    base_model: tuple[Any, Any], reward_model: Any
) -> None:
    rollout, pad = rollout_of(base_model, n=10, max_tokens=30, temperature=1.0)
    every = torch.arange(len(rollout.mask))
    parts = rollout.parts(every, 80)
    assert len(parts) > 3
    assert sorted(torch.cat(parts).tolist()) == every.tolist()

    @torch.no_grad()
    def figures(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        episodes = rollout.pack(rows)
        return (
            completion_logprobs(base_model[0], episodes, 1.0, pad),
            completion_values(reward_model, episodes),
            final_scores(reward_model, episodes)[0],
        )

    whole = figures(every)
    for rows in parts:
        assert rollout.mask[rows].sum() + sum(len(rollout.prompts[i]) for i in rows) <= 80
        for own, all_of_them in zip(figures(rows), whole, strict=True):
            torch.testing.assert_close(own, all_of_them[rows], rtol=0, atol=1e-5)
    assert (whole[0][~rollout.mask] == 0).all()
    assert (whole[1][~rollout.mask] == 0).all()
    assert whole[1][rollout.mask].std() > 0.01


def test_text_never_becomes_end_of_text(base_model: tuple[Any, Any]) -> None:
    encoder = encoder_of(base_model[1])
    (prompt,) = encoder.prompts(["a<|endoftext|>b"])
    (completion,) = encoder.completions(["c<|endoftext|>d"])
    assert encoder.eos not in prompt
    assert completion.count(encoder.eos) == 1
    assert completion[-1] == encoder.eos
    assert base_model[1].decode(prompt) == "a<|endoftext|>b\n\n"


def test_a_model_s_beginning_of_text_stands_before_prompts_and_documents(
    base_model: tuple[Any, Any],
) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(base_model[1])
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    plain, encoder = encoder_of(base_model[1]), encoder_of(tokenizer)
    assert encoder.prompts(["Hi"]) == [[begin, *plain.prompts(["Hi"])[0]]]
    document = TextRecord(text="The cat.")
    assert encoder.documents([document]) == [[begin, *plain.documents([document])[0]]]
    assert encoder.completions(["Hi"]) == plain.completions(["Hi"])


def test_a_prompt_without_a_token_is_refused(base_model: tuple[Any, Any]) -> None:
    encoder = replace(encoder_of(base_model[1]), template="{prompt}")
    with pytest.raises(ContractError, match="the prompt '' has no token in the template"):
        encoder.prompts(["Hi", ""])


def test_records_with_too_long_prompts_are_left_out(base_model: tuple[Any, Any]) -> None:
    encoder = encoder_of(base_model[1], max_prompt_tokens=10)
    records = [
        PromptRecord(prompt_id=i, prompt=text, split="train")
        for i, text in enumerate(["A cat.", prompts()[0] * 5, "A dog."])
    ]
    kept, rows = encoder.fitting(records)
    assert [r.prompt_id for r in kept] == [0, 2]
    assert rows == encoder.prompts(["A cat.", "A dog."])


def test_a_prompt_is_refused_and_a_completion_cut(base_model: tuple[Any, Any]) -> None:
    encoder = encoder_of(base_model[1], max_prompt_tokens=10, max_completion_tokens=5)
    with pytest.raises(ContractError, match="more than max_prompt_tokens 10"):
        encoder.prompts([prompts()[0] * 5])
    (cut,) = encoder.completions(["The cat sleeps. " * 5])
    assert len(cut) == 5
    assert cut[-1] == encoder.eos


def test_a_context_too_small_is_refused(base_model: tuple[Any, Any]) -> None:
    check_context(base_model[0].config, 64)
    with pytest.raises(
        ContractError,
        match=r"65 tokens of .* too many, the model reads 64",
    ):
        check_context(base_model[0].config, 65)


def test_a_sliding_window_is_never_overstepped() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=9,
            num_hidden_layers=1,
            num_key_value_heads=2,
            sliding_window=16,
            max_position_embeddings=64,
            **sizes,
        )
    )
    check_context(model.config, 16)
    with pytest.raises(
        ContractError,
        match=r"17 tokens of .* the model attends to the last 16",
    ):
        check_context(model.config, 17)


def test_a_policy_is_no_reward_model(base_run: Path, base_model: tuple[Any, Any]) -> None:
    with pytest.raises(ContractError, match="not a reward model"):
        load_reward_model(str(base_run / "model"), base_model[1])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_rows_for_a_pad_token_are_the_same_in_every_start(
    architecture: str, base_model: tuple[Any, Any], tmp_path: Path
) -> None:
    """A base without a pad token is given a row for it, and no run may draw another one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokens = len(base_model[1])
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model(
        architecture, vocab_size=tokens - 1, hidden_size=8, intermediate_size=8, **sizes
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loaded = []
    for seed, load in ((1, load_policy), (2, load_policy), (1, reward), (2, reward)):
        torch.manual_seed(seed)
        loaded.append(load(str(tmp_path), base_model[1]))
    for one, other in (loaded[:2], loaded[2:]):
        assert one.get_input_embeddings().num_embeddings == tokens
        for name, weights in one.state_dict().items():
            assert torch.equal(weights, other.state_dict()[name]), name
        rows = one.get_input_embeddings().weight
        torch.testing.assert_close(rows[-1], rows[:-1].mean(0))


def reward(source: str, tokenizer: Any) -> Any:
    return load_reward_model(source, tokenizer, new_head=True)


def test_a_reward_model_is_no_policy(reward_run: Path, base_model: tuple[Any, Any]) -> None:
    with pytest.raises(ContractError, match="a reward model, which is no policy"):
        load_policy(str(reward_run / "model"), base_model[1])


@pytest.fixture
def copied(base_run: Path, tmp_path: Path) -> Path:
    """The base model's directory, to be changed."""
    return Path(shutil.copytree(base_run / "model", tmp_path / "model"))


def test_weights_that_are_missing_are_not_drawn(copied: Path, base_model: tuple[Any, Any]) -> None:
    file = copied / "model.safetensors"
    weights = load_file(file)
    weights.pop("gpt_neox.final_layer_norm.bias")
    missing = r"without gpt_neox\.final_layer_norm\.bias: the weights"
    save_file(weights, file, metadata={"format": "pt"})
    for load in (load_policy, reward):
        with pytest.raises(ContractError, match=missing):
            load(str(copied), base_model[1])


@pytest.mark.parametrize("size", [0, 900])
def test_weights_that_are_cut_are_refused(
    copied: Path, base_model: tuple[Any, Any], size: int
) -> None:
    os.truncate(copied / "model.safetensors", size)
    for load in (load_policy, reward):
        with pytest.raises(ContractError, match=r"/model: its model\.safetensors cannot be loaded"):
            load(str(copied), base_model[1])


def test_a_part_of_the_weights_that_is_cut_is_named(
    copied: Path, base_model: tuple[Any, Any]
) -> None:
    (copied / "model.safetensors").unlink()
    base_model[0].save_pretrained(copied, max_shard_size="20KB")
    last = max(copied.glob("model-*.safetensors"))
    assert not last.name.startswith("model-00001")
    os.truncate(last, 100)
    with pytest.raises(ContractError, match=f"/model: its {last.name} cannot be loaded"):
        load_policy(str(copied), base_model[1])


def test_a_model_that_cannot_be_saved_takes_no_room(
    base_model: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, tokenizer = base_model

    def full(_directory: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    with pytest.raises(TrainingError, match=r"/model cannot be written: .*; make room"):
        save_model(tmp_path / "model", policy, tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_saved(
    base_run: Path, make_run: MakeRun, base_model: tuple[Any, Any], tmp_path: Path
) -> None:
    policy, tokenizer = copy.deepcopy(base_model[0]), base_model[1]
    message = "^the weights are not finite after training: lower the learning rate"
    for value in (torch.nan, torch.inf):
        policy.get_output_embeddings().weight.data[3, 4] = value
        with pytest.raises(TrainingError, match=message):
            save_model(tmp_path / "model", policy, tokenizer)
    run = make_run(
        "sft",
        kind="sft",
        models={"init": str(base_run / "model")},
        data={"demonstrations": [d for d in demonstrations() if d["split"] == "train"][:4]},
        config={"epochs": 1, "batch_size": 4, "learning_rate": 1e38},
    )
    with pytest.raises(TrainingError, match=message):
        train_sft(run)
    assert not (tmp_path / "model").exists()
    assert not (run / "model").exists()
    assert read_result(run) is None


def test_nothing_is_loaded_by_pickle(copied: Path, base_model: tuple[Any, Any]) -> None:
    file = copied / "model.safetensors"
    torch.save(load_file(file), copied / "pytorch_model.bin")
    file.unlink()
    for load in (load_policy, reward):
        with pytest.raises(ContractError, match=r"cannot be loaded: .*safetensors"):
            load(str(copied), base_model[1])


def test_a_completion_that_is_cut_has_an_end_where_it_is_asked_for(
    base_model: tuple[Any, Any],
) -> None:
    encoder = encoder_of(base_model[1], max_completion_tokens=4)
    (whole,) = encoder_of(base_model[1]).completions(["The cat sleeps."])
    exact = replace(encoder, max_completion_tokens=len(whole))
    assert exact.cut_completions(["The cat sleeps."]) == ([whole], 0)
    assert encoder.cut_completions(["The cat sleeps."]) == ([[*whole[:3], encoder.eos]], 1)
    assert encoder.cut_completions(["The cat sleeps."], ended=False) == ([whole[:4]], 1)


def test_a_classifier_of_two_labels_is_no_reward_model(
    base_model: tuple[Any, Any], tmp_path: Path
) -> None:
    from transformers import GPTNeoXForSequenceClassification

    config = copy.deepcopy(base_model[0].config)
    config.num_labels = 2
    GPTNeoXForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ContractError, match="2 labels; a reward model has one"):
        load_reward_model(str(tmp_path), base_model[1])


def test_average_by_hand() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = Average(model, decay=0.75)
    torch.nn.init.constant_(model.weight, 5.0)
    average.update(model)  # 0.75 * 1 + 0.25 * 5
    average.copy_to(model)
    assert model.weight.item() == 2.0


def test_gelu_is_transformers_own() -> None:
    from transformers.activations import NewGELUActivation

    x = torch.randn(7, 5, 33) * 3
    x[0, 0, :4] = torch.tensor([0.0, -60.0, 60.0, 1e-30])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn_like(x)
    made, expected = GELU()(ours), NewGELUActivation()(theirs)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=2e-6)
    (made * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(GELU()(x), made)
    half = x.bfloat16()
    torch.testing.assert_close(GELU()(half).float(), expected.detach(), rtol=2e-2, atol=2e-2)
