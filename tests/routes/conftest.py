"""The application over HTTP, on a real database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import Base, make_engine
from app.main import create_app
from tests import factories as make
from tests.conftest import clear_settings


@pytest.fixture(scope="module")
def app_engine(clone_database: Callable[[], str]) -> Iterator[Engine]:
    """The database that the application under test reads, one for this file."""
    url = clone_database()
    engine = make_engine(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUMBLINE_DATABASE_URL", url)
        clear_settings()
        yield engine
    clear_settings()
    engine.dispose()


@pytest.fixture
def db(app_engine: Engine) -> Iterator[Session]:
    """A session on the emptied database; what the application shall see must be committed."""
    with app_engine.begin() as connection:
        names = ", ".join(table.name for table in Base.metadata.sorted_tables)
        connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")
    with Session(app_engine) as session:
        yield session


@pytest.fixture
def client(db: Session) -> Iterator[TestClient]:  # noqa: ARG001 — the database comes first
    with TestClient(create_app()) as client:
        yield client


def sign_in(client: TestClient, username: str) -> None:
    form = {"username": username, "password": make.PASSWORD}
    response = client.post("/login", data=form, follow_redirects=False)
    assert response.status_code == 303, response.text
