"""PPO's mathematics on numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from trainer import ppo_math

MASK = tensor([[True, True, True], [True, False, False]])


def test_masked_mean_ignores_what_is_masked() -> None:
    values = tensor([[1.0, 2.0, 3.0], [6.0, 99.0, math.pi]])
    assert ppo_math.masked_mean(values, MASK).item() == pytest.approx((1 + 2 + 3 + 6) / 4)


def test_whitening_is_over_the_whole_batch() -> None:
    values = tensor([[1.0, 2.0, 3.0], [6.0, 99.0, 99.0]])
    # Mean 3, population variance (4 + 1 + 0 + 9) / 4 = 3.5.
    expected = tensor([[-2.0, -1.0, 0.0], [3.0, 0.0, 0.0]]) / math.sqrt(3.5)
    torch.testing.assert_close(ppo_math.masked_whiten(values, MASK), expected)


def test_kl_is_k1_may_be_negative_and_is_zero_against_itself() -> None:
    policy = tensor([[-1.0, -2.0, -3.0], [-0.5, -7.0, -7.0]])
    reference = tensor([[-1.5, -1.0, -3.0], [-0.5, -1.0, -1.0]])
    kl = ppo_math.kl_per_token(policy, reference, MASK)
    assert kl.tolist() == [[0.5, -1.0, 0.0], [0.0, 0.0, 0.0]]
    assert ppo_math.kl_per_token(policy, policy, MASK).abs().sum() == 0


def test_score_lands_on_the_last_token_and_kl_on_every_token() -> None:
    kl = tensor([[1.0, 2.0, -1.0], [4.0, 50.0, 50.0]])
    rewards = ppo_math.token_rewards(tensor([10.0, -1.0]), kl, MASK, kl_coefficient=0.5)
    assert rewards.tolist() == [[-0.5, -1.0, 10.5], [-3.0, 0.0, 0.0]]


def test_an_episode_without_tokens_is_refused() -> None:
    empty = tensor([[False, False]])
    with pytest.raises(ValueError, match="no place for its score"):
        ppo_math.token_rewards(tensor([1.0]), torch.zeros(1, 2), empty, 0.1)


def test_gae_by_hand() -> None:
    rewards = tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]])
    values = tensor([[0.5, 0.25, 0.5], [1.0, 77.0, 77.0]])  # 77 is masked
    advantages, returns = ppo_math.gae(rewards, values, MASK, discount=1.0, lam=0.5)
    # Deltas: 0.25 - 0.5, 0.5 - 0.25, 1 - 0.5. From the end: 0.5, 0.25 + 0.25, -0.25 + 0.25.
    assert advantages.tolist() == [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
    assert returns.tolist() == [[0.5, 0.75, 1.0], [2.0, 0.0, 0.0]]


def test_gae_with_lambda_one_is_the_reward_to_go_minus_the_value() -> None:
    rewards, values = tensor([[1.0, 2.0, 4.0]]), tensor([[3.0, 1.0, 8.0]])
    every = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = ppo_math.gae(rewards, values, every, discount=1.0, lam=1.0)
    assert returns.tolist() == [[7.0, 6.0, 4.0]]
    assert advantages.tolist() == [[4.0, 5.0, -4.0]]


def test_policy_loss_clips_what_went_too_far_only() -> None:
    old = torch.zeros(1, 4)
    logprobs = tensor([[1.5, 1.5, 0.5, 0.5]]).log()  # ratios
    advantages = tensor([[1.0, -1.0, 1.0, -1.0]])
    every = torch.ones(1, 4, dtype=torch.bool)
    loss, clipped = ppo_math.policy_loss(logprobs, old, advantages, every, clip=0.2)
    # -1.2 (clipped), +1.5, -0.5, +0.8 (clipped): the pessimistic side of each.
    assert loss.item() == pytest.approx((-1.2 + 1.5 - 0.5 + 0.8) / 4)
    assert clipped.item() == 0.5


def test_policy_loss_ignores_masked_tokens() -> None:
    loss, clipped = ppo_math.policy_loss(
        tensor([[0.0, 500.0, 500.0], [0.0, 9.0, 9.0]]),
        torch.zeros(2, 3),
        tensor([[1.0, 5.0, 5.0], [3.0, 5.0, 5.0]]),
        tensor([[True, False, False], [True, False, False]]),
        clip=0.2,
    )
    assert (loss.item(), clipped.item()) == (-2.0, 0.0)


def test_value_loss_takes_the_larger_error() -> None:
    values, old, returns = tensor([[1.0, 0.1]]), tensor([[0.0, 0.0]]), tensor([[1.0, 1.0]])
    every = torch.ones(1, 2, dtype=torch.bool)
    # First: unclipped error 0, clipped to 0.2 error 0.64. Second: both 0.81.
    loss = ppo_math.value_loss(values, old, returns, every, clip=0.2)
    assert loss.item() == pytest.approx(0.5 * (0.64 + 0.81) / 2)


def test_explained_variance() -> None:
    returns = tensor([[0.0, 1.0, 2.0]])
    every = torch.ones(1, 3, dtype=torch.bool)
    assert ppo_math.explained_variance(returns + 5, returns, every) == pytest.approx(1)
    assert ppo_math.explained_variance(torch.zeros(1, 3), returns, every) == pytest.approx(0)
    assert ppo_math.explained_variance(returns, torch.ones(1, 3), every) is None


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(6.0, 0.1), (6.6, 0.1 * (1 + 0.1 * 0.5)), (60.0, 0.1 * 1.1), (0.0, 0.1 * 0.9)],
)
def test_adaptive_kl_controller(kl: float, expected: float) -> None:
    changed = ppo_math.adapted_kl_coefficient(0.1, kl, target=6.0, horizon=1000, episodes=500)
    assert changed == pytest.approx(expected)
