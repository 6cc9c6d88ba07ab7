"""Services that tests share. Every test that asks for one is marked `services` by itself.

By default a bundled PostgreSQL and Valkey run in a temporary home for the length of the session.
With PLUMBLINE_TEST_DATABASE_URL and PLUMBLINE_TEST_REDIS_URL those servers are used instead:
databases with unique names are made and dropped there, and one empty Redis database is borrowed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.orm import Session

from app.config import Settings, get_settings, sqlalchemy_url
from app.db import get_engine, make_engine
from app.embedded import Urls, embedded_services, redis_client_url
from app.migrate import migrate
from app.supervisor import Supervisor

# Before a test module imports what reads them: tests reach no model hub, and nothing of the
# person's own installation.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
for _name in [name for name in os.environ if name.startswith("PLUMBLINE_")]:
    if not _name.startswith(("PLUMBLINE_TEST_", "PLUMBLINE_CHROMIUM", "PLUMBLINE_DATA")):
        del os.environ[_name]


NO_CHROMIUM = "no Chromium: apt-get install chromium, or name one with PLUMBLINE_CHROMIUM"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if "services" in names:
            item.add_marker(pytest.mark.services)
        if "browser" in names:
            item.add_marker(pytest.mark.browser)


def clear_settings() -> None:
    """Forget what was read from the environment."""
    get_settings.cache_clear()
    get_engine.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The session's PLUMBLINE_HOME: no test writes into the real one."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUMBLINE_HOME", str(folder))
        clear_settings()
        yield folder
    clear_settings()


@pytest.fixture(scope="session")
def services(home: Path) -> Iterator[Urls]:
    """A PostgreSQL server (any database of it) and a Redis database of one's own."""
    database_url = os.environ.get("PLUMBLINE_TEST_DATABASE_URL")
    redis_url = os.environ.get("PLUMBLINE_TEST_REDIS_URL")
    settings = Settings(home=home, database_url=database_url, redis_url=redis_url)
    with embedded_services(settings) as running:
        urls = running.urls
        if redis_url is None:
            yield urls
        else:
            with _borrowed_redis(redis_url) as borrowed:
                yield Urls(database_url=urls.database_url, redis_url=borrowed)


@contextmanager
def _borrowed_redis(url: str) -> Iterator[str]:
    """The highest of the server's 16 databases that is empty; emptied again at the end."""
    base = url.split("?")[0].rstrip("/")
    if base.rpartition("/")[2].isdigit():
        base = base.rpartition("/")[0]
    for number in range(15, 0, -1):
        with redis.Redis.from_url(f"{base}/{number}") as client:
            mine = client.set("plumbline:test", os.getpid(), nx=True, ex=86_400)
            if mine and client.dbsize() == 1:
                try:
                    yield f"{base}/{number}"
                finally:
                    client.flushdb()
                return
            if mine:
                client.delete("plumbline:test")
    raise RuntimeError(f"{url}: none of its databases 1 to 15 is empty")


@pytest.fixture(scope="session")
def clone_database(services: Urls) -> Iterator[Callable[[], str]]:
    """Makes migrated databases: the migrations run once, every further one is a copy on disk."""
    server = make_url(sqlalchemy_url(services.database_url))
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def create(template: str) -> str:
        name = f"plumbline_test_{secrets.token_hex(6)}"
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        made.append(name)
        return name

    def url(name: str) -> str:
        return server.set(database=name).render_as_string(hide_password=False)

    template = create("template0")
    migrate(url(template))
    yield lambda: url(create(template))
    with engine.connect() as connection:
        for name in made:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(scope="session")
def database_url(clone_database: Callable[[], str], services: Urls) -> Iterator[str]:
    """The session's database, migrated to head; the settings name it and the broker."""
    url = clone_database()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUMBLINE_DATABASE_URL", url)
        patch.setenv("PLUMBLINE_REDIS_URL", services.redis_url)
        clear_settings()
        yield url
    clear_settings()


@pytest.fixture(scope="session")
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on the session's database, for `session`. Commit nothing through it."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session whose commits end at a savepoint: all of it is rolled back after the test."""
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(
            connection, join_transaction_mode="create_savepoint", expire_on_commit=False
        ) as session:
            yield session
        transaction.rollback()


@pytest.fixture
def fresh_database(clone_database: Callable[[], str]) -> str:
    """The URL of a migrated database of one's own: for real commits, several sessions, servers."""
    return clone_database()


@pytest.fixture
def fresh_engine(fresh_database: str) -> Iterator[Engine]:
    """An engine on `fresh_database`."""
    engine = make_engine(fresh_database)
    yield engine
    engine.dispose()


@pytest.fixture
def broker(services: Urls) -> Iterator[str]:
    """The broker's URL, without messages of an earlier test."""
    with redis.Redis.from_url(redis_client_url(services.redis_url)) as client:
        client.flushdb()
        yield services.redis_url
        client.flushdb()


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def live_server(fresh_database: str, broker: str, tmp_path: Path) -> Iterator[Supervisor]:
    """A whole installation on `fresh_database`: web server at `.url`, both workers, the sweep."""
    settings = Settings(
        home=tmp_path / "home", database_url=fresh_database, redis_url=broker, port=free_port()
    )
    with Supervisor(settings) as supervisor:
        yield supervisor


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, object]:
    """How pytest-playwright's `browser`, `context` and `page` start Chromium."""
    if chromium() is None:
        pytest.skip(NO_CHROMIUM)
    return chromium_options()


def chromium() -> str | None:
    """The Chromium of this machine."""
    names = [os.environ.get("PLUMBLINE_CHROMIUM"), "/usr/bin/chromium", "chromium"]
    names += ["chromium-browser", "google-chrome"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def chromium_options() -> dict[str, Any]:
    """How Playwright starts it, asking nothing of the network."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    args = ["--no-sandbox", "--no-first-run", *quiet]
    return {"executable_path": chromium(), "args": args, "headless": True}
