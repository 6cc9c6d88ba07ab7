"""Engine, Base, and the one commit point.

A request's session commits in `get_session`, before the response leaves. What is to be sent to
Celery waits in the session's outbox until that commit, and is dropped with a rollback. A message
that is lost after the commit is harmless: rows are the queue, and the sweep looks again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any

from fastapi import Depends
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import BigInteger, DateTime, Engine, Identity, MetaData, create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app.config import get_settings, sqlalchemy_url

OUTBOX = "plumbline.outbox"
CONNECTIONS = 30  # of one process at most
IDLE_CONNECTIONS = 10  # that stay open


class Base(DeclarativeBase):
    """The base of every table. Names of constraints are fixed, so that migrations can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: DateTime(timezone=True), int: BigInteger()}  # noqa: RUF012


Id = Annotated[int, mapped_column(BigInteger, Identity(), primary_key=True)]
CreatedAt = Annotated[datetime, mapped_column(server_default=func.now())]


class HasId:
    id: Mapped[Id]


def make_engine(url: str, **options: Any) -> Engine:
    """An engine on the database's own clock and UTC, with connections checked before use."""
    return create_engine(
        sqlalchemy_url(url),
        pool_pre_ping=True,
        connect_args={"options": "-c timezone=UTC -c jit=off"},
        **options,
    )


@lru_cache(maxsize=1)
def get_engine() -> Engine:
    """The process's engine. Raises RuntimeError when no database URL is set."""
    url = get_settings().database_url
    if url is None:
        raise RuntimeError(
            "PLUMBLINE_DATABASE_URL is not set; `plumbline up` starts the bundled database"
        )
    return make_engine(url, pool_size=IDLE_CONNECTIONS, max_overflow=CONNECTIONS - IDLE_CONNECTIONS)


def enqueue(session: Session, task: str, *args: int) -> None:
    """Send `app.tasks.<task>` to Celery once this session has committed. Ids only."""
    session.info.setdefault(OUTBOX, []).append((task, args))


def _send_outbox(session: Session) -> None:
    messages = session.info.pop(OUTBOX, [])
    if not messages:
        return
    from app.worker import send  # Celery is imported by the first request that needs it

    for task, args in dict.fromkeys(messages):
        send(task, args)


@contextmanager
def task_session(engine: Engine | None = None) -> Iterator[Session]:
    """A transaction for tasks and commands: commits at the end, rolls back on any error."""
    with Session(engine or get_engine(), expire_on_commit=False) as session:
        try:
            yield session
        except BaseException:
            _give_up(session)
            raise
        _finish(session)


def _finish(session: Session) -> None:
    """Commit, send what waits for it, and give the connection back."""
    try:
        session.commit()
    except BaseException:
        _give_up(session)
        raise
    session.close()
    _send_outbox(session)


def _give_up(session: Session) -> None:
    session.info.pop(OUTBOX, None)
    session.close()  # rolls back


async def get_session() -> AsyncIterator[Session]:
    """The request's session. Use as `Depends(get_session, scope="function")`, see DbSession.

    A session connects when it is first used, which is in a thread; so does what ends it.
    """
    session = Session(get_engine(), expire_on_commit=False)
    try:
        yield session
    except BaseException:
        await run_in_threadpool(_give_up, session)
        raise
    await run_in_threadpool(_finish, session)


# scope="function": the default scope would send the 200 before a commit that may still fail.
DbSession = Annotated[Session, Depends(get_session, scope="function")]
