"""Runs a whole installation from one process: services, schema, web server, two workers."""

from __future__ import annotations

import errno
import http.client
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from app.config import Settings
from app.embedded import Services, embedded_services, redis_client_url
from app.home import AlreadyRunningError, ServiceError, already_running, masked, running_instance
from app.processes import Child

WEB_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE, HEALTHY = 1.0, 30.0, 60.0  # seconds, of restarts


@dataclass
class _Part:
    """One process that is kept running."""

    name: str
    start: Callable[[], Child]
    grace: float  # seconds from SIGTERM to SIGKILL
    child: Child
    pause: float = FIRST_PAUSE
    due: float | None = None  # when to start it again (monotonic), None while it runs


@dataclass
class Supervisor:
    """Everything that `plumbline up` runs, from `with` to the end of its block.

    `with Supervisor(settings) as supervisor:` returns once the web server answers. A process that
    dies is started again. Leaving the block stops all in order: the web server and the workers,
    which let a running trainer save its state, then the bundled servers. Ctrl-C meanwhile hurries.
    If this process is killed, the kernel stops the rest.

    In the main thread SIGTERM and SIGHUP raise KeyboardInterrupt inside the block, as Ctrl-C does.
    Raises AlreadyRunningError or ServiceError, with nothing left running.
    """

    settings: Settings
    say: Callable[[str], None] = print
    services: Services = field(init=False)

    def __post_init__(self) -> None:
        self._parts: list[_Part] = []
        self._stack = ExitStack()
        self._stopping, self._stopped = threading.Event(), threading.Event()
        self._starting = threading.Lock()  # held to restart, so that nothing starts while stopping
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    @property
    def url(self) -> str:
        host = self.settings.host
        shown = "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.settings.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this installation needs in its environment."""
        urls = self.services.urls
        return self.settings.environment(os.environ) | {
            "PLUMBLINE_HOME": str(self.settings.home_path),
            "PLUMBLINE_DATABASE_URL": urls.database_url,
            "PLUMBLINE_REDIS_URL": urls.redis_url,
            "PYTHONUNBUFFERED": "1",
        }

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def pid_of(self, name: str) -> int:
        """The process id of "web", "worker-train" or "worker-light" as it runs now."""
        return next(part.child.pid for part in self._parts if part.name == name)

    def wait(self) -> None:
        """Wait for Ctrl-C or SIGTERM, which raise KeyboardInterrupt here."""
        threading.Event().wait()

    def stop(self) -> None:
        """Stop everything. May be called twice; a KeyboardInterrupt meanwhile makes it hurry."""
        self._stopping.set()
        try:
            self._stop_parts()
        except KeyboardInterrupt:
            self.say("Stopping at once.")
            self._stop_parts(hurry=True)
        finally:
            self._stack.close()

    def _start(self) -> None:
        self._stack.enter_context(_interruptible())
        self._stack.callback(self._end_watch)
        running = running_instance(self.settings)
        if running is not None:
            raise AlreadyRunningError(already_running(self.settings, running))
        _check_port(self.settings)
        self.services = self._stack.enter_context(
            embedded_services(self.settings, address=self.url)
        )
        # The web server loads its modules while this process loads Alembic and looks at the schema;
        # the workers wait, so that the first page does not.
        web = self._add("web", [sys.executable, "-m", "app.web"], grace=10)
        _update_schema(self.services.urls.database_url)
        if self.settings.redis_url:
            _check_broker(self.settings.redis_url)
        self._wait_for_web(web)
        # A trainer that was told to stop writes a checkpoint first.
        self._add("worker-train", _worker_command("train", "--alone"), grace=120)
        self._add("worker-light", _worker_command("light", "--beat"), grace=10)
        self._watcher.start()

    def _add(self, name: str, command: list[str], *, grace: float) -> _Part:
        log = self.settings.home_path / "logs" / f"{name}.log"

        def start() -> Child:
            # Without its supervisor it has no database either: nothing is left to finish.
            return Child(name, command, log=log, env=self.environment, death_signal=signal.SIGKILL)

        part = _Part(name, start, grace, start())
        self._parts.append(part)
        return part

    def _wait_for_web(self, web: _Part) -> None:
        deadline = time.monotonic() + WEB_SECONDS
        while not _healthy(self.settings):
            if web.child.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(
                    f"The web server does not start; see {web.child.log}:\n{web.child.log_tail()}"
                )
            time.sleep(0.02)

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            with self._starting:
                if self._stopping.is_set():
                    break
                for server in self.services.servers:
                    if server.child is not None and server.child.poll() is not None:
                        self.say(f"{server.name} stopped; starting it again. See {server.log}")
                        server.start()
                for part in self._parts:
                    self._look_after(part)
        # The kernel ends a thread's children with it: stay until all are stopped.
        self._stopped.wait()

    def _end_watch(self) -> None:
        self._stopped.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def _look_after(self, part: _Part) -> None:
        status = part.child.poll()
        now = time.monotonic()
        if status is None:
            return
        if part.due is None:
            if now - part.child.started > HEALTHY:
                part.pause = FIRST_PAUSE
            part.due = now + part.pause
            self.say(
                f"{part.name} stopped ({_status(status)}); starting it again in "
                f"{part.pause:.0f} s. See {part.child.log}"
            )
            part.pause = min(part.pause * 2, LONGEST_PAUSE)
        elif now >= part.due:
            part.due = None
            part.child = part.start()

    def _stop_parts(self, *, hurry: bool = False) -> None:
        with self._starting:
            pass  # a restart that had begun is complete
        for part in self._parts:
            part.child.signal(signal.SIGKILL if hurry else signal.SIGTERM)
        started = time.monotonic()
        for part in self._parts:
            if part.child.wait(2.0):
                continue
            self.say(f"Waiting for {part.name} to finish; Ctrl-C stops it at once.")
            if not part.child.wait(max(0.0, started + part.grace - time.monotonic())):
                part.child.stop(signal.SIGKILL)


def _worker_command(queue: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", "worker", "--queue", queue, *options]


def _check_port(settings: Settings) -> None:
    """Raises ServiceError if the port cannot be had, saying how to choose another."""
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        what = f"Port {port} on {host} is in use" if error.errno == errno.EADDRINUSE else str(error)
        other = port + 1 if port < 65535 else port - 1
        raise ServiceError(
            f'{what}. Choose another: `make up ARGS="--port {other}"` (or `make demo`), '
            f"or set PLUMBLINE_PORT={other}."
        ) from error


def _update_schema(url: str) -> None:
    from sqlalchemy.exc import OperationalError

    from app.migrate import migrate

    try:
        migrate(url)
    except OperationalError as error:
        reason = str(error.orig).strip()
        raise ServiceError(f"The database {masked(url)} cannot be used: {reason}") from error


def _check_broker(url: str) -> None:
    import redis

    try:
        with redis.Redis.from_url(redis_client_url(url), socket_connect_timeout=5) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise ServiceError(f"The broker {masked(url)} cannot be used: {error}") from error


def _healthy(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _status(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt the block as Ctrl-C does (in the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Mapping[int, signal._HANDLER] = {
        number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
