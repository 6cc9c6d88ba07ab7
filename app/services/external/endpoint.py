"""One request to an OpenAI-compatible endpoint: a prompt goes out, a completion or a reason back.

Only the address that was named is asked: redirects are not followed, proxies of the environment
are not used, and an answer is read up to MAX_BYTES.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from app.config import get_settings
from app.errors import DomainError
from app.services.external.keys import KeyProblem, key_for
from app.services.external.settings import Api, SystemSettings
from app.services.importing import columns
from app.services.importing.problems import RowProblem

MAX_BYTES: Final = 4_000_000  # of an answer
SHOWN: Final = 300  # characters of what an endpoint says about an error
OF_THE_KEY: Final = (401, 403)
LATER: Final = (408, 409, 425, 429)


class EndpointProblem(DomainError):
    """There is no completion; the message says why. The subclasses say what to do about it."""

    status = 422


class Refused(EndpointProblem):
    """The endpoint as a whole cannot be used like this: a wrong key, address or model."""


class Busy(EndpointProblem):
    """It may answer later: it is overloaded, broken, silent or not there. `retry_after` seconds
    where it named a time. `of_prompt`: it may also be this prompt that it cannot cope with."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, of_prompt: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.of_prompt = of_prompt


class Unusable(EndpointProblem):
    """It answered this prompt with something that is no completion, and would again."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    text: str
    finish_reason: str | None  # "length" where it was cut off
    tokens: int | None  # as the endpoint counted them


def client() -> httpx.AsyncClient:
    """For requests to one endpoint."""
    return httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=None)


def try_prompt(settings: SystemSettings, prompt: str, *, seconds: float) -> Answer:
    """Ask once, in a thread without an event loop. Raises EndpointProblem."""

    async def once() -> Answer:
        async with client() as http:
            return await ask(http, settings, prompt, seconds=seconds)

    return asyncio.run(once())


async def ask(
    http: httpx.AsyncClient,
    settings: SystemSettings,
    prompt: str,
    *,
    sample_index: int = 0,
    seconds: float | None = None,
) -> Answer:
    """The system's completion of the prompt. Raises EndpointProblem.

    With a seed, the k-th completion of a prompt is asked for with seed + k, so that they differ.
    """
    try:
        key = key_for(settings.key_variable, settings.base_url)
    except KeyProblem as problem:
        raise Refused(str(problem)) from None
    path = "chat/completions" if settings.api is Api.chat else "completions"
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    limit = seconds or settings.timeout_seconds
    try:
        async with (
            asyncio.timeout(limit),
            http.stream(
                "POST",
                f"{settings.base_url}/{path}",
                json=request_body(settings, prompt, sample_index),
                headers={**headers, "User-Agent": "Plumbline"},
            ) as response,
        ):
            data = await _read(response)
    except TimeoutError:
        raise Busy(f"No answer within {limit:.0f} seconds.", of_prompt=True) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError):
        raise Refused(f"{settings.base_url} is no address that can be asked.") from None
    except httpx.ConnectError as error:
        raise Busy(f"No connection to {settings.base_url} ({_said(str(error), key)}).") from None
    except httpx.HTTPError as error:
        reason = _said(str(error), key) or type(error).__name__
        raise Busy(f"The connection broke off ({reason}).", of_prompt=True) from None
    if not response.is_success:
        raise _problem(response, data, key)
    return read_answer(settings.api, data)


def request_body(settings: SystemSettings, prompt: str, sample_index: int = 0) -> dict[str, Any]:
    """What is sent; a setting that is None is left out."""
    seed = None if settings.seed is None else (settings.seed + sample_index) % 2**31
    optional = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
        "stop": settings.stops or None,
        "seed": seed,
    }
    body: dict[str, Any] = {"model": settings.model}
    if settings.api is Api.chat:
        body["messages"] = settings.parts.messages(prompt)
    else:
        body["prompt"] = settings.parts.before(prompt)
    return body | {name: value for name, value in optional.items() if value is not None}


async def _read(response: httpx.Response) -> bytes:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise Unusable("The endpoint answered in a compressed form that was not asked for.")
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > MAX_BYTES:
            raise Unusable(f"The answer is larger than {MAX_BYTES:,} bytes.")
    return bytes(data)


def _problem(response: httpx.Response, data: bytes, key: str | None) -> EndpointProblem:
    status = response.status_code
    code, message = _error_of(data)
    said = _said(message, key)
    why = f" It says: {said}" if said else ""
    if status in OF_THE_KEY:
        doing = "does not take the API key" if key else "wants an API key"
        return Refused(f"The endpoint {doing} ({status}).{why}")
    if status == 404:
        return Refused(f"There is no such address or no such model there (404).{why}")
    if 300 <= status < 400:
        return Refused(
            f"The endpoint leads elsewhere ({status}), which is not followed: "
            "give the address that answers."
        )
    if status in (402, 405, 410, 501) or code == "insufficient_quota":
        return Refused(f"The endpoint refuses ({status}).{why}")
    if status in LATER:
        wait = _retry_after(response.headers.get("retry-after"))
        words = "has had too many requests" if status == 429 else "asks to try again later"
        return Busy(f"The endpoint {words} ({status}).{why}", retry_after=wait)
    if status >= 500:
        wait = _retry_after(response.headers.get("retry-after"))
        return Busy(f"The endpoint is broken ({status}).{why}", retry_after=wait, of_prompt=True)
    return Unusable(f"The endpoint does not take this prompt ({status}).{why}")


def _error_of(data: bytes) -> tuple[str, str]:
    """The code and words of an error, as far as it has some."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return "", "" if data.lstrip()[:1] == b"<" else data[: 4 * SHOWN].decode(errors="replace")
    for name in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(name):
            part = found[name]
            if isinstance(part, dict):
                return str(part.get("code") or ""), str(part.get("message") or "")
            return "", str(part)
    return "", ""


def _said(text: str, key: str | None) -> str:
    """Others' words on one line, short, without the key and without what cannot be stored."""
    if key:
        text = text.replace(key, "…")
    plain = "".join(c if c.isprintable() else " " for c in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= SHOWN else plain[:SHOWN] + "…"


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which may also be a date; None for no or a broken one."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def read_answer(api: Api, data: bytes) -> Answer:
    """The completion in an answer, without white space around it. Raises Unusable.

    White space at its ends would tell policies apart on a labeler's screen.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Unusable("The answer is not JSON.") from None
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unusable('The answer has no "choices", as such endpoints give.')
    choice = choices[0]
    holder: Any = choice.get("message") if api is Api.chat else choice
    name = "content" if api is Api.chat else "text"
    text = holder.get(name) if isinstance(holder, dict) else None
    if text is None and isinstance(holder, dict) and name in holder:
        text = ""  # a refusal or a call of a tool comes without text
    if not isinstance(text, str):
        raise Unusable(f'The answer\'s first choice has no text in "{name}".')
    reason = choice.get("finish_reason")
    text = text.strip()
    if not text:
        filtered = reason == "content_filter"
        raise Unusable(
            "The endpoint's filter left nothing of the answer." if filtered else "It said nothing."
        )
    limit = get_settings().max_prompt_characters
    if len(text) > limit:
        raise Unusable(f"The answer has {len(text):,} characters; at most {limit:,} are taken.")
    try:
        columns.storable("The answer", text)
    except RowProblem as problem:
        raise Unusable(f"{problem}.") from None
    known = isinstance(reason, str) and reason.isascii() and reason.isprintable()
    return Answer(
        text=text, finish_reason=str(reason)[:40] if known else None, tokens=_tokens(found)
    )


def _tokens(found: Mapping[str, Any]) -> int | None:
    usage = found.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if not isinstance(count, int) or isinstance(count, bool):
        return None
    return count if 0 <= count < 2**31 else None
