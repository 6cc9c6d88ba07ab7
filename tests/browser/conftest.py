"""A live server for Chromium, on a database of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from sqlalchemy import Engine

from app.db import make_engine
from app.main import create_app
from tests.conftest import clear_settings


@pytest.fixture(scope="module")
def live_engine(clone_database: Callable[[], str]) -> Iterator[Engine]:
    """An engine on the database of the live server; commit what the browser shall see."""
    url = clone_database()
    engine = make_engine(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUMBLINE_DATABASE_URL", url)
        clear_settings()
        yield engine
    clear_settings()
    engine.dispose()


@pytest.fixture(scope="module")
def live_url(live_engine: Engine) -> Iterator[str]:  # noqa: ARG001 — the settings come first
    """The address of a server that runs in a thread on a port of the system's choice."""
    server = uvicorn.Server(uvicorn.Config(create_app(), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=30)
