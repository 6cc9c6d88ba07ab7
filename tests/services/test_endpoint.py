"""What an endpoint is asked and what its answers mean, against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import Invalid
from app.services.external import endpoint, pacing
from app.services.external.endpoint import Busy, EndpointProblem, Refused, Unusable
from app.services.external.prefix import Prefix, read_prefix
from app.services.external.settings import system_settings
from app.services.few_shot import Pair
from tests.conftest import free_port
from tests.endpoint import Endpoint, Reply, chat, endpoint_server, error, in_a_thread

PREFIX = """Answer briefly.

Query: Name a colour.
Response: Blue

Query: Two lines,
please.
Response: One
two
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Endpoint]:
    with endpoint_server() as server:
        yield server


@pytest.fixture
def server(running: Endpoint) -> Endpoint:
    running.requests.clear()
    running.replies.clear()
    return running


def ask(server: Endpoint, prompt: str = "Say hello.", **values: Any) -> endpoint.Answer:
    return in_a_thread(endpoint.try_prompt, server.settings(**values), prompt, seconds=20)


def test_a_chat_is_asked_with_what_is_set_and_nothing_else(server: Endpoint) -> None:
    answer = ask(server, temperature=0.7, top_p=0.9, max_tokens=64, stop=("END",), seed=11)
    assert answer == endpoint.Answer(text="Answer 1 to Say hello.", finish_reason="stop", tokens=3)
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Say hello."}],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 64,
        "stop": ["END"],
        "seed": 11,
    }
    assert "Authorization" not in request.headers
    ask(server, temperature=None, max_tokens=None)
    assert server.requests[1].body.keys() == {"model", "messages"}


def test_a_prefix_is_turns_of_a_chat_or_text_before_the_prompt(server: Endpoint) -> None:
    ask(server, prefix=PREFIX)
    assert server.requests[0].body["messages"] == [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue"},
        {"role": "user", "content": "Two lines,\nplease."},
        {"role": "assistant", "content": "One\ntwo"},
        {"role": "user", "content": "Say hello."},
    ]
    answer = ask(server, prefix=PREFIX, api="completions", stop=["END"])
    assert server.requests[1].path == "/v1/completions"
    assert server.requests[1].body["prompt"] == (
        "Answer briefly.\n\nQuery: Name a colour.\nResponse: Blue\n\n"
        "Query: Two lines,\nplease.\nResponse: One\ntwo\n\nQuery: Say hello.\nResponse:"
    )
    assert server.requests[1].body["stop"] == ["END", "\nQuery:"]
    assert answer.text.startswith("Answer 2")  # without the white space around it
    assert answer.tokens is None
    ask(server, api="completions")
    assert server.requests[2].body["prompt"] == "Say hello."
    ask(server, api="completions", prefix="Be kind.")
    assert server.requests[3].body["prompt"] == "Be kind.\n\nSay hello."


def test_prefixes() -> None:
    assert read_prefix("") == Prefix(instruction="", pairs=[])
    assert read_prefix("Query: a\r\nResponse: b").pairs == [Pair(query="a", response="b")]
    assert read_prefix("Query: a\nResponse: b").before("c").startswith("Query: a\nResponse: b\n\n")
    for broken in (
        "Query: a",
        "Response: b",
        "Query: a\nQuery: b\nResponse: c",
        "Query: a\nResponse: b\nQuery: the prompt itself",
    ):
        with pytest.raises(Invalid, match=r"Pair [12] is not a line"):
            read_prefix(broken)
    with pytest.raises(Invalid, match="Pair 1 has an empty query or response"):
        read_prefix("Query: a\nResponse:  ")


TOO_LONG = "x" * 32_001
JUNK = json.dumps({"choices": [{"message": {"content": "half \\ud800"}}]}).replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (error(401, "Incorrect API key"), Refused, "wants an API key (401). It says: Incorrect"),
        (error(404, "The model x does not exist"), Refused, "no such model there (404)"),
        (error(302, "", location="http://127.0.0.1:9/"), Refused, "leads elsewhere (302)"),
        (error(429, "quota", "insufficient_quota"), Refused, "refuses (429). It says: quota"),
        (error(429, "slow down"), Busy, "too many requests (429). It says: slow down"),
        (error(500, "out of\n memory"), Busy, "broken (500). It says: out of memory"),
        (Reply(status=502, body=b"<html>bad gateway"), Busy, "The endpoint is broken (502)."),
        (Reply(body=b'{"choices": [', cut=True), Busy, "The connection broke off"),
        (error(400, "context length"), Unusable, "not take this prompt (400). It says: context"),
        (Reply(status=422, body={"detail": "no"}), Unusable, "this prompt (422). It says: no"),
        (Reply(body=b"hello"), Unusable, "not JSON"),
        (Reply(body=b"[" * 100_000), Unusable, "not JSON"),
        (Reply(body=b"\xff\xfe"), Unusable, "not JSON"),
        (Reply(body=b""), Unusable, "not JSON"),
        (Reply(body=b"[]"), Unusable, 'no "choices"'),
        (Reply(body={"choices": []}), Unusable, 'no "choices"'),
        (Reply(body={"choices": {"0": 1}}), Unusable, 'no "choices"'),
        (Reply(body={"choices": [{"message": "hi"}]}), Unusable, 'no text in "content"'),
        (chat(17), Unusable, 'no text in "content"'),
        (chat(["a"]), Unusable, 'no text in "content"'),
        (chat(None), Unusable, "It said nothing."),
        (chat(" \n "), Unusable, "It said nothing."),
        (chat("", "content_filter"), Unusable, "filter left nothing"),
        (chat(TOO_LONG), Unusable, "32,001 characters; at most 32,000"),
        (chat("a\0b"), Unusable, "NUL character"),
        (Reply(body=JUNK.encode()), Unusable, "half of a character"),
        (Reply(body=b"x" * 4_000_001), Unusable, "larger than 4,000,000 bytes"),
        (
            Reply(body=b"{}", headers={"Content-Encoding": "gzip"}),
            Unusable,
            "compressed form",
        ),
    ],
)
def test_what_is_no_answer_is_said_in_words(
    server: Endpoint, reply: Reply, kind: type[EndpointProblem], words: str
) -> None:
    server.replies = [reply]
    with pytest.raises(kind) as caught:
        ask(server)
    assert words in str(caught.value)
    assert len(server.requests) == 1  # a redirect was not followed


def test_odd_figures_beside_a_good_text_do_no_harm(server: Endpoint) -> None:
    for tokens in (None, "7", True, -1, 2**40, 1.5):
        server.replies = [chat("fine", "length", tokens)]
        answer = ask(server)
        assert (answer.tokens, answer.finish_reason) == (None, "length")
    for reason in (None, 5, "a\0", "é"):
        server.replies = [chat("fine", reason, 4)]  # type: ignore[arg-type]
        assert ask(server).finish_reason is None


def test_silence_and_nobody_there(server: Endpoint) -> None:
    server.replies = [Reply(hang=True)]
    with pytest.raises(Busy, match="No answer within 1 seconds") as caught:
        in_a_thread(endpoint.try_prompt, server.settings(), "x", seconds=1)
    assert caught.value.of_prompt
    nowhere = server.settings(base_url=f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(Busy, match="No connection to http:") as caught:
        in_a_thread(endpoint.try_prompt, nowhere, "x", seconds=5)
    assert not caught.value.of_prompt


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
    ],
)
def test_retry_after(server: Endpoint, header: str, seconds: float | None) -> None:
    server.replies = [error(429, "slow down", retry_after=header)]
    with pytest.raises(Busy) as caught:
        ask(server)
    assert caught.value.retry_after == seconds


def test_the_key_is_sent_and_never_said(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "PLUMBLINE_KEY_LAB"
    with pytest.raises(Refused, match="PLUMBLINE_KEY_LAB is not set where Plumbline runs"):
        ask(server, key_variable=variable)
    monkeypatch.setenv(variable, " sk-very-secret\n")
    ask(server, key_variable=variable)
    assert server.requests[0].headers["Authorization"] == "Bearer sk-very-secret"
    server.replies = [error(401, "Incorrect API key provided: sk-very-secret.")]
    with pytest.raises(Refused) as caught:
        ask(server, key_variable=variable)
    assert "does not take the API key (401). It says: Incorrect API key provided: …." in str(
        caught.value
    )
    monkeypatch.setenv(f"{variable}_HOST", "api.example.com")
    with pytest.raises(Refused, match="is for another host"):
        ask(server, key_variable=variable)
    monkeypatch.setenv(f"{variable}_HOST", "127.0.0.1")
    ask(server, key_variable=variable)
    monkeypatch.setenv(variable, "sk-line\nbreak")
    with pytest.raises(Refused, match="is no key") as caught:
        ask(server, key_variable=variable)
    assert "sk-line" not in str(caught.value)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"base_url": "ftp://a"}, "Base URL: begins with http"),
        ({"base_url": "http://"}, "Base URL: begins with http"),
        ({"base_url": "http://a:x/v1"}, "Base URL: begins with http"),
        ({"base_url": "http://[::1"}, "Base URL: begins with http"),
        ({"base_url": "file:///etc/passwd"}, "Base URL: begins with http"),
        ({"base_url": "http://u:p@a/v1"}, "no user name or password"),
        ({"base_url": "http://a/v1?key=1"}, "nothing behind a ?"),
        ({"base_url": "http://a/\0"}, "Base URL: begins with http"),
        ({"model": " "}, "Model: is missing"),
        ({"model": "a\0"}, "Model: holds a NUL character"),
        ({"api": "speech"}, "API: "),
        ({"temperature": "warm"}, "Temperature: "),
        ({"temperature": "nan"}, "Temperature: "),
        ({"temperature": -1}, "Temperature: "),
        ({"top_p": 0}, "Top p: "),
        ({"max_tokens": 0}, "Tokens at most: "),
        ({"stop": ["a", "b", "c", "d", "e"]}, "Stop: at most 4 texts."),
        ({"stop": [""]}, "Stop: has 1 to 100 characters"),
        ({"seed": -1}, "Seed: "),
        ({"prefix": "Query: x"}, "Few-shot prefix: pair 1 is not"),
        ({"prefix": "a\0"}, "Few-shot prefix: holds a NUL"),
        ({"prefix": "a\ud800"}, "Few-shot prefix: "),
        (
            {"prefix": PREFIX, "api": "completions", "stop": ["a", "b", "c", "d"]},
            "Stop: at most 4 texts (one is taken by the few-shot prefix).",
        ),
        ({"key_variable": "PLUMBLINE_DATABASE_URL"}, "API key: is the name of an environment"),
        ({"key_variable": "sk-123"}, "API key: is the name of an environment"),
        ({"key_variable": "PLUMBLINE_KEY_LAB_HOST"}, "API key: is the name of an environment"),
        ({"at_a_time": 0}, "Requests at a time: "),
        ({"per_minute": "many"}, "Requests a minute: "),
        ({"timeout_seconds": 0}, "Seconds to wait: "),
        ({"colour": "red"}, "colour: "),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        system_settings({"base_url": "http://127.0.0.1:8001/v1", "model": "m", **values})
    assert words in str(caught.value)


def test_settings_as_they_are_typed() -> None:
    typed = {
        "base_url": " http://localhost:8001/v1/chat/completions/ ",
        "model": " org/model ",
        "temperature": "",
        "top_p": "0.9",
        "max_tokens": " ",
        "seed": "7",
        "key_variable": "",
        "at_a_time": "3",
        "per_minute": "",
    }
    found = system_settings(typed)
    assert found.base_url == "http://localhost:8001/v1"
    assert found.model == "org/model"
    assert (found.temperature, found.top_p, found.max_tokens) == (None, 0.9, None)
    assert (found.seed, found.key_variable, found.at_a_time, found.per_minute) == (7, None, 3, None)


def test_pacing_keeps_a_rate_and_backs_off() -> None:
    pace = pacing.Pacing(30)
    assert pace.wait(100.0) <= 0
    pace.started(100.0)
    assert pace.wait(100.5) == 1.5
    # Two that were under way together fail together: one failure.
    assert pace.failed(100.0, 101.0, None)
    assert pace.failed(100.5, 101.1, None)
    assert (pace.failures, pace.paused(101.1)) == (1, pytest.approx(0.9))
    assert pace.failed(102.0, 102.5, 30.0)  # it named a time
    assert pace.wait(102.5) == 30.0
    pace.succeeded()
    assert pace.failures == 0
    assert not pace.failed(140.0, 141.0, pacing.LONGEST_WAIT + 1)


def test_pacing_gives_up_in_the_end() -> None:
    pace, now, rounds = pacing.Pacing(None), 0.0, 0
    while pace.failed(now, now + 0.1, None):
        now += 0.1 + pace.paused(now + 0.1)
        rounds += 1
    assert rounds == len(pacing.DELAYS)
    assert now == pytest.approx(sum(pacing.DELAYS) + rounds * 0.1)
