"""The malformed corpus sent to the API: each file is refused in words, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app import background
from app.main import create_app
from app.models import Completion, Import, Prompt, Ranking, SourceUser, TokenScope
from app.services.api_tokens import make_token
from tests import factories as make
from tests.services.test_malformed import CORPUS

# What is not sent: files of gigabytes, which are made as they are read, and one that is good here,
# where a column `question` is taken for the prompt.
NOT_SENT = {
    "a line of 2 GB",
    "a line of 2 GB after good ones",
    "a file over the limit",
    "Parquet over the limit",
    "no column in Parquet",
}
# Where the look at the first rows says something else than the import.
OTHER_REASONS = {
    "empty": "Send the file as the body of the request",
    "a picture": "line 3: holds a NUL byte",
}


@pytest.fixture(scope="module")
def client(app_engine: Engine) -> Iterator[TestClient]:
    """One for all cases, with a token that writes: they leave nothing behind."""
    with Session(app_engine) as session:
        study = make.make_study(session, "Alpha")
        make.make_prompt(session, study, "Here.")
        rosa = make.make_researcher(session, study, "rosa")
        _, token = make_token(session, study, rosa, name="x", scope=TokenScope.write, days=1)
        session.commit()
    headers = {"Authorization": f"Bearer {token}"}
    with TestClient(create_app(), headers=headers) as client:
        yield client


def stored(engine: Engine) -> list[int]:
    tables = (Import, SourceUser, Prompt, Completion, Ranking)
    with Session(engine) as session:
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


@pytest.mark.parametrize("case", [case for case in CORPUS if case not in NOT_SENT])
def test_it_is_refused_in_words(client: TestClient, app_engine: Engine, case: str) -> None:
    kind, name, made, reason = CORPUS[case]
    data = made()
    assert isinstance(data, bytes)
    before = stored(app_engine)
    here = "/api/v1/studies/alpha/imports"
    answer = client.post(f"{here}/{kind}", params={"name": name}, content=data)
    if answer.status_code == 202:  # the first rows do not show it: the worker refuses the file
        background.import_upload(answer.json()["id"])
        answer = client.get(f"{here}/{answer.json()['id']}")
        assert answer.json()["state"] == "refused", answer.text
        said = "\n".join(answer.json()["problems"])
    else:
        assert answer.status_code == 422, answer.text
        said = answer.json()["detail"]
    assert OTHER_REASONS.get(case, reason) in said
    assert stored(app_engine) == before
