"""What a label costs the server, counted and not timed: requests and database statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.db import get_engine
from tests import factories as make
from tests.routes.conftest import sign_in


@contextmanager
def statements() -> Iterator[list[str]]:
    """The statements that the application sends meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    engine = get_engine()
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_a_label_takes_two_requests_and_27_statements(client: TestClient, db: Session) -> None:
    """Whatever the number of completions. A statement more is a millisecond for each label."""
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    make.make_ranking_batch(db, study, 3, k=9)
    db.commit()
    sign_in(client, "ada")
    address = client.get(f"/label/{study.slug}").url.path
    answers = {f"tier_{letter}": "1" for letter in "ABCDEFGHI"}
    answers |= {f"overall_{letter}": "5" for letter in "ABCDEFGHI"}
    answers |= {"prompt_ambiguous": "no", "guidelines_version": "1"}
    for _ in range(2):
        with statements() as sent:
            page = client.post(address, data=answers)
        assert [step.status_code for step in [*page.history, page]] == [303, 200]
        assert page.url.path != address
        address = page.url.path
        assert len(sent) <= 27, "\n\n".join(sent)
