"""The mathematics of PPO, pure functions: B episodes, T completion tokens, masks bool (B, T).

And beta, the one number that a run carries from iteration to iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import KL_ERROR


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (B, T) where the mask is true: a scalar."""
    return (values * mask).sum() / mask.sum()


def masked_whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Values (B, T) with mean 0 and (population) variance 1 over the true positions, 0 elsewhere.

    To be given the whole batch: whitening a minibatch would make it depend on its neighbours.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def kl_per_token(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """k1 estimate (B, T), nats, of KL(policy, reference) at the sampled tokens; may be negative."""
    return (logprobs - reference_logprobs) * mask


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Per-token reward (B, T): -kl_coefficient * kl in nats, plus scores (B,) on the last token.

    Raises ValueError where an episode has no token. Section 3.5, Eq. 2.
    """
    if not mask.any(dim=1).all():
        raise ValueError("an episode without a token has no place for its score")
    rewards = -kl_coefficient * kl * mask
    last = mask.sum(dim=1) - 1  # completions are right-padded
    rewards[torch.arange(len(rewards), device=rewards.device), last] += scores
    return rewards


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: (advantages, returns), each (B, T), 0 where masked.

    values (B, T) are those before each token was sampled; after the last token the value is 0.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_values = torch.zeros_like(following)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + discount * next_values - values[:, t]
        following = (delta + discount * lam * following) * mask[:, t]
        next_values = values[:, t]
        advantages[:, t] = following
    return advantages, (advantages + values) * mask


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate, a mean over tokens: (loss, share of tokens where the clip is active)."""
    ratio = torch.exp((logprobs - old_logprobs) * mask)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = masked_mean(torch.maximum(unclipped, clipped), mask)
    return loss, masked_mean((clipped > unclipped).float(), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """0.5 * max of the squared errors, with and without the change from old_values clipped."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    errors = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_mean(errors, mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float | None:
    """1 - Var(returns - values) / Var(returns) where the mask is true; None where Var is 0."""
    total = float(returns[mask].var(correction=0))
    residual = float((returns - values)[mask].var(correction=0))
    return 1 - residual / total if total > 0 else None


def adapted_kl_coefficient(
    coefficient: float, kl: float, *, target: float, horizon: int, episodes: int
) -> float:
    """The next coefficient: times 1 + clip(kl / target - 1, ±0.2) * episodes / horizon.

    kl and target in nats an episode (Ziegler et al. 2019, section 2.2).
    """
    error = min(max(kl / target - 1, -KL_ERROR), KL_ERROR)
    return coefficient * (1 + error * episodes / horizon)


class KLCoefficient:
    """beta, which the adaptive controller changes: a part of the run's state."""

    def __init__(self, value: float) -> None:
        self.value = value

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.value = state_dict["value"]
