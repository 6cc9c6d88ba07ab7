"""`plumbline up` as a person runs it: real processes, killed and found to be gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.config import Settings
from app.embedded import embedded_services
from app.home import ServiceError
from app.supervisor import Supervisor
from tests.conftest import free_port
from tests.test_embedded import processes_of, settings_of, soon

Up = Callable[[], "Running"]


class Running:
    """One `plumbline up`."""

    def __init__(self, home: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        # Not the services of the tests that ran before: the bundled ones.
        plain = {k: v for k, v in os.environ.items() if not k.startswith("PLUMBLINE_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "up", "--port", str(port)],
            env=plain | {"PLUMBLINE_HOME": str(home), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def children(self, words: str) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if words in " ".join(child.cmdline())]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    started: list[Running] = []

    def start() -> Running:
        started.append(Running(tmp_path / "home", free_port()))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.communicate()


def test_a_port_in_use_is_named_with_a_way_to_choose_another(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = settings_of(tmp_path / "home").model_copy(update={"port": port})
        expected = rf'Port {port} on 127.0.0.1 is in use.*ARGS="--port {port + 1}".*PLUMBLINE_PORT'
        with pytest.raises(ServiceError, match=expected), Supervisor(settings):
            pass
    assert not (tmp_path / "home" / "pg").exists()


def test_what_dies_is_started_again_and_sigterm_stops_all(up: Up, tmp_path: Path) -> None:
    running = up()
    assert running.line() == f"Plumbline is at {running.url} (Ctrl-C stops it)"
    assert running.healthy()

    second = up()
    assert f"already running in {tmp_path / 'home'}/ (pid {running.process.pid}" in second.line()
    assert second.process.wait() == 1

    running.children("app.web")[0].kill()
    assert running.line().startswith("web stopped (signal SIGKILL); starting it again in 1 s")
    assert soon(running.healthy)

    assert soon(lambda: bool(running.children("valkey-server")))
    running.children("valkey-server")[0].kill()
    assert running.line().startswith("Valkey stopped; starting it again")
    assert soon(lambda: len(running.children("valkey-server")) == 1)
    assert soon(running.healthy)

    running.process.send_signal(signal.SIGTERM)
    output, _ = running.process.communicate(timeout=60)
    assert output.splitlines()[-1] == "Stopped."
    assert running.process.returncode == 0
    assert soon(lambda: processes_of(tmp_path / "home") == [])


def test_killed_with_sigkill_it_leaves_nothing_and_starts_again(up: Up, tmp_path: Path) -> None:
    running = up()
    assert running.line().startswith("Plumbline is at")
    assert soon(lambda: len(running.children("worker")) == 2)
    running.process.kill()
    running.process.wait()
    assert soon(lambda: processes_of(tmp_path / "home") == [])

    again = up()
    assert again.line().startswith("Plumbline is at")
    assert again.healthy()


@pytest.mark.parametrize(
    ("database_url", "expected"),
    [
        ("postgresql://me:secret@127.0.0.1:1/none", r"127.0.0.1:1/none cannot be .*refused"),
        (None, r"redis://127.0.0.1:1/0 cannot be .*refused"),
    ],
)
def test_a_server_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, database_url: str | None, expected: str
) -> None:
    settings = Settings(
        home=tmp_path / "home",
        database_url=database_url,
        redis_url="redis://127.0.0.1:1/0",
        port=free_port(),
    )
    with pytest.raises(ServiceError, match=expected) as raised, Supervisor(settings):
        pass
    assert "secret" not in str(raised.value)
    assert soon(lambda: processes_of(tmp_path / "home") == [])


def test_its_processes_read_the_settings_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_SESSION_DAYS", "3")
    monkeypatch.setenv("plumbline_base_model", "gpt2")
    monkeypatch.setenv("PLUMBLINE_ROLLOUT_URL", "http://127.0.0.1:1")  # the trainer's
    given = Settings(
        home=tmp_path,
        database_url="postgresql://a/b",
        redis_url="redis://a/0",
        run_lease_seconds=7,
        sweep_seconds=0.5,
        secure_cookies=True,
        session_days=5,
        base_model=None,
    )
    supervisor = Supervisor(given)
    with embedded_services(given) as supervisor.services:  # of another's servers, so none
        environment = supervisor.environment
    assert environment["PLUMBLINE_ROLLOUT_URL"] == "http://127.0.0.1:1"
    for name in [name for name in os.environ if name.upper().startswith("PLUMBLINE_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


def test_both_workers_answer_and_the_sweep_runs(live_server: Supervisor) -> None:
    assert httpx.get(f"{live_server.url}/healthz").text == "ok\n"
    log = live_server.settings.home_path / "logs" / "worker-light.log"
    assert soon(lambda: "app.tasks.sweep" in log.read_text() and "succeeded" in log.read_text(), 60)
