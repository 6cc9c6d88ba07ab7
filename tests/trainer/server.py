"""A real OpenAI-compatible server of a tiny policy, with SGLang's way to new weights.

It loads the directories that it is told to, samples with the trainer's own loop and answers in the
format that vLLM 0.32 and SGLang 0.5 share. What it does badly it is told to do.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trainer.models import load_policy, load_tokenizer
from trainer.rollout import sample


class RolloutServer:
    """Serves `source` until it is told to load another directory."""

    def __init__(self, source: str) -> None:
        self._lock = threading.Lock()  # one request at a time reads the model
        self.key = ""
        self.owner = "sglang"
        self.token_ids: str | None = "token_ids"  # or "tokens": token_id:123; or None: text alone
        self.loads_weights = True
        self.logprob_error = 0.0  # nats, added to each
        self.failures: list[Response] = []  # answered first
        self.refuses_after = sys.maxsize  # completions
        self.loaded: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.under_way = 0
        self.most_under_way = 0
        self._load(source)
        self.app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/update_weights_from_disk", self.update, methods=["POST"]),
            ]
        )

    def _load(self, source: str) -> None:
        with self._lock:
            self.tokenizer = load_tokenizer(source)
            self.policy = load_policy(source, self.tokenizer)

    def _refusal(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "Invalid API key"}}, 401)
        return None

    async def models(self, request: Request) -> Response:
        served = {"id": "policy", "object": "model", "owned_by": self.owner}
        return self._refusal(request) or JSONResponse({"object": "list", "data": [served]})

    async def update(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        source = (await request.json())["model_path"]
        self.loaded.append(source)
        if self.loads_weights:
            try:
                await run_in_threadpool(self._load, source)
            except ValueError as error:
                return JSONResponse({"success": False, "message": str(error)}, 400)
        return JSONResponse({"success": True, "message": "Succeeded to update model weights."})

    async def completions(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        if self.failures:
            return self.failures.pop(0)
        if len(self.bodies) >= self.refuses_after:
            return JSONResponse({"error": {"message": "closed for today"}}, 400)
        body = await request.json()
        self.bodies.append(body)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return JSONResponse(await run_in_threadpool(self._complete, body))
        finally:
            self.under_way -= 1

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(body["seed"])
        (pad,) = map(int, body["logit_bias"])
        (eos,) = body["stop_token_ids"]
        with self._lock:
            (sampled,) = sample(
                self.policy,
                [body["prompt"]],
                uniform=torch.rand(1, body["max_tokens"], generator=generator),
                temperature=body["temperature"],
                eos=eos,
                pad=pad,
            )
        choice: dict[str, Any] = {
            "index": 0,
            "text": self.tokenizer.decode(sampled.ids, skip_special_tokens=True),
            "logprobs": None,
            "finish_reason": "stop" if sampled.finished else "length",
        }
        as_ids = self.token_ids == "tokens"
        if "logprobs" in body:
            choice["logprobs"] = {
                "tokens": [f"token_id:{i}" if as_ids else "text" for i in sampled.ids],
                "token_logprobs": [value - self.logprob_error for value in sampled.logprobs],
            }
        if self.token_ids == "token_ids" and body.get("return_token_ids"):
            choice["token_ids"] = sampled.ids
        return {"object": "text_completion", "model": body["model"], "choices": [choice]}


@contextmanager
def serving(source: str) -> Iterator[tuple[RolloutServer, str]]:
    """(the server, its URL): it runs in a thread, on a port of the system's choice."""
    server = RolloutServer(source)
    runner = uvicorn.Server(uvicorn.Config(server.app, port=0, log_level="warning"))
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not runner.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.02)
    try:
        yield server, f"http://127.0.0.1:{runner.servers[0].sockets[0].getsockname()[1]}"
    finally:
        runner.should_exit = True
        thread.join(timeout=30)
