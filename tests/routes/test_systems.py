"""The pages of external systems over HTTP: what is refused, and that no key is ever shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Completion, ExternalSystem, Policy, Pool, Prompt, Sampling, Split, Study
from app.services.external import samplings, systems
from tests import factories as make
from tests.endpoint import Endpoint, Reply, chat, endpoint_server, error, work
from tests.routes.conftest import sign_in

HERE = "/studies/alpha/systems"


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint_server() as server:
        yield server


@pytest.fixture
def study(db: Session, client: TestClient) -> Study:
    """Three test prompts; rosa leads the study and is signed in."""
    study = make.make_study(db, "Alpha")
    make.make_researcher(db, study, "rosa")
    for _ in range(3):
        make.make_prompt(db, study, split=Split.test)
    db.commit()
    sign_in(client, "rosa")
    return study


def form(server: Endpoint, **values: str) -> dict[str, str]:
    return {
        "name": "lab",
        "base_url": server.url,
        "model": "tiny",
        "api": "chat",
        "temperature": "1",
        "top_p": "",
        "max_tokens": "64",
        "seed": "",
        "stop": "END\n\\n\\n",
        "prefix": "",
        "key_variable": "",
        "at_a_time": "2",
        "per_minute": "",
        "timeout_seconds": "20",
        "try_prompt": "Say hello.",
        "action": "save",
        **values,
    }


def added(client: TestClient, db: Session, server: Endpoint, **values: str) -> int:
    response = client.post(f"{HERE}/new", data=form(server, **values), follow_redirects=False)
    assert response.status_code == 303, response.text
    db.rollback()
    return db.scalars(select(ExternalSystem.policy_id).order_by(ExternalSystem.policy_id)).all()[-1]


def nothing_stored(db: Session) -> bool:
    db.rollback()
    return not db.scalars(select(ExternalSystem)).all() and not db.scalars(select(Policy)).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": ""}, "Name: it is missing."),
        ({"name": "a\0b"}, "Name: holds a NUL character"),
        ({"name": "sft"}, "what the study calls a policy of its own"),
        ({"base_url": "localhost:8001"}, "Base URL: begins with http:// or https://"),
        ({"base_url": "http://me:secret@host/v1"}, "no user name or password"),
        ({"model": ""}, "Model: is missing."),
        ({"temperature": "hot"}, "Temperature: should be a valid number."),
        ({"max_tokens": "1.5"}, "Tokens at most: should be a valid integer."),
        ({"at_a_time": ""}, "Requests at a time: should be a valid integer."),
        ({"at_a_time": "99999999999999999999"}, "Requests at a time: "),
        ({"prefix": "Query: a"}, "Few-shot prefix: pair 1 is not a line"),
        ({"prefix": "x" * 32_001}, "Few-shot prefix: "),
        ({"key_variable": "HOME"}, "API key: is the name of an environment variable"),
        ({"stop": "a\nb\nc\nd\ne"}, "Stop: at most 4 texts."),
        ({"action": "try", "try_prompt": " "}, "Write a prompt to try it with."),
        ({"action": "try", "model": ""}, "Model: is missing."),
    ],
)
def test_what_is_wrong_is_said_and_what_was_typed_is_kept(
    client: TestClient,
    db: Session,
    study: Study,  # noqa: ARG001
    server: Endpoint,
    values: dict[str, str],
    words: str,
) -> None:
    response = client.post(f"{HERE}/new", data=form(server, **{"model": "kept-as-typed", **values}))
    assert response.status_code == 422
    assert words in response.text
    assert "model" in values or "kept-as-typed" in response.text
    assert nothing_stored(db)
    assert server.requests == []


def test_an_empty_form_is_refused_in_words(client: TestClient, db: Session, study: Study) -> None:
    response = client.post(f"{HERE}/new", data={})
    assert response.status_code == 422
    assert "Base URL: " in response.text
    assert nothing_stored(db)
    assert study.id


def test_a_try_stores_nothing(
    client: TestClient,
    db: Session,
    study: Study,  # noqa: ARG001
    server: Endpoint,
) -> None:
    response = client.post(f"{HERE}/new", data=form(server, action="try", name=""))
    assert response.status_code == 200
    assert "Answer 1 to Say hello." in response.text
    assert server.requests[0].body["stop"] == ["END", "\n\n"]
    server.replies = [Reply(body=b"<script>alert(1)</script>"), error(400, "<b>bold</b>")]
    for words in ("The answer is not JSON.", "&lt;b&gt;bold&lt;/b&gt;"):
        response = client.post(f"{HERE}/new", data=form(server, action="try"))
        assert response.status_code == 200
        assert words in response.text
    assert nothing_stored(db)


def test_the_key_is_on_no_page(
    client: TestClient,
    db: Session,
    study: Study,  # noqa: ARG001
    server: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = added(client, db, server, key_variable="PLUMBLINE_KEY_LAB")
    page = client.get(f"{HERE}/{number}").text
    assert "PLUMBLINE_KEY_LAB is not set where Plumbline runs" in page
    monkeypatch.setenv("PLUMBLINE_KEY_LAB", "sk-very-secret")
    server.replies = [error(401, "Incorrect API key provided: sk-very-secret")]
    tried = form(server, key_variable="PLUMBLINE_KEY_LAB", action="try")
    response = client.post(f"{HERE}/{number}/edit", data=tried)
    assert "does not take the API key (401)" in response.text
    assert server.requests[0].headers["Authorization"] == "Bearer sk-very-secret"
    client.post(f"{HERE}/{number}/sample", data={"splits": "test", "completions": "1"})
    server.rule = lambda _: error(403, "sk-very-secret may not")
    work(db.scalars(select(Sampling.id)).one())
    pages = [response.text]
    pages += [client.get(path).text for path in (HERE, f"{HERE}/{number}", f"{HERE}/{number}/edit")]
    assert "does not take the API key (403)" in pages[2]
    assert not [text for text in pages if "sk-very-secret" in text]
    db.rollback()
    for table in (ExternalSystem, Sampling, Policy):
        row = db.scalars(select(table)).one()
        assert "sk-very-secret" not in str(vars(row))


def test_sampling_is_asked_for_cancelled_and_retried(
    client: TestClient,
    db: Session,
    study: Study,  # noqa: ARG001
    server: Endpoint,
) -> None:
    number = added(client, db, server)
    here = f"{HERE}/{number}"
    for values, words in (
        ({"splits": [], "completions": "1"}, "Choose a batch, or at least one split."),
        ({"splits": ["moon"], "completions": "1"}, "Choose a batch, or at least one split."),
        ({"splits": ["test"], "completions": "many"}, "Completions a prompt: "),
        ({"splits": ["test"], "completions": "0"}, "Completions a prompt: "),
        ({"splits": ["test"], "completions": "1", "count": "-1"}, "Prompts: "),
        ({"splits": ["train"], "completions": "1"}, "No prompt that can be used"),
        ({"batch": "x", "completions": "1"}, "Batch: "),
    ):
        response = client.post(f"{here}/sample", data=values)
        assert response.status_code == 422, words
        assert words in response.text
    response = client.post(f"{here}/sample", data={"batch": "77", "completions": "1"})
    assert response.status_code == 404
    assert db.scalars(select(Sampling)).all() == []

    asked = {"splits": ["test"], "completions": "1"}
    assert client.post(f"{here}/sample", data=asked).status_code == 200
    response = client.post(f"{here}/sample", data=asked)
    assert response.status_code == 409
    assert "This system is being sampled" in response.text
    db.rollback()
    one = db.scalars(select(Sampling.id)).one()
    assert client.post(f"{here}/samplings/{one}/cancel").status_code == 200
    assert client.post(f"{here}/samplings/{one}/cancel").status_code == 409
    assert client.post(f"{here}/samplings/{one}/retry").status_code == 200
    work(one)
    assert client.post(f"{here}/samplings/{one}/retry").status_code == 409
    fragment = client.get(here, headers={"HX-Request": "true"}).text
    assert "3 of 3 completions are there." in fragment
    assert "<html" not in fragment
    response = client.post(f"{here}/sample", data=asked)
    assert (response.status_code, "There is nothing to ask for" in response.text) == (409, True)
    # What it answers with is fixed now, however the form is filled in; how it is reached is not.
    client.post(f"{here}/edit", data=form(server, temperature="2", per_minute="7"))
    assert client.post(f"{here}/remove").status_code == 409
    db.rollback()
    settings = systems.settings_of(db.scalars(select(ExternalSystem)).one())
    assert (settings.temperature, settings.per_minute) == (1.0, 7)
    assert len(db.scalars(select(Completion)).all()) == 3


def test_systems_are_of_one_study_and_for_its_researchers(
    client: TestClient, db: Session, study: Study, server: Endpoint
) -> None:
    other = make.make_study(db, "Other")
    system = systems.add_system(db, other, "theirs", server.settings())
    make.make_prompt(db, other, split=Split.test)
    choice = samplings.Choice(splits=(Split.test,))
    theirs = samplings.start_sampling(db, other, system, choice)
    make.make_labeler(db, study, "lena")
    db.commit()
    number = added(client, db, server)
    for path in (
        f"{HERE}/{system.policy_id}",
        f"{HERE}/{system.policy_id}/edit",
        f"{HERE}/{2**62}",
    ):
        assert client.get(path).status_code == 404
    for path in (
        f"{system.policy_id}/sample",
        f"{system.policy_id}/edit",
        f"{system.policy_id}/remove",
        f"{number}/samplings/{theirs.id}/cancel",
        f"{number}/samplings/{theirs.id}/retry",
    ):
        assert client.post(f"{HERE}/{path}", data=form(server)).status_code == 404, path
    assert client.get(f"{HERE}/{2**70}").status_code == 422
    sign_in(client, "lena")
    for path in (HERE, f"{HERE}/new", f"{HERE}/{number}"):
        assert client.get(path).status_code == 404
    assert client.post(f"{HERE}/new", data=form(server, action="try")).status_code == 404
    assert server.requests == []
    assert len(db.scalars(select(Prompt)).all()) == 4


def test_a_systems_completions_are_judged_blind(
    client: TestClient, db: Session, study: Study, server: Endpoint
) -> None:
    """Through the pages: two systems sampled, a blind evaluation, its win rates."""
    server.rule = lambda asked: chat(f"{len(server.requests)} rivers, by {asked.body['model']}"[:9])
    for name in ("zz-plain", "zz-prompted"):
        number = added(client, db, server, name=name, model=f"{name}-model", prefix="Be kind.")
        client.post(f"{HERE}/{number}/sample", data={"splits": "test", "completions": "1"})
        work(db.scalars(select(Sampling.id).order_by(Sampling.id)).all()[-1])
    db.rollback()
    policies = db.scalars(select(Policy.id)).all()
    new = "/studies/alpha/batches/new/ranking"
    assert "zz-prompted" in client.get(new).text
    batch = {
        "name": "blind",
        "policies": [str(policy_id) for policy_id in policies],
        "k_min": "2",
        "k_max": "2",
        "count": "",
        "labels": "1",
        "audience": "heldout",
        "lease_minutes": "60",
        "priority": "0",
    }
    response = client.post(new, data=batch, follow_redirects=False)
    assert response.status_code == 303, response.text
    judge = make.make_labeler(db, study, "lena", pool=Pool.heldout)
    db.commit()
    sign_in(client, "lena")
    page = client.get("/label/alpha").text
    assert " rivers" in page
    for secret in ("zz-", server.url, "tiny", "Be kind.", "temperature"):
        assert secret not in page
    for _ in range(3):
        make.give_label(db, judge)
    db.commit()
    sign_in(client, "rosa")
    page = client.get(response.headers["location"]).text
    assert "Who is preferred" in page
    assert "zz-prompted" in page
