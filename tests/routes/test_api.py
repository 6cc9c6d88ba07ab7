"""The public API: what opens it, and a study's data in and out through it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app import background
from app.models import (
    ApiToken,
    Demonstration,
    Export,
    Membership,
    PiiState,
    Prompt,
    Ranking,
    Role,
    Study,
    TokenScope,
    Upload,
    User,
)
from app.services import api_tokens, people
from tests import factories as make
from tests.routes.conftest import sign_in

HERE = "/api/v1/studies/alpha"


@pytest.fixture
def study(db: Session) -> Study:
    study = make.make_study(db, "Alpha")
    make.make_researcher(db, study, "rosa")
    make.make_study(db, "Beta")
    db.commit()
    return study


@pytest.fixture
def token(db: Session, study: Study) -> Any:
    """Makes tokens of rosa: `token("write")` is what a request sends with it."""

    def make_token(scope: str = "read", days: int | None = 30) -> dict[str, str]:
        rosa = db.scalars(select(User).where(User.username == "rosa")).one()
        _, plain = api_tokens.make_token(
            db, study, rosa, name="a program", scope=TokenScope(scope), days=days
        )
        db.commit()
        return {"Authorization": f"Bearer {plain}"}

    return make_token


def test_only_a_good_token_opens_it(client: TestClient, db: Session, token: Any) -> None:
    good = token()
    assert client.get(HERE, headers=good).json()["slug"] == "alpha"
    assert [s["slug"] for s in client.get("/api/v1/studies", headers=good).json()] == ["alpha"]
    assert client.get("/api/v1/studies/beta", headers=good).status_code == 404

    for headers in ({}, {"Authorization": "Bearer plumb_x"}, {"Authorization": "Basic eDp5"}):
        response = client.get(HERE, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in response.json()["detail"]

    stored = db.scalars(select(ApiToken)).one()
    assert stored.last_used_at is not None
    assert stored.token_hash not in good["Authorization"]
    stored.expires_at = func.now() - timedelta(seconds=1)
    db.commit()
    assert client.get(HERE, headers=good).status_code == 401

    forever = token(days=None)
    assert client.get(HERE, headers=forever).status_code == 200
    newest = db.scalars(select(ApiToken).order_by(ApiToken.id.desc()).limit(1)).one()
    newest.revoked_at = func.now()
    db.commit()
    assert client.get(HERE, headers=forever).status_code == 401


def test_a_token_is_as_good_as_its_maker(client: TestClient, db: Session, token: Any) -> None:
    good = token()
    db.execute(update(Membership).values(role=Role.reviewer))
    db.commit()
    assert client.get(HERE, headers=good).status_code == 401
    db.execute(update(User).values(administrator=True))
    db.commit()
    assert client.get(HERE, headers=good).status_code == 200
    db.execute(update(User).values(active=False))
    db.commit()
    assert client.get(HERE, headers=good).status_code == 401


def test_cookies_open_no_api_and_tokens_no_page(client: TestClient, token: Any) -> None:
    headers = token("write")
    assert client.get("/studies/alpha/prompts", headers=headers).url.path == "/login"
    sign_in(client, "rosa")
    assert client.get("/studies/alpha/prompts").status_code == 200
    assert client.get(HERE).status_code == 401
    assert client.post(f"{HERE}/exports", json={"kind": "sft"}).status_code == 401


def test_reading_tokens_do_not_write(client: TestClient, token: Any) -> None:
    reads = token("read")
    for method, path, options in (
        ("POST", "/imports/prompts", {"content": b"{}"}),
        ("POST", "/batches", {"json": {"name": "x", "count": 1}}),
        ("POST", "/exports", {"json": {"kind": "sft"}}),
        ("DELETE", "/exports/1", {}),
        ("DELETE", "/imports/1", {}),
    ):
        response = client.request(method, HERE + path, headers=reads, **options)
        assert (response.status_code, response.json()["detail"]) == (
            403,
            "This token may only read.",
        )


def test_prompts_in_and_out_by_the_page(client: TestClient, db: Session, token: Any) -> None:
    writes = token("write")
    lines = [{"prompt": f"Prompt {i}: say it.", "prompt_id": f"p{i}"} for i in range(5)]
    body = "\n".join(json.dumps(line) for line in lines)
    report = client.post(f"{HERE}/imports/prompts?name=five.jsonl", headers=writes, content=body)
    assert (report.status_code, report.json()["state"]) == (202, "queued")
    here = f"{HERE}/imports/{report.json()['id']}"
    background.import_upload(report.json()["id"])
    done = client.get(here, headers=writes).json()
    assert (done["state"], done["rows_done"], done["problems"]) == ("imported", 5, [])
    assert (done["report"]["read"], done["report"]["stored"]) == (5, 5)
    assert done["sentences"]

    found: list[str] = []
    cursor = ""
    for size in (2, 2, 1):
        page = client.get(f"{HERE}/prompts?limit=2&after={cursor}", headers=writes).json()
        assert len(page["items"]) == size
        found += [prompt["external_id"] for prompt in page["items"]]
        cursor = page["next"]
    assert found == ["p0", "p1", "p2", "p3", "p4"]
    assert cursor is None
    first = db.scalars(select(Prompt).order_by(Prompt.id).limit(1)).one()
    first.pii_state = PiiState.held
    db.commit()
    usable = client.get(f"{HERE}/prompts?usable=true", headers=writes).json()["items"]
    assert [prompt["external_id"] for prompt in usable] == ["p1", "p2", "p3", "p4"]
    assert not client.get(f"{HERE}/prompts", headers=writes).json()["items"][0]["usable"]
    assert client.get(f"{HERE}/prompts?after=x", headers=writes).status_code == 422

    broken = client.post(f"{HERE}/imports/prompts", headers=writes, content=b'{"prompt": \n')
    assert broken.status_code == 422
    assert "line 1: broken JSON" in broken.json()["detail"]
    assert client.post(f"{HERE}/imports/prompts", headers=writes).status_code == 422
    assert client.post(f"{HERE}/imports/other", headers=writes, content=b"x").status_code == 422
    assert client.get(f"{HERE}/imports/999", headers=writes).status_code == 404


def test_columns_are_named(client: TestClient, db: Session, token: Any) -> None:
    writes = token("write")
    body = b"Prompt,Context,user,a=b\nNot this.,Name a bird.,ann,7\n"

    def sent(kind: str, *columns: str) -> Any:
        params = {"name": "p.csv", "column": list(columns)}
        return client.post(f"{HERE}/imports/{kind}", headers=writes, params=params, content=body)

    for columns, words in {
        ("context",): "'context' is not of the form NAME=MEANING",
        ("contxt=prompt",): "no column 'contxt' in the first rows; the columns are: prompt, cont",
        ("context=promt",): "'promt' is no column of prompts",
        ("context=prompt", "prompt=prompt"): "Two columns are to be prompt",
    }.items():
        refused = sent("prompts", *columns)
        assert (refused.status_code, words in refused.json()["detail"]) == (422, True), refused.text
    assert db.scalar(select(func.count()).select_from(Upload)) == 0

    # What is said goes before the guess, which was that the column Prompt holds it.
    taken = sent("prompts", "Context=prompt", "user=", "a=b=prompt_id")
    assert taken.status_code == 202, taken.text
    background.import_upload(taken.json()["id"])
    prompt = db.scalars(select(Prompt)).one()
    assert (prompt.text, prompt.external_id) == ("Name a bird.", "7")
    report = client.get(f"{HERE}/imports/{taken.json()['id']}", headers=writes).json()["report"]
    assert report["own_users"] == 1  # ann is nobody


def test_labels_are_imported_and_what_is_refused_later_says_why(
    client: TestClient, db: Session, token: Any
) -> None:
    writes = token("write")

    def imported(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        body = "\n".join(json.dumps(row) for row in rows)
        asked = client.post(f"{HERE}/imports/{kind}", headers=writes, content=body)
        assert asked.status_code == 202, asked.text
        background.import_upload(asked.json()["id"])
        found: dict[str, Any] = client.get(
            f"{HERE}/imports/{asked.json()['id']}", headers=writes
        ).json()
        return found

    demonstrated = imported("demonstrations", [{"instruction": "Name a bird.", "output": "A tit."}])
    compared = imported(
        "comparisons", [{"prompt": "Name a tool.", "chosen": "A saw.", "rejected": "A sea."}]
    )
    ranked = imported(
        "rankings",
        [{"prompt": "Name a metal.", "completions": ["Tin.", "Ten."], "groups": [[0], [1]]}],
    )
    for found in (demonstrated, compared, ranked):
        assert (found["state"], found["report"]["stored"]) == ("imported", 1)
    assert len(db.scalars(select(Demonstration)).all()) == 1
    assert len(db.scalars(select(Ranking)).all()) == 2

    rows = [{"prompt": f"Prompt {i}."} for i in range(20)]
    refused = imported("prompts", [*rows, {"prompt": 5}])
    assert (refused["state"], refused["report"]) == ("refused", None)
    assert "line 21" in refused["problems"][0]
    assert db.scalar(select(func.count()).select_from(Prompt)) == 3


def test_from_a_batch_to_the_snapshots_files(
    client: TestClient, db: Session, study: Study, token: Any
) -> None:
    writes = token("write")
    make.make_prompt(db, study)
    ann = make.make_labeler(db, study)
    db.commit()
    batch = client.post(f"{HERE}/batches", headers=writes, json={"name": "first", "count": 1})
    assert batch.status_code == 201, batch.text
    assert (batch.json()["labels_wanted"], batch.json()["finished"]) == (1, False)
    make.give_label(db, ann, {"text": "Done."})
    db.commit()
    one = client.get(f"{HERE}/batches/{batch.json()['id']}", headers=writes).json()
    assert (one["labels_done"], one["finished"]) == (1, True)
    assert client.get(f"{HERE}/batches", headers=writes).json() == [one]

    asked = client.post(f"{HERE}/exports", headers=writes, json={"kind": "sft", "freeze": True})
    assert (asked.status_code, asked.json()["state"]) == (202, "queued")
    here = f"{HERE}/exports/{asked.json()['id']}"
    assert client.get(f"{here}/files/manifest.json", headers=writes).status_code == 404
    background.make_export(asked.json()["id"])
    ready = client.get(here, headers=writes).json()
    assert (ready["state"], ready["rows"]) == ("ready", 1)
    assert ready["files"][0] == "manifest.json"
    assert "parquet/train.parquet" in ready["files"]
    row = client.get(f"{here}/files/jsonl/train.jsonl", headers=writes).json()
    assert row["completion"] == "Done."
    snapshot = client.get(f"{HERE}/snapshots/{ready['snapshot_id']}", headers=writes).json()
    assert (snapshot["records"], snapshot["withdrawn_since"]) == (1, 0)
    assert client.get(f"{HERE}/snapshots", headers=writes).json() == [snapshot]
    assert client.get(f"{HERE}/exports", headers=writes).json() == [ready]
    assert ready["manifest"]["left_out"] == {}
    assert client.delete(here, headers=writes).status_code == 204
    assert client.get(here, headers=writes).status_code == 404

    db.scalars(select(Prompt)).one().pii_state = PiiState.held
    db.commit()
    asked = client.post(f"{HERE}/exports", headers=writes, json={"kind": "sft", "freeze": True})
    background.make_export(asked.json()["id"])
    ready = client.get(f"{HERE}/exports/{asked.json()['id']}", headers=writes).json()
    # What did not enter the snapshot that was made for it is left out of the export.
    assert (ready["rows"], ready["manifest"]["left_out"]) == (0, {"held": 1})


def test_refusals_are_json_with_the_reason(client: TestClient, db: Session, token: Any) -> None:
    writes = token("write")
    for path, body, words in (
        ("exports", {"kind": "all"}, "kind"),
        ("exports", {"kind": "sft", "extra": 1}, "extra"),
        ("exports", {"kind": "labeler"}, "Name the labeler"),
        ("exports", {"kind": "labeler", "labeler": "nobody"}, "no account nobody"),
        ("exports", {"kind": "sft", "snapshot_id": 5}, "no such snapshot"),
        ("batches", {"name": "x"}, "either count or prompts"),
        ("batches", {"name": "x", "count": 9}, "prompts"),
        ("batches", {"name": "x", "prompts": [10**30]}, "too large"),
        ("exports", {"kind": "sft", "snapshot_id": 2**70}, "too large"),
        ("exports", {"kind": "prompt", "prompt_id": 10**30}, "too large"),
        ("exports", {"kind": "labeler", "labeler": "a\0b"}, "NUL character"),
    ):
        response = client.post(f"{HERE}/{path}", headers=writes, json=body)
        assert response.status_code in {404, 422}, (path, body)
        assert words in response.json()["detail"], response.text
    assert db.scalar(select(func.count()).select_from(Export)) == 0
    assert "detail" in client.get("/api/v1/nothing", headers=writes).json()


def test_an_import_is_taken_back(client: TestClient, db: Session, token: Any) -> None:
    writes = token("write")
    addresses = []
    for _ in range(2):
        sent = client.post(f"{HERE}/imports/prompts", headers=writes, content=b'{"prompt": "1?"}')
        background.import_upload(sent.json()["id"])
        addresses.append(f"{HERE}/imports/{sent.json()['id']}")
    first, again = addresses
    refused = client.delete(again, headers=writes)
    assert (refused.status_code, "Nothing of" in refused.json()["detail"]) == (409, True)

    batch = client.post(f"{HERE}/batches", headers=writes, json={"name": "x", "count": 1})
    assert batch.status_code == 201, batch.text
    refused = client.delete(first, headers=writes)
    assert (refused.status_code, "cannot be undone" in refused.json()["detail"]) == (409, True)
    assert client.delete(f"{HERE}/imports/999", headers=writes).status_code == 404

    sent = client.post(f"{HERE}/imports/prompts", headers=writes, content=b'{"prompt": "2?"}')
    background.import_upload(sent.json()["id"])
    here = f"{HERE}/imports/{sent.json()['id']}"
    assert client.get(here, headers=writes).json()["undone_at"] is None
    assert client.delete(here, headers=writes).status_code == 204
    assert client.get(here, headers=writes).json()["undone_at"]
    assert db.scalars(select(Prompt.text)).all() == ["1?"]
    assert client.delete(here, headers=writes).status_code == 409  # it was undone


def test_a_files_name_is_kept_without_what_would_mislead(
    client: TestClient, db: Session, token: Any
) -> None:
    for sent, kept in (
        ("../../etc/a%00b.jsonl", "ab.jsonl"),
        ("invoice%E2%80%AEgpj.csv", "invoicegpj.csv"),
        ("a%0Ab", "ab"),
        ("", "file"),
    ):
        address = f"{HERE}/imports/prompts?name={sent}"
        response = client.post(address, headers=token("write"), content=b'{"prompt": "1?"}')
        assert response.status_code == 202, response.text
        assert response.json()["file_name"] == kept
    assert db.scalar(select(func.count()).select_from(Prompt)) == 0  # a worker will


def test_the_document_and_its_page(client: TestClient, db: Session) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert "/studies/{slug}/exports" in document["paths"]
    page = client.get("/api/docs").text
    for path in document["paths"]:
        assert f"/api/v1{path}" in page
    assert "https://" not in page
    assert people.installation_is_empty(db)  # it asks for nobody


@pytest.mark.usefixtures("study")
def test_tokens_are_made_shown_once_and_revoked_on_a_page(client: TestClient, db: Session) -> None:
    sign_in(client, "rosa")
    form = {"name": "nightly", "scope": "read", "days": "30"}
    page = client.post("/studies/alpha/api/tokens", data=form)
    plain = page.text.partition('id="token">')[2].partition("<")[0]
    headers = {"Authorization": f"Bearer {plain}"}
    assert client.get(HERE, headers=headers).status_code == 200
    again = client.get("/studies/alpha/api").text
    assert plain not in again
    assert plain[:10] in again
    for wrong in ({"name": " "}, {"scope": "all"}, {"days": "0"}):
        assert client.post("/studies/alpha/api/tokens", data={**form, **wrong}).status_code == 422
    identity = db.scalars(select(ApiToken.id)).one()
    client.post(f"/studies/alpha/api/tokens/{identity}/revoke")
    assert client.get(HERE, headers=headers).status_code == 401
