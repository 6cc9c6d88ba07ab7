"""The server that samples rollouts: where it is, and requests to it, with patience.

Where rollouts are sampled is a property of the host that trains, as the launcher is, and not of a
run: it stands in that host's environment, in variables that begin with PLUMBLINE_ROLLOUT_. The key
is there too, under a name that no researcher can have sent elsewhere (docs/external.md).
"""

from __future__ import annotations

import difflib
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final, Self, get_type_hints
from urllib.parse import urlsplit

import httpx

from trainer.checkpoint import Checkpoints, StopRequestedError
from trainer.config import ConfigError
from trainer.engine import PREFIX
from trainer.metrics import TrainingError

DELAYS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0)  # seconds before one more try
NAP: Final = 0.25  # seconds until a wait looks whether the run shall stop
LATER: Final = (408, 409, 425, 429)
SHOWN: Final = 300  # characters of what a server says about an error
WAYS: Final = ("", "sglang", "vllm", "none")  # of giving it weights


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """PLUMBLINE_ROLLOUT_URL and so on: a field's name in capitals, after the prefix."""

    url: str  # without /v1
    key: str = field(default="", repr=False)  # sent as a bearer token
    model: str = ""  # the server's name of the model; empty: the one that it lists
    weights: str = ""  # how it is given weights, one of WAYS; empty: as it says what it is
    folder: str = ""  # where policies are written for it to read; empty: in the run directory
    at_once: int = 64  # requests of one process
    seconds: float = 1800.0  # for a completion or for new weights, all tries together
    ratio_tolerance: float = 0.0  # of PPO's first ratio; 0: as without a server

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number
            sound = False
        if not sound or not self.url.isascii() or any(c in self.url for c in " ?#@"):
            raise ConfigError(
                f"{PREFIX}URL: begins with http:// or https:// and names a host, without a user, "
                "a password, or anything behind a ? or #"
            )
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            raise ConfigError(f"{PREFIX}KEY: holds characters that no key has")
        if self.weights not in WAYS:
            raise ConfigError(f"{PREFIX}WEIGHTS: {self.weights!r} is none of sglang, vllm, none")
        for name, low in (("at_once", 1), ("seconds", 1), ("ratio_tolerance", 0)):
            if not low <= getattr(self, name) < math.inf:
                raise ConfigError(f"{PREFIX}{name.upper()}: {getattr(self, name)} is below {low}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Raises ConfigError for a value that cannot be, for a name that is none, for no URL."""
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith(PREFIX) or not text.strip():
                continue
            name = variable.removeprefix(PREFIX).lower()
            if name not in hints:
                close = difflib.get_close_matches(name, hints, 1)
                hint = f"; did you mean {PREFIX}{close[0].upper()}?" if close else ""
                raise ConfigError(f"there is no setting {variable}{hint}")
            try:
                values[name] = hints[name](text.strip())
            except ValueError:
                raise ConfigError(f"{variable}: {text!r} is no number") from None
        if "url" not in values:
            given = ", ".join(PREFIX + name.upper() for name in values)
            raise ConfigError(f"{PREFIX}URL is missing: it names the server that {given} is for")
        url = values["url"].rstrip("/").removesuffix("/v1")
        return cls(**{**values, "url": url})


class _Later(Exception):
    """It may answer later; `wait` seconds where it named a time."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class Client:
    """One server. Only the address that was named is asked: redirects are not followed, and the
    environment's proxies are not used.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._given_up = threading.Event()
        headers = {"User-Agent": "Plumbline"}
        if settings.key:
            headers["Authorization"] = f"Bearer {settings.key}"
        self._http = httpx.Client(
            headers=headers,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=settings.at_once),
        )

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer's JSON, None of an empty answer.

        Failures that may pass (429, 5xx, no connection) are tried again, later and later. Raises
        TrainingError when that is no use, with what the server says; StopRequestedError when
        SIGTERM came to the run, which does not wait for a server that fails.
        """
        end = time.monotonic() + self.settings.seconds
        for tries, delay in enumerate((*DELAYS, math.inf), 1):
            try:
                return self._ask_once(method, path, body, end - time.monotonic())
            except _Later as problem:
                pause = max(delay, problem.wait)
                if time.monotonic() + pause >= end or not self._wait(pause):
                    often = "once" if tries == 1 else f"{tries} times"
                    raise TrainingError(f"{problem}. Tried {often}") from None
        raise AssertionError("the last delay is endless")

    def _wait(self, seconds: float) -> bool:
        """Whether to try again, after so many seconds. Raises StopRequestedError."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if Checkpoints.stop:
                raise StopRequestedError(
                    f"stopped while the rollout server {self.settings.url} failed; goes on from "
                    "the last checkpoint"
                )
            if self._given_up.wait(min(left, NAP)):
                return False
        return True

    def ask_all(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The answers to all bodies, in their order; at most `at_once` are under way at a time.

        Raises TrainingError or StopRequestedError, as `ask`, as soon as one has no answer and
        those under way are through.
        """
        with ThreadPoolExecutor(self.settings.at_once) as pool:
            asked = [pool.submit(self.ask, "POST", path, body) for body in bodies]
            done, waiting = wait(asked, return_when=FIRST_EXCEPTION)
            if waiting:
                self._given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)
            failed = next((future for future in done if future.exception()), None)
            return [failed.result()] if failed else [future.result() for future in asked]

    def _ask_once(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Any:
        server = f"the rollout server {self.settings.url}"
        try:
            response = self._http.request(
                method, self.settings.url + path, json=body, timeout=seconds
            )
        except httpx.ConnectError as error:
            raise _Later(f"no connection to {server} ({self._said(str(error))})") from None
        except httpx.TimeoutException:
            raise _Later(f"{server} did not answer {path} in {seconds:.0f} seconds") from None
        except httpx.HTTPError as error:
            reason = self._said(str(error)) or type(error).__name__
            raise _Later(f"the connection to {server} broke off ({reason})") from None
        if not response.is_success:
            self._refuse(server, path, response)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            raise TrainingError(
                f"{server} answered {path} with something that is no JSON"
            ) from None

    def _refuse(self, server: str, path: str, response: httpx.Response) -> None:
        status = response.status_code
        said = self._said(_message(response))
        why = f": it says {said!r}" if said else ""
        if status in (401, 403):
            doing = f"does not take the key in {PREFIX}KEY" if self.settings.key else "wants a key"
            raise TrainingError(f"{server} {doing} ({status}){why}")
        if 300 <= status < 400:
            raise TrainingError(f"{server} leads elsewhere ({status}), which is not followed")
        if status in LATER or (status >= 500 and status != 501):
            raise _Later(f"{server} failed at {path} ({status}){why}", _retry_after(response))
        raise TrainingError(f"{server} refuses {path} ({status}){why}")

    def _said(self, text: str) -> str:
        """Others' words on one line, short, and without the key."""
        if self.settings.key:
            text = text.replace(self.settings.key, "…")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _message(response: httpx.Response) -> str:
    """The words of an error, wherever servers put them."""
    try:
        found = json.loads(response.text)
    except ValueError:
        return "" if response.text.lstrip()[:1] == "<" else response.text
    for name in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(name):
            part = found[name]
            return str(part.get("message") or part) if isinstance(part, dict) else str(part)
    return ""


def _retry_after(response: httpx.Response) -> float:
    """Seconds of a Retry-After header, 0 for none; a date there is not read."""
    try:
        seconds = float(response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
