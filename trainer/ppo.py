"""ppo: PPO against the reward model with a per-token KL penalty, PPO-ptx with the pretraining mix.

Section 3.5, Eq. 2. One iteration, top to bottom: sample a batch of episodes, score them, take the
reference's logprobs and the values, make per-token rewards and advantages, then update policy and
value function minibatch by minibatch; each minibatch adds the pretraining gradient times gamma.
Dropout is off and the temperature divides the logits in rollout, reference and update, so the first
minibatch's ratio is 1. The moving average of the policy is what is saved.

Deviations from the paper, and what it leaves open:
- Log-probabilities of the rollout are those kept from sampling, which saves a forward pass; that
  they are the policy's is checked each iteration by the ratio of the first minibatch. In
  float32 it is 1 within 1e-5 on average; at a single token rounding may take it further, and 1e-4
  is allowed there. Where the policy starts as the reference its KL is held to be 0 as exactly,
  but in half precision, which may round the two differently. Rollouts of a server may be allowed
  more (PLUMBLINE_ROLLOUT_RATIO_TOLERANCE).
- The padding token is no token that a completion may have: rollout, reference and update leave it
  out of the distribution.
- A pretraining example is a row of whole documents that never see each other, of ptx_tokens at
  most; the pretraining loss is a mean over the tokens of the minibatch's examples.
- Weights and optimizers are float32; the passes are in half precision where accelerate is told so
  (trainer/accelerate/bf16.yaml). The paper's weights are half precision with a float32 copy.
- The policy learning rate of the preset is the value function's, the only one that is known.
- The average is updated with every minibatch's step, and gradients' norms are clipped; lambda,
  whitening, value clipping, the score without end-of-text (-1) and Adam's epsilon are those of the
  authors' earlier code (Ziegler et al. 2019, Stiennon et al. 2020). The paper says none of these.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from trainer import ppo_math
from trainer.config import PPOConfig
from trainer.contract import (
    LEARNING_RATE,
    PPO_HELD_OUT_LOSS,
    PPO_KL,
    PPO_LENGTH,
    PPO_PTX_LOSS,
    PPO_REWARD,
    PPO_SCORE,
    PPO_SPREAD,
    ContractError,
    PromptRecord,
)
from trainer.data import endless, load_pretraining, load_records
from trainer.engine import engine_for
from trainer.ensemble import load_members
from trainer.metrics import Recent, TrainingError
from trainer.models import (
    Average,
    check_context,
    check_same_tokenizer,
    device,
    load_policy,
    load_reward_model,
    load_tokenizer,
    model_source,
)
from trainer.passes import mean_language_loss
from trainer.rollout import Rollout, completion_logprobs, completion_values, final_scores
from trainer.run import Run, set_learning_rate

# How far the first minibatch's ratio may be from 1, by precision: on average and at any token.
RATIO_TOLERANCE = {"no": (1e-5, 1e-4), "bf16": (0.05, 0.2)}
# What the result says of the run, as a mean over its last iterations.
RESULT_KEYS = (PPO_SCORE, PPO_REWARD, PPO_KL, PPO_LENGTH, PPO_HELD_OUT_LOSS)
RESULT_ITERATIONS = 5
SHARED = ("ppo/policy_loss", "ppo/value_loss", "ppo/clip_fraction")  # each process has a part


def train_ppo(run_dir: Path) -> None:
    """Train models["init"] by PPO in a run directory of kind "ppo"."""
    run = Run.open(run_dir)
    config = run.configure(PPOConfig)
    engine = engine_for(run, exact=True)
    sources = {name: model_source(run.spec, name) for name in ("init", "reference", "reward")}
    tokenizer = load_tokenizer(sources["init"])
    for name in ("reference", "reward"):
        check_same_tokenizer(sources[name], tokenizer)
    encoder = run.encoder(tokenizer, config)
    records = load_records(run_dir, run.spec, "prompts", PromptRecord)
    train = [r for r in records if r.split == "train"]
    _, prompts = run.fitting(encoder, train, "prompts")
    if not prompts:
        raise ContractError(
            "there is no prompt of split 'train' of at most "
            f"{config.max_prompt_tokens} tokens (max_prompt_tokens)"
        )
    pretraining, held_out = load_pretraining(run_dir, run.spec, config, encoder)

    policy = load_policy(sources["init"], tokenizer)
    reference = load_policy(sources["reference"], tokenizer).requires_grad_(False)
    reference = run.processes.as_gathered(reference)
    reward_model = load_reward_model(sources["reward"], tokenizer).requires_grad_(False)
    members = load_members(reward_model, sources["reward"])
    value_model = load_reward_model(sources["reward"], tokenizer)
    for model in (policy, reference, reward_model):
        check_context(model.config, max(map(len, prompts)) + config.max_completion_tokens)
    if documents := [*held_out, *(document for row in pretraining for document in row)]:
        longest = max(map(len, documents))
        check_context(policy.config, longest, of="a pretraining document", lower="ptx_tokens")
    beta = ppo_math.KLCoefficient(config.kl_coefficient)
    optimizers = (
        torch.optim.Adam(
            model.parameters(),
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            fused=True,
        )
        for model in (policy, value_model)
    )
    iterations = config.episodes // config.batch_episodes
    run.check_batch(config.batch_episodes // config.minibatches, "batch_episodes / minibatches")
    run.check_warmup(config.warmup_iterations + 1, iterations, "warmup_iterations")
    processes = run.processes
    passes, policy_optimizer = processes.prepare(policy, next(optimizers))
    value_passes, value_optimizer = processes.prepare(value_model, next(optimizers))
    average = Average(policy, config.ema_decay)
    recent = Recent(RESULT_ITERATIONS)
    start, checkpoints, metrics = run.resume(
        {
            "policy": policy,
            "value": value_model,
            "average": average,
            "policy_optimizer": policy_optimizer,
            "value_optimizer": value_optimizer,
            "kl_coefficient": beta,
            "recent": recent,
        },
        config,
        total_steps=iterations,
    )
    size = config.batch_episodes // config.minibatches
    ptx_rows = max(1, round(config.ptx_examples_per_episode * size))
    updates = config.minibatches * config.inner_epochs  # an iteration
    ptx_drawn = updates * ptx_rows  # an iteration
    precision = run.processes.accelerator.mixed_precision
    tolerance, half = RATIO_TOLERANCE[precision], precision != "no"
    if engine.ratio_tolerance is not None:
        tolerance = (engine.ratio_tolerance,) * 2

    for iteration in range(start, iterations):
        began = time.monotonic()
        generator = run.seed(iteration)
        warm = min(1.0, iteration / config.warmup_iterations) if config.warmup_iterations else 1.0
        warm = config.warmup_start + (1 - config.warmup_start) * warm
        set_learning_rate(policy_optimizer, config.policy_learning_rate * warm)
        set_learning_rate(value_optimizer, config.value_learning_rate * warm)

        if held_out:
            held_out_loss = mean_language_loss(processes, passes, held_out, config.pass_tokens)

        # Episodes: one completion for each prompt of the batch.
        at = iteration * config.batch_episodes
        drawn = endless(len(prompts), run.spec.seed, at, config.batch_episodes)
        picked = [prompts[i] for i in drawn]
        uniform = torch.rand(
            config.batch_episodes, config.max_completion_tokens, generator=generator
        )
        own = processes.share(range(len(picked)))
        engine.use(policy, encoder, passes)
        sampled = engine.sample(
            [picked[i] for i in own], uniform=uniform[own], temperature=config.temperature
        )
        rollout = Rollout.of(picked, processes.together(sampled), encoder.pad)
        sampled_in = time.monotonic() - began
        mask = rollout.mask  # (B, T)

        # Scores (B,), reference logprobs (B, T), values (B, T), by minibatches of the first epoch.
        # The first comes last: the value function's update goes on from its pass, if it is one.
        order = torch.randperm(len(mask), generator=generator).to(device())
        scored = torch.zeros(2, len(mask), device=device())  # scores, and an ensemble's spread
        reference_logprobs = torch.zeros_like(rollout.logprobs)
        old_values = torch.zeros_like(rollout.logprobs)
        first_values: Tensor | None = None
        for number in reversed(range(config.minibatches)):
            minibatch = order[number :: config.minibatches]
            parts = list(processes.parts(rollout.lengths(minibatch), config.pass_tokens))
            goes_on = number == 0 and len(parts) == 1
            for part, _, _ in parts:
                rows = minibatch[part]
                episodes = rollout.pack(rows)
                with torch.no_grad(), processes.accelerator.autocast():
                    reference_logprobs[rows] = completion_logprobs(
                        reference, episodes, config.temperature, encoder.pad
                    ).float()
                    scored[:, rows] = final_scores(reward_model, episodes).float()
                with torch.set_grad_enabled(goes_on):
                    values = value_passes(completion_values, episodes)
                old_values[rows] = values.detach().float()
                first_values = values if goes_on else None
        for shared in (reference_logprobs, old_values, scored):
            processes.add(shared)
        score = torch.where(rollout.finished, scored[0], config.missing_eos_score)

        # Rewards and advantages, whitened over the whole batch.
        kl = ppo_math.kl_per_token(rollout.logprobs, reference_logprobs, mask)
        if iteration == 0 and sources["init"] == sources["reference"] and not half:
            errors = [ppo_math.masked_mean(kl.abs(), mask).item(), kl.abs().max().item()]
            if any(error > limit for error, limit in zip(errors, tolerance, strict=True)):
                raise TrainingError(
                    f"the policy is its reference, and its KL from it is up to {errors[1]:.2g} "
                    f"nats a token: sampling by {engine.name} and the reference disagree"
                )
        rewards = ppo_math.token_rewards(score, kl, mask, beta.value)
        advantages, returns = ppo_math.gae(
            rewards, old_values, mask, config.discount, config.gae_lambda
        )
        advantages = ppo_math.masked_whiten(advantages, mask)

        # Updates. A minibatch's gradient is accumulated over its parts, then the pretraining's.
        ptx_at = iteration * ptx_drawn
        seen: dict[str, float] = defaultdict(float)  # sums over minibatches
        ratio_errors = [0.0, 0.0]  # of the first minibatch: the mean and the largest
        for update in range(updates):
            if update and update % config.minibatches == 0:
                order = torch.randperm(len(mask), generator=generator).to(device())
            minibatch = order[update % config.minibatches :: config.minibatches]
            policy_optimizer.zero_grad()
            value_optimizer.zero_grad()
            lengths = rollout.lengths(minibatch)
            for part, weight, last in processes.parts(lengths, config.pass_tokens):
                rows = minibatch[part]
                episodes = rollout.pack(rows)
                share = weight * mask[rows].sum() / mask[minibatch].sum()  # of its tokens
                with processes.synced(last, passes, value_passes):
                    if update or first_values is None:
                        values = value_passes(completion_values, episodes)
                    else:
                        values, first_values = first_values, None
                    value_loss = ppo_math.value_loss(
                        values, old_values[rows], returns[rows], mask[rows], config.value_clip
                    )
                    processes.backward(share * value_loss)
                    logprobs = passes(
                        completion_logprobs, episodes, config.temperature, encoder.pad
                    )
                    policy_loss, clipped = ppo_math.policy_loss(
                        logprobs, rollout.logprobs[rows], advantages[rows], mask[rows], config.clip
                    )
                    processes.backward(share * policy_loss)
                if update == 0:
                    away = (logprobs.detach() - rollout.logprobs[rows]).expm1().abs()
                    ratio_errors[0] += (share * ppo_math.masked_mean(away, mask[rows])).item()
                    ratio_errors[1] = max(ratio_errors[1], away.max().item())
                for key, value in zip(SHARED, (policy_loss, value_loss, clipped), strict=True):
                    seen[key] += (share * value).item()
            if update == 0:
                ratio_errors[0] = processes.sum(ratio_errors[0])
                broken = any(e > limit for e, limit in zip(ratio_errors, tolerance, strict=True))
                if processes.sum(float(broken)):  # all of them stop, or none
                    raise TrainingError(
                        f"iteration {iteration}: the first ratio is {ratio_errors[1]:.2g} away "
                        f"from 1: sampling by {engine.name} and update disagree, by "
                        f"{ratio_errors[0]:.2g} on average"
                    )
            if pretraining:
                rows_drawn = endless(len(pretraining), run.spec.seed, ptx_at, ptx_rows)
                ptx_at += ptx_rows
                seen[PPO_PTX_LOSS] += mean_language_loss(
                    processes,
                    passes,
                    [document for i in rows_drawn for document in pretraining[i]],
                    config.pass_tokens,
                    weight=config.ptx_coefficient,
                )
            seen["ppo/gradient_norm"] += processes.clip(policy, config.gradient_clip)
            seen["ppo/value_gradient_norm"] += processes.clip(value_model, config.gradient_clip)
            policy_optimizer.step()
            value_optimizer.step()
            average.update(policy)

        for key in SHARED:
            seen[key] = processes.sum(seen[key])
        episode_kl = kl.sum(1).mean().item()  # nats an episode
        figures = {
            PPO_SCORE: score.mean().item(),
            PPO_REWARD: rewards.sum(1).mean().item(),
            PPO_KL: episode_kl,
            "objective/kl_coefficient": beta.value,
            PPO_LENGTH: mask.sum(1).float().mean().item(),
            "rollout/missing_eos_share": 1 - rollout.finished.float().mean().item(),
            "ppo/first_ratio_mean_error": ratio_errors[0],
            "ppo/first_ratio_error": ratio_errors[1],
            # Of the policy that sampled: minus the mean logprob of what it sampled is unbiased.
            "ppo/entropy_nats_per_token": -ppo_math.masked_mean(rollout.logprobs, mask).item(),
            **{key: total / updates for key, total in seen.items()},
            LEARNING_RATE: config.policy_learning_rate * warm,
        }
        if held_out:
            figures[PPO_HELD_OUT_LOSS] = held_out_loss
        if members > 1:
            figures[PPO_SPREAD] = scored[1].mean().item()
        explained = ppo_math.explained_variance(old_values, returns, mask)
        if explained is not None:
            figures["ppo/explained_variance"] = explained
        if config.kl_controller == "adaptive":
            beta.value = ppo_math.adapted_kl_coefficient(
                beta.value,
                episode_kl,
                target=config.kl_target,
                horizon=config.kl_horizon,
                episodes=config.batch_episodes,
            )
        recent.add({key: figures[key] for key in RESULT_KEYS if key in figures})
        seconds = time.monotonic() - began
        speed = {
            "speed/episodes_per_second": config.batch_episodes / seconds,
            "speed/rollout_share": sampled_in / seconds,
        }
        metrics.write(iteration + 1, figures | speed)
        checkpoints.after(iteration + 1)

    average.copy_to(policy)
    run.save(policy, tokenizer)
    run.finish(recent.means(), versions=engine.versions)
