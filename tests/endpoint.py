"""A real HTTP server that answers as OpenAI-compatible ones do, and badly where it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from app import sampling
from app.services.external.settings import SystemSettings

T = TypeVar("T")


def in_a_thread(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """As in the worker and the web server. In pytest's own thread Playwright has an event loop."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function, *arguments, **options).result()


def work(sampling_id: int, stopping: threading.Event | None = None) -> None:
    """What the worker does when it hears of a sampling."""
    in_a_thread(sampling.sample_system, sampling_id, stopping or threading.Event())


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What is answered instead: `hang` waits until the server ends, `cut` breaks off half way."""

    status: int = 200
    body: bytes | Mapping[str, Any] = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """What is to be answered: the last message, or the whole text."""
        return str(self.body["messages"][-1]["content"] if "messages" in self.body else self.text)

    @property
    def text(self) -> str:
        return str(self.body["prompt"])


def error(status: int, message: str, code: str = "", **headers: str) -> Reply:
    return Reply(status=status, body={"error": {"message": message, "code": code}}, headers=headers)


def chat(content: Any, reason: str = "stop", tokens: Any = 3) -> Reply:
    return Reply(
        body={
            "choices": [{"message": {"content": content}, "finish_reason": reason}],
            "usage": {"completion_tokens": tokens},
        }
    )


class Endpoint(ThreadingHTTPServer):
    """Keeps what it is asked, and answers with the next of `replies`, else what `rule` says, else
    with a completion that names the prompt and its number."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.rule: Callable[[Request], Reply | None] = lambda _: None
        self.ended = threading.Event()
        self.most_at_a_time = 0
        self._at_a_time = 0
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def settings(self, **values: Any) -> SystemSettings:
        return SystemSettings(**{"base_url": self.url, "model": "tiny", **values})

    def answered(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
            scripted = self.replies.pop(0) if self.replies else None
        reply = scripted or self.rule(request)
        if reply is not None:
            return reply
        text = f"Answer {number} to {request.prompt[:200]}"
        if request.path == "/v1/completions":
            return Reply(body={"choices": [{"text": f" {text}\n", "finish_reason": "stop"}]})
        return chat(text)

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._at_a_time += 1
            self.most_at_a_time = max(self.most_at_a_time, self._at_a_time)
        try:
            yield
        finally:
            with self._lock:
                self._at_a_time -= 1

    def handle_error(self, *_: Any) -> None:
        """Quiet: a client that goes away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path not in {"/v1/chat/completions", "/v1/completions"}:
            self._send(error(404, f"no {self.path}"))
            return
        request = Request(path=self.path, headers=dict(self.headers), body=json.loads(data))
        with self.server.counted():
            reply = self.server.answered(request)
            if reply.hang:
                self.server.ended.wait()
                return
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) + reply.cut))
        self.end_headers()
        self.wfile.write(body)
        if reply.cut:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def endpoint_server(port: int = 0) -> Iterator[Endpoint]:
    with Endpoint(port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()
