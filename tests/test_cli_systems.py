"""External systems from the terminal, with a real worker; and one that is killed on its way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from app.cli import app
from app.config import Settings
from app.models import Completion, Sampling, SamplingState, Split
from app.supervisor import Supervisor
from tests import factories as make
from tests.conftest import clear_settings, free_port
from tests.endpoint import Endpoint, Reply, Request, chat, endpoint_server, error, in_a_thread

STUDY = ("--study", "a-study")


@pytest.fixture
def run(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("PLUMBLINE_DATABASE_URL", fresh_database)
    clear_settings()
    runner = CliRunner()
    return lambda *words: in_a_thread(runner.invoke, app, [str(word) for word in words])


@pytest.fixture
def worker(fresh_database: str, broker: str, tmp_path: Path) -> Iterator[Supervisor]:
    """A whole installation, in which a silent worker is soon taken for dead."""
    settings = Settings(
        home=tmp_path / "home",
        database_url=fresh_database,
        redis_url=broker,
        port=free_port(),
        run_lease_seconds=5,
        sweep_seconds=0.5,
    )
    with Supervisor(settings) as supervisor:
        yield supervisor


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint_server() as server:
        yield server


def with_prompts(engine: Engine, count: int) -> None:
    with Session(engine) as session:
        study = make.make_study(session, "A study")
        for number in range(count):
            make.make_prompt(session, study, f"Prompt {number}.", split=Split.test)
        session.commit()


@pytest.mark.usefixtures("worker")
def test_a_system_from_the_terminal(
    run: Callable[..., Result], fresh_engine: Engine, server: Endpoint, tmp_path: Path
) -> None:
    with_prompts(fresh_engine, 3)
    assert "No external systems yet" in run("system", "list", *STUDY).output
    prefix = tmp_path / "prefix.txt"
    prefix.write_text("Be brief.\n\nQuery: a\nResponse: b\n")
    made = run(
        *("system", "add", "lab", *STUDY, "--url", server.url, "--model", "tiny"),
        *("--api", "completions", "--prefix", prefix, "--stop", "\\n\\n", "--top-p", "0.9"),
        *("--max-tokens", ""),
    )
    assert made.exit_code == 0, made.output
    assert "Added lab: /studies/a-study/systems/" in made.output
    tried = run("system", "try", "lab", *STUDY, "--prompt", "Say 1.")
    assert tried.output.startswith("Answer 1 to Be brief.")
    assert server.requests[0].body["prompt"].endswith("\n\nQuery: Say 1.\nResponse:")
    assert server.requests[0].body["stop"] == ["\n\n", "\nQuery:"]
    assert "max_tokens" not in server.requests[0].body
    assert run("system", "status", "lab", *STUDY).output == "Not sampled yet.\n"

    server.rule = lambda asked: Reply(body=b"?") if "Prompt 1." in asked.prompt else None
    done = run("system", "sample", "lab", *STUDY, "--split", "test", "-n", 2)
    assert done.exit_code == 0, done.output
    assert "Sampling 1: 2 completions each for all prompts of test." in done.stdout
    assert "finished, 4 of 6 completions are there, 2 cannot be had." in done.stdout
    assert "prompt 2: The answer is not JSON." in done.stderr
    server.rule = lambda _: None
    again = run("system", "retry", 1, *STUDY)
    assert "finished, 6 of 6 completions are there." in again.stdout
    nothing = run("system", "sample", "lab", *STUDY, "--split", "test", "-n", 2)
    assert nothing.exit_code == 0
    assert "There is nothing to ask for" in nothing.stdout
    assert "6 completions of 3 prompts, last sampling fin" in run("system", "list", *STUDY).output
    assert "Sampling 1 (2 completions each" in run("system", "status", "lab", *STUDY).output

    server.rule = lambda _: error(404, "gone")
    failed = run("system", "sample", "lab", *STUDY, "--split", "test", "-n", 3)
    assert failed.exit_code == 1
    assert "failed, 0 of 3 completions are there. There is no such address" in failed.stdout


def test_refusals_are_plain_words_and_status_1(
    run: Callable[..., Result], fresh_engine: Engine, server: Endpoint, tmp_path: Path
) -> None:
    with_prompts(fresh_engine, 1)
    system = ("system", "add", "lab", *STUDY, "--model", "tiny")
    assert run(*system, "--url", server.url).exit_code == 0
    server.replies = [chat("")]
    cases = {
        "The study has a policy named lab already": run(*system, "--url", server.url),
        "Base URL: begins with http": run(*system, "--url", "lab"),
        "Temperature: should be a valid": run(*system, "--url", server.url, "--temperature", "x"),
        "cannot be read": run(*system, "--url", server.url, "--prefix", tmp_path / "none"),
        "has no external system named x": run("system", "try", "x", *STUDY),
        "There is no study b.": run("system", "list", "--study", "b"),
        "It said nothing.": run("system", "try", "lab", *STUDY),
        "Choose a batch, or at least one split": run("system", "sample", "lab", *STUDY),
        "Splits: ": run("system", "sample", "lab", *STUDY, "--split", "moon"),
        "There is no such batch": run("system", "sample", "lab", *STUDY, "--batch", 7),
        "There is no such sampling": run("system", "cancel", 7, *STUDY),
    }
    for words, result in cases.items():
        assert result.exit_code == 1, (words, result.output)
        assert words in result.stderr
        assert "Traceback" not in result.output
    # Without a worker it waits in the queue, and can be taken back.
    queued = run("system", "sample", "lab", *STUDY, "--split", "test", "--no-wait")
    assert (queued.exit_code, queued.stdout.count("\n")) == (0, 1)
    assert "queued, 0 of 1" in run("system", "status", "lab", *STUDY).output
    assert "is cancelled" in run("system", "cancel", 1, *STUDY).output


def test_a_killed_worker_goes_on_and_samples_nothing_twice(
    run: Callable[..., Result], fresh_engine: Engine, server: Endpoint, worker: Supervisor
) -> None:
    with_prompts(fresh_engine, 12)
    reached = threading.Event()

    def rule(_: Request) -> Reply | None:
        if len(server.requests) < 7:
            return None
        reached.set()
        return Reply(hang=True)  # those that are under way when it is killed

    server.rule = rule
    added = ("--url", server.url, "--model", "tiny", "--at-a-time", 2)
    assert run("system", "add", "lab", *STUDY, *added).exit_code == 0
    run("system", "sample", "lab", *STUDY, "--split", "test", "--no-wait")
    assert reached.wait(60)
    os.kill(worker.pid_of("worker-light"), signal.SIGKILL)
    before = len(server.requests)
    server.rule = lambda _: None
    with Session(fresh_engine) as session:
        deadline = time.monotonic() + 45  # the lease is 5 s: the default, 60, would be too long
        while session.scalars(select(Sampling.state)).one() is not SamplingState.finished:
            assert time.monotonic() < deadline, "it did not go on"
            session.rollback()
            time.sleep(0.1)
        assert session.scalars(select(Sampling.attempt)).one() == 2
        counts = select(func.count(Completion.id)).group_by(Completion.prompt_id)
        assert session.scalars(counts).all() == [1] * 12
        stored = session.scalars(select(Completion.text)).all()
    assert len(set(stored)) == 12
    # Asked again only what was under way: at most two.
    assert 12 <= len(server.requests) <= 14
    assert before <= 8
