"""The bundled servers, each test on real ones in a home of its own."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from app.bundled.postgres import _server_user
from app.config import Settings
from app.embedded import embedded_services, reach_services, redis_client_url
from app.home import AlreadyRunningError, ServiceError, running_instance

HOLD = """
import sys, time
from pathlib import Path
from app.config import Settings
from app.embedded import embedded_services
import app.processes
if sys.argv[2:] == ["watchdog"]:
    app.processes._libc = None
settings = Settings(home=Path(sys.argv[1]), database_url=None, redis_url=None)
with embedded_services(settings, address="http://127.0.0.1:8000") as services:
    print(services.urls.database_url, services.urls.redis_url, flush=True)
    time.sleep(600)
"""


def settings_of(home: Path) -> Settings:
    return Settings(home=home, database_url=None, redis_url=None)


def hold(home: Path, *options: str) -> tuple[subprocess.Popen[str], str, str]:
    """Another process that runs the services of `home`, and their two URLs."""
    command = [sys.executable, "-c", HOLD, str(home), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    database_url, redis_url = process.stdout.readline().split()
    return process, database_url, redis_url


def processes_of(home: Path) -> list[psutil.Process]:
    """The processes that work in `home` or name it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            named = " ".join([*process.cmdline(), process.cwd(), *process.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
        if str(home) in named:
            found.append(process)
    return found


def soon(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether the condition holds within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_data_survives_a_restart_in_a_path_with_spaces_and_signs(tmp_path: Path) -> None:
    home = tmp_path / 'it\'s an "odd" home, 100%'
    with embedded_services(settings_of(home)) as services:
        with psycopg.connect(services.urls.database_url) as connection:
            connection.execute("CREATE TABLE kept (word text)")
            connection.execute("INSERT INTO kept VALUES ('Ünïcode')")
        with redis.Redis.from_url(redis_client_url(services.urls.redis_url)) as client:
            assert client.ping()
    assert processes_of(home) == []
    with (
        embedded_services(settings_of(home)) as services,
        psycopg.connect(services.urls.database_url) as connection,
    ):
        assert connection.execute("SELECT word FROM kept").fetchall() == [("Ünïcode",)]
        assert connection.info.parameter_status("server_encoding") == "UTF8"


def test_only_this_user_may_look_in(tmp_path: Path) -> None:
    with embedded_services(settings_of(tmp_path / "home")) as services:
        home = tmp_path / "home"
        assert mode(home / "pg" / "password") == 0o600
        assert mode(home / "pg" / "data") == mode(home / "sockets") == 0o700
        assert mode(home / "plumbline.lock") == 0o600
        password = (home / "pg" / "password").read_text().strip()
        wrong = services.urls.database_url.replace(password, "guess")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        postgres = next(server for server in services.servers if server.name == "PostgreSQL")
        assert postgres.child is not None
        listening = psutil.Process(postgres.child.pid).net_connections("inet")
        assert listening == []


def test_a_home_too_deep_for_a_socket_keeps_its_sockets_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 30)
    with embedded_services(settings_of(home)) as services:
        elsewhere = (home / "sockets").resolve()
        assert not elsewhere.is_relative_to(home)
        assert mode(elsewhere) == 0o700
        with psycopg.connect(services.urls.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not elsewhere.exists()
    assert not (home / "sockets").is_symlink()


def test_a_second_start_in_the_same_home_says_who_is_there(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    process, database_url, _ = hold(tmp_path / "home")
    try:
        expected = rf"already running in .*home/ \(pid {process.pid}, http://127.0.0.1:8000\)"
        with (
            pytest.raises(AlreadyRunningError, match=expected),
            embedded_services(settings),
        ):
            pass
        with reach_services(settings) as urls:  # a command beside it uses its services
            assert urls.database_url == database_url
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert soon(lambda: processes_of(tmp_path / "home") == [])
    assert running_instance(settings) is None


@pytest.mark.parametrize("tie", ["kernel", "watchdog"])
def test_a_killed_parent_leaves_nothing_running_and_no_data_behind(
    tmp_path: Path, tie: str
) -> None:
    home = tmp_path / "home"
    process, database_url, _ = hold(home, tie)
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    assert len(processes_of(home)) > 2
    process.kill()
    # The next start does not wait for the old servers to be gone: it settles that by itself.
    with embedded_services(settings_of(home)) as services:
        with psycopg.connect(services.urls.database_url) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        with redis.Redis.from_url(redis_client_url(services.urls.redis_url)) as client:
            assert client.ping()
    process.wait()
    process.stdout.close()
    assert soon(lambda: processes_of(home) == [])


def test_a_pid_file_of_a_crash_whose_pid_is_another_process_now(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with embedded_services(settings_of(home)) as services:
        postgres = next(server for server in services.servers if server.name == "PostgreSQL")
        assert postgres.child is not None
        pid_file = (home / "pg" / "data" / "postmaster.pid").read_text()
        postgres.child.stop(signal.SIGKILL)  # a crash: the pid file stays, recovery is needed
    stale = str(os.getpid()) + pid_file[pid_file.index("\n") :]
    (home / "pg" / "data" / "postmaster.pid").write_text(stale)
    with (
        embedded_services(settings_of(home)) as services,
        psycopg.connect(services.urls.database_url) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert "not properly shut down" in (home / "logs" / "postgres.log").read_text()


def test_an_interrupted_first_start_does_not_count(tmp_path: Path) -> None:
    half = tmp_path / "home" / "pg" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with (
        embedded_services(settings_of(tmp_path / "home")) as services,
        psycopg.connect(services.urls.database_url) as connection,
    ):
        assert connection.execute("SELECT current_database()").fetchone() == ("plumbline",)
    assert not half.exists()


def test_data_of_another_version_is_refused_with_a_way_out(tmp_path: Path) -> None:
    data = tmp_path / "home" / "pg" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("17\n")
    with (
        pytest.raises(ServiceError, match=r"made by PostgreSQL 17.*is 18\. .*pg_dump"),
        embedded_services(settings_of(tmp_path / "home")),
    ):
        pass
    assert processes_of(tmp_path / "home") == []


def refuse_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = tmp_path / "bin" / "unshare"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", str(refusing.parent), prepend=os.pathsep)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")
def test_root_without_user_namespaces_runs_postgresql_as_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_namespaces(tmp_path, monkeypatch)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)  # which nobody else may enter
    process, database_url, _ = hold(home)
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    postmaster = int((home / "pg" / "data" / "postmaster.pid").read_text().split()[0])
    assert psutil.Process(postmaster).uids().effective == 65534
    process.kill()
    process.wait()
    process.stdout.close()
    assert soon(lambda: processes_of(home) == [])
    monkeypatch.undo()  # the same data under the other way of starting
    with (
        embedded_services(settings_of(home)) as services,
        psycopg.connect(services.urls.database_url) as connection,
    ):
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")
def test_nobody_may_run_what_lies_in_a_folder_of_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a checkout in root's home: initdb asks whether it may before it runs the server."""
    refuse_namespaces(tmp_path, monkeypatch)
    program = tmp_path / "private" / "program"
    program.parent.mkdir(mode=0o700)
    program.touch(mode=0o755)
    asks = "import os, sys; print(os.geteuid(), os.access(sys.argv[1], os.R_OK | os.X_OK))"
    command = [*_server_user().prefix, sys.executable, "-c", asks, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["65534", "True"]


def test_with_both_urls_set_nothing_bundled_starts(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path / "home", database_url="postgresql://db/x", redis_url="redis://r/0"
    )
    with embedded_services(settings) as services:
        assert services.servers == []
        assert services.urls.database_url == "postgresql://db/x"
        assert services.urls.redis_url == "redis://r/0"
    assert not (tmp_path / "home" / "pg").exists()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ServiceError, match=r"cannot be written.*PLUMBLINE_HOME"),
        embedded_services(settings_of(tmp_path / "file" / "home")),
    ):
        pass


def test_a_socket_url_in_both_spellings() -> None:
    assert redis_client_url("redis+socket:///a%20b/v.sock?virtual_host=0") == (
        "unix:///a%20b/v.sock?db=0"
    )
    assert redis_client_url("redis://host:6379/3") == "redis://host:6379/3"
