"""Two hundred labelers ask a real server for work at the same instant, each on an own socket."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.main import create_app
from app.models import Assignment, AssignmentState, LabelTask
from app.routes.deps import COOKIE
from app.services import people
from tests import factories as make

LABELERS = 200


@pytest.fixture
def server(db: Session) -> Iterator[str]:  # noqa: ARG001 — the settings and tables come first
    config = uvicorn.Config(create_app(), port=0, log_level="warning", timeout_keep_alive=120)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not running.started:
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join(timeout=30)


async def ask(url: str, slug: str, tokens: list[str]) -> list[tuple[int, str, int]]:
    """Per labeler: status and address of the next task, and the status of the one ahead of it."""
    gate = asyncio.Barrier(len(tokens))

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:

        async def one(token: str) -> tuple[int, str, int]:
            headers = {"Cookie": f"{COOKIE}={token}"}
            await client.get("/healthz")  # its connection is open before the gate is
            await gate.wait()
            next_ = await client.get(f"/label/{slug}", headers=headers)
            ahead = await client.post(f"/label/{slug}/ahead", headers=headers)
            return next_.status_code, next_.headers.get("location", ""), ahead.status_code

        return await asyncio.gather(*(one(token) for token in tokens))


def test_two_hundred_people_two_hundred_tasks(server: str, db: Session) -> None:
    study = make.make_study(db)
    labelers = make.make_labelers(db, study, LABELERS)
    tokens = [people.sign_in(db, labeler.user) for labeler in labelers]
    make.make_demonstration_batch(db, study, 2 * LABELERS)
    db.commit()
    # In a thread of its own: Playwright's event loop may run in this one.
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(asyncio.run, ask(server, study.slug, tokens)).result()
    assert {(status, ahead) for status, _, ahead in answers} == {(303, 200)}
    assert len({address for _, address, _ in answers}) == LABELERS
    held = (
        select(Assignment.state, func.count(Assignment.label_task_id.distinct()))
        .group_by(Assignment.state)
        .order_by(Assignment.state)
    )
    assert db.execute(held).all() == [
        (AssignmentState.leased, LABELERS),
        (AssignmentState.reserved, LABELERS),
    ]
    assert db.scalars(select(LabelTask.slots_taken).distinct()).all() == [1]
