"""What a person sees when a request fails: a page in words, and nothing half-written."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.main import create_app
from app.models import Membership, Study
from app.services import people
from tests import factories as make
from tests.routes.conftest import sign_in


def test_a_failed_statement_becomes_a_page_and_leaves_nothing(
    db: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make.make_study(db, "Errors")
    make.make_labeler(db, study, "edith")
    db.commit()

    def refused_by_the_database(session: Session, _user: object) -> list[Membership]:
        session.add(Study(name="half-written", slug=study.slug))  # the slug is taken
        session.flush()
        return []

    client = TestClient(create_app(), raise_server_exceptions=False)
    sign_in(client, "edith")
    monkeypatch.setattr(people, "memberships_of", refused_by_the_database)
    answer = client.get("/label")
    assert answer.status_code == 500
    assert "Something broke on our side" in answer.text
    assert "edith" in answer.text
    assert db.scalar(select(func.count()).where(Study.name == "half-written")) == 0
