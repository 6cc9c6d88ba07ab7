"""Simulated labelers at work: they sign in, take the next task, and post the forms that people use.

Everything goes over HTTP through the running application; there is no side door.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.simulation.accounts import Account
from app.simulation.labeler import SimulatedLabeler
from app.simulation.pages import LabelPage, read_page
from app.simulation.utility import judge_prompt

READING_WORDS_A_SECOND = 4.0  # what a simulated labeler claims as its active time
IDLE_SECONDS = 0.5  # between two looks for work
NEW_PROMPTS = 20  # tries to write a prompt that nobody has written


class WorkforceError(RuntimeError):
    """A simulated labeler was refused. The message says where and why."""


@dataclass
class Workforce:
    """Labelers of one study, each in a thread of its own. `labels` counts what they submitted."""

    url: str
    study: str
    accounts: Sequence[Account]
    labels: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def work(self, stop: threading.Event, *, until_idle: bool = False) -> None:
        """Label until `stop` is set or, with `until_idle`, until nobody finds any work.

        Raises WorkforceError if a labeler is refused; the others stop too.
        """
        idle = _Idle(len(self.accounts)) if until_idle else None
        with ThreadPoolExecutor(len(self.accounts), "labeler") as pool:
            for future in [pool.submit(self._labeler, a, stop, idle) for a in self.accounts]:
                future.result()

    def _labeler(self, account: Account, stop: threading.Event, idle: _Idle | None) -> None:
        try:
            with httpx.Client(base_url=self.url, follow_redirects=True, timeout=30) as client:
                _sign_in(client, account)
                self._shift(client, SimulatedLabeler(account.seed), stop, idle)
        except WorkforceError:
            stop.set()  # the others go home too
            raise
        except httpx.TransportError as error:
            if not stop.is_set():  # while everything is being stopped, nobody answers
                raise WorkforceError(f"{self.url} does not answer: {error}") from error
        finally:
            if idle is not None:
                idle.leave()

    def _shift(
        self,
        client: httpx.Client,
        labeler: SimulatedLabeler,
        stop: threading.Event,
        idle: _Idle | None,
    ) -> None:
        response = client.get(f"/label/{self.study}")
        while not stop.is_set():
            page = read_page(_checked(response).text)
            if page.kind:
                if idle is not None:
                    idle.busy()
                # Submitting answers with the next task, as it does for a person.
                response = _submit(client, page, labeler)
                with self._lock:
                    self.labels += 1
                continue
            if page.guidelines:
                read = {"version": page.guidelines_version}
                response = _send(client, "POST", page.guidelines, data=read)
                continue
            if idle is not None and idle.everybody():
                return
            stop.wait(IDLE_SECONDS)
            response = _send(client, "GET", f"/label/{self.study}")


class _Idle:
    """Whether every labeler has looked for work since the last label and found none."""

    def __init__(self, labelers: int) -> None:
        self._lock = threading.Lock()
        self._labelers = labelers
        self._idle: set[int] = set()

    def busy(self) -> None:
        with self._lock:
            self._idle.clear()

    def leave(self) -> None:
        with self._lock:
            self._labelers -= 1

    def everybody(self) -> bool:
        with self._lock:
            self._idle.add(threading.get_ident())
            return len(self._idle) >= self._labelers


def _send(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """Send a request, once more if the server had closed the idle connection meanwhile.

    A second submit of the same form changes nothing, so that repeating it is safe.
    """
    try:
        return client.request(method, path, **options)
    except httpx.RemoteProtocolError:
        return client.request(method, path, **options)


def _submit(client: httpx.Client, page: LabelPage, labeler: SimulatedLabeler) -> httpx.Response:
    """Send the filled form; a prompt that the study has already is written anew, as people do."""
    for attempt in range(NEW_PROMPTS if page.kind == "prompt" else 1):
        response = _send(client, "POST", page.action, data=fill_form(page, labeler, attempt))
        if response.status_code != httpx.codes.UNPROCESSABLE_ENTITY:
            break
    return response


def _checked(response: httpx.Response) -> httpx.Response:
    if response.status_code >= 400:
        raise WorkforceError(
            f"{response.request.method} {response.request.url.path}: {response.status_code}"
        )
    return response


def _sign_in(client: httpx.Client, account: Account) -> None:
    response = client.post(
        "/login", data={"username": account.username, "password": account.password, "next": "/"}
    )
    _checked(response)


def fill_form(page: LabelPage, labeler: SimulatedLabeler, attempt: int = 0) -> dict[str, str]:
    """The form as the labeler fills it in; only fields that the page has."""
    if page.kind == "prompt":
        fields = _write_prompt(page, labeler, attempt)
        return {**fields, "active_seconds": _seconds(*fields.values())}
    if page.kind == "demonstration":
        text = labeler.demonstrate(page.prompt)
        return {"text": text, "active_seconds": _seconds(page.prompt, text)}
    letters = sorted(page.completions)
    texts = [page.completions[letter] for letter in letters]
    fields = {"active_seconds": _seconds(page.prompt, *texts)}
    for tier, group in enumerate(labeler.rank(page.prompt, texts), 1):
        for index in group:
            fields[f"tier_{letters[index]}"] = str(tier)
    for question, answer in judge_prompt(page.prompt).items():
        fields[f"prompt_{question}"] = "yes" if answer else "no"
    for letter, text in zip(letters, texts, strict=True):
        rating = labeler.rate(page.prompt, text)
        fields[f"overall_{letter}"] = str(rating.overall)
        for name, value in rating.metadata.items():
            if value is not None:
                fields[f"{name}_{letter}"] = "yes" if value else "no"
    return {name: value for name, value in fields.items() if name in page.fields}


def _write_prompt(page: LabelPage, labeler: SimulatedLabeler, attempt: int) -> dict[str, str]:
    """A prompt in the style that the page's fields ask for; another one for another attempt."""
    if "prompt_text" in page.fields:
        prompt = labeler.write_prompt(page.action, attempt)
        return {"prompt_text": prompt.text, "use_case": prompt.use_case}
    examples, query = labeler.write_examples(page.action, attempt)
    fields = {"instruction": "Do what the query asks.", "final_query": query}
    for place, (example, response) in enumerate(examples, 1):
        fields |= {f"query_{place}": example, f"response_{place}": response}
    return fields


def _seconds(*texts: str) -> str:
    return f"{sum(len(text.split()) for text in texts) / READING_WORDS_A_SECOND:.1f}"
