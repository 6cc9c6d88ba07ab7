"""Completions sampled by an OpenAI-compatible server: SGLang, vLLM, and others for text alone.

Prompts go to POST /v1/completions as token ids, a request for each completion, and the sampled ids
come back with their logprobs. Before it samples, the policy is written as a Hugging Face directory
and the server is told to load it from there.

What follows from a seed is up to the server. Each completion is asked for with a seed of its own,
made of the run's seed, the step and its place; where the server honours it, and its kernels do not
depend on what else is in the batch, the same is sampled again. So a run that is stopped and resumed
is the same run in law, but an exact resume, bit for bit, cannot be promised.

That the server samples from the policy and from nothing else is told by the logprobs: in PPO by the
first minibatch's ratio, in `sample` runs by a few completions of each policy (`_check`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from trainer.config import ConfigError
from trainer.data import Encoder
from trainer.engine import PREFIX, plain_passes
from trainer.metrics import TrainingError
from trainer.models import save_model
from trainer.ppo_math import masked_mean
from trainer.rollout import Rollout, Sampled, completion_logprobs
from trainer.rollout_server import Client, ServerSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.run import Run

# How a server is told to load the directory: paths and bodies of requests, one after the other.
# SGLang drops its cached prefixes with the old weights, vLLM is asked to.
LOADS: Final[dict[str, Callable[[str], list[tuple[str, dict[str, Any]]]]]] = {
    "sglang": lambda directory: [("/update_weights_from_disk", {"model_path": directory})],
    "vllm": lambda directory: [
        ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": directory}}),
        ("/reset_prefix_cache", {}),
    ],
}
# The policy's own distribution, whatever the server's defaults or its generation_config.json say.
PLAIN: Final[dict[str, Any]] = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
CHECKED: Final = 8  # completions of a policy, where PPO does not check them all
AWAY: Final = 0.03  # nats a token that their logprobs may be off on average; bfloat16 made 0.003
TOKEN_ID: Final = "token_id:"  # before the id, where tokens are told as ids in the logprobs


class ServerEngine:
    """Samples on one server; exact and policies as in trainer.engine.engine_for."""

    def __init__(
        self, run: Run, settings: ServerSettings, *, exact: bool, policies: int = 1
    ) -> None:
        self.exact = exact
        self.name = f"the server {settings.url}"
        self.ratio_tolerance = settings.ratio_tolerance or None
        self._processes = run.processes
        self._client = Client(settings)
        self._model, program = self._served(settings.model)
        self._way = settings.weights or program
        if self._way not in (*LOADS, "none"):
            raise ConfigError(
                f"{self.name} does not say that it is SGLang or vLLM: set {PREFIX}WEIGHTS to "
                "sglang or vllm for the way in which it is given weights, or to none"
            )
        if exact and self._way == "none":
            raise ConfigError(f"{PREFIX}WEIGHTS: PPO needs a server that is given new weights")
        if policies > 1 and self._way == "none":
            raise ConfigError(
                f"{self.name} is given no weights ({PREFIX}WEIGHTS is none), so that it can "
                f"sample from one policy only, and the requests name {policies}"
            )
        self.versions = {"rollout server": program or "unknown"}
        self._folder = Path(settings.folder or run.directory) / f"rollout-{run.directory.name}"
        self._uses = 0
        if self._processes.main:
            shutil.rmtree(self._folder, ignore_errors=True)  # of a run that was killed
            print(f"completions are sampled by {self.name}, model {self._model}", flush=True)

    def _served(self, wanted: str) -> tuple[str, str]:
        """(the server's name of its model, what program it says it is)."""
        answer = self._client.ask("GET", "/v1/models")
        try:
            served = {str(one["id"]): str(one.get("owned_by", "")) for one in answer["data"]}
        except (TypeError, KeyError, AttributeError):
            raise TrainingError(f"{self.name} lists no models at /v1/models") from None
        name = wanted or next(iter(served), "")
        if name not in served or (not wanted and len(served) > 1):
            listed = ", ".join(served) or "none"
            raise ConfigError(f"{PREFIX}MODEL: {self.name} has {listed}; name one of them")
        return name, served[name]

    def use(
        self, policy: PreTrainedModel, encoder: Encoder, passes: nn.Module | None = None
    ) -> None:
        """Give the server these weights and wait until it has them. Raises TrainingError."""
        self._passes, self._encoder = passes or plain_passes(policy), encoder
        self._tokens: int = policy.get_input_embeddings().num_embeddings  # type: ignore[assignment]
        self._checked = self.exact
        self._uses += 1
        if self._way == "none":
            return
        policy = self._processes.whole(policy)
        if self._processes.main:
            # Under a new name each time: a program may keep what it read under an old one.
            directory = self._folder.resolve() / f"policy-{self._uses}"
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                save_model(directory, policy, encoder.tokenizer)
                for path, body in LOADS[self._way](str(directory)):
                    self._client.ask("POST", path, body)
            finally:
                shutil.rmtree(self._folder)
        self._processes.wait()

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        n: Sequence[int] | int = 1,
        uniform: Tensor,
        temperature: float,
    ) -> list[Sampled]:
        """As trainer.rollout.sample. A completion's first two random numbers are its seed.

        A request asks for one completion, and not for n: servers differ in what a seed means for
        n of them. They keep a prompt's keys for the next request. Raises TrainingError.
        """
        counts = [n] * len(prompts) if isinstance(n, int) else list(n)
        wanted = [p for p, count in zip(prompts, counts, strict=True) for _ in range(count)]
        max_tokens = uniform.shape[1]
        bodies = [
            self._body(prompt, _seed(numbers), max_tokens, temperature)
            for prompt, numbers in zip(wanted, uniform[:, :2].tolist(), strict=True)
        ]
        answers = self._client.ask_all("/v1/completions", bodies)
        try:
            sampled = [self._read(answer, max_tokens) for answer in answers]
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise TrainingError(
                f"{self.name} answered with something that is no completion "
                f"({type(error).__name__}: {error})"
            ) from None
        if not self._checked:
            self._check(wanted, sampled, temperature)
        return sampled

    @torch.no_grad()
    def _check(
        self, prompts: Sequence[Sequence[int]], sampled: list[Sampled], temperature: float
    ) -> None:
        """Raises TrainingError where the told logprobs of a few completions are not the policy's.

        Of a server that tells none there is nothing to check.
        """
        told = [i for i, one in enumerate(sampled) if one.logprobs][:CHECKED]
        if not told:
            return
        self._checked = True
        pad = self._encoder.pad
        rollout = Rollout.of([prompts[i] for i in told], [sampled[i] for i in told], pad)
        episodes = rollout.pack(torch.arange(len(told), device=rollout.mask.device))
        own = self._passes(completion_logprobs, episodes, temperature or 1.0, pad)
        away = masked_mean((own - rollout.logprobs).abs(), rollout.mask).item()
        if away > (self.ratio_tolerance or AWAY):
            raise TrainingError(
                f"{self.name} tells logprobs that are {away:.2g} nats a token away from the "
                "policy's: does it sample from other weights, or tell them without temperature?"
            )

    def _body(
        self, prompt: Sequence[int], seed: int, max_tokens: int, temperature: float
    ) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "logit_bias": {str(self._encoder.pad): -100},  # as good as never
            "stop_token_ids": [self._encoder.eos],
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "logprobs": 0,
            **PLAIN,
        }

    def _read(self, answer: Any, max_tokens: int) -> Sampled:
        """The completion of an answer, checked. Raises TrainingError, KeyError and so on."""
        (choice,) = answer["choices"]
        reason = choice["finish_reason"]
        if reason not in ("stop", "length"):
            raise TrainingError(f"{self.name} ended a completion for the reason {reason!r}")
        logprobs = choice.get("logprobs") or {}
        ids = choice.get("token_ids") or _ids_of(logprobs.get("tokens") or [])
        eos, pad = self._encoder.eos, self._encoder.pad
        if not ids:
            if self.exact:
                raise TrainingError(
                    f"{self.name} does not say which tokens it sampled: it knows neither "
                    "return_token_ids nor return_tokens_as_token_ids, and PPO needs one of them"
                )
            (ids,) = self._encoder.text([choice["text"]])
            return Sampled(ids + [eos] * (reason == "stop"), [], reason == "stop")
        if not all(type(i) is int and 0 <= i < self._tokens for i in ids):
            raise TrainingError(f"{self.name} told ids that are no tokens of the policy")
        if pad in ids:
            raise TrainingError(f"{self.name} sampled the pad token: it ignores logit_bias")
        if len(ids) > max_tokens or eos in ids[:-1]:
            raise TrainingError(f"{self.name} goes on after end-of-text, or after max_tokens")
        finished = ids[-1] == eos
        if reason == "stop" and not finished:
            raise TrainingError(
                f"{self.name} stopped at token {ids[-1]}, and end-of-text is {eos}: its model's "
                "configuration names another, or a text to stop at"
            )
        if not finished and len(ids) < max_tokens:
            raise TrainingError(
                f"{self.name} cut a completion after {len(ids)} of {max_tokens} tokens: the "
                "context that it was started with is too short"
            )
        told = [float(value) for value in logprobs.get("token_logprobs") or []]
        if not told and not self.exact:
            return Sampled(ids, [], finished)
        if len(told) != len(ids) or not all(-math.inf < value <= 1e-4 for value in told):
            raise TrainingError(
                f"{self.name} told {len(told)} logprobs for {len(ids)} sampled tokens, or some "
                "that are none"
            )
        return Sampled(ids, told, finished)


def _seed(numbers: Sequence[float]) -> int:
    """A number of 30 bits from one or two of [0, 1)."""
    return sum(int(number * 2**15) << (15 * i) for i, number in enumerate(numbers))


def _ids_of(tokens: Sequence[str]) -> list[int]:
    """The ids of tokens that are told as token_id:123, none where they are told as text."""
    if not all(token.startswith(TOKEN_ID) for token in tokens):
        return []
    return [int(token.removeprefix(TOKEN_ID)) for token in tokens]
