"""Exports as researchers ask for them: the page, the worker behind it, downloads, withdrawal."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import background, storage
from app.models import Export, ExportState, Snapshot, Study, User
from app.services import exports
from tests import factories as make
from tests.routes.conftest import sign_in

pytestmark = pytest.mark.usefixtures("study")

FORM = {"kind": "sft", "formats": ["jsonl"], "splits": ["train", "valid", "test"]}


@pytest.fixture
def study(db: Session) -> Study:
    """Two prompts, demonstrated by ann. rosa leads the study."""
    study = make.make_study(db, "Alpha")
    make.make_researcher(db, study, "rosa")
    make.make_demonstration_batch(db, study, 2)
    ann = make.make_labeler(db, study, "ann")
    for _ in range(2):
        make.give_label(db, ann)
    db.commit()
    return study


def only_export(db: Session) -> Export:
    db.expire_all()
    return db.scalars(select(Export).order_by(Export.id.desc()).limit(1)).one()


def test_asked_for_made_downloaded_deleted(client: TestClient, db: Session) -> None:
    sign_in(client, "rosa")
    assert "No exports yet" in client.get("/studies/alpha/exports").text
    response = client.post("/studies/alpha/exports", data=FORM, follow_redirects=False)
    assert response.status_code == 303
    page = client.get("/studies/alpha/exports")
    assert "waits for the worker" in page.text
    here = f"/studies/alpha/exports/{only_export(db).id}"
    assert client.get(f"{here}/all.zip").status_code == 404
    assert 'hx-trigger="every 2s"' in page.text

    background.make_export(only_export(db).id)
    export = only_export(db)
    assert (export.state, export.rows_done) == (ExportState.ready, 2)
    page = client.get("/studies/alpha/exports")
    assert "hx-trigger" not in page.text
    assert "Nothing was left out." in page.text
    here = f"/studies/alpha/exports/{export.id}/files"
    rows = client.get(f"{here}/jsonl/train.jsonl")
    assert rows.headers["content-disposition"].startswith("attachment")
    assert len([json.loads(line) for line in rows.text.splitlines()]) == 2
    assert client.get(f"{here}/manifest.json").json()["rows"] == 2
    archive = client.get(f"/studies/alpha/exports/{export.id}/all.zip")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as packed:
        assert packed.testzip() is None
        top = f"alpha-sft-{export.id}"
        names = ["manifest.json", "jsonl/README.md", "jsonl/train.jsonl"]
        assert packed.namelist() == [f"{top}/{name}" for name in names]
        assert packed.read(f"{top}/jsonl/train.jsonl") == rows.content
    for name in ("jsonl/../../secret", "parquet/train.parquet", "..%2f..%2fx"):
        assert client.get(f"{here}/{name}").status_code == 404

    folder = storage.local_path(str(export.uri))
    assert folder is not None
    assert folder.is_dir()
    client.post(f"/studies/alpha/exports/{export.id}/delete")
    assert not folder.exists()
    assert client.get(f"{here}/manifest.json").status_code == 404


def test_refusals_keep_the_form(client: TestClient, db: Session) -> None:
    sign_in(client, "rosa")
    for fields, words in (
        ({"kind": "labeler"}, "Name the labeler"),
        ({"kind": "labeler", "labeler": "nobody"}, "There is no account nobody."),
        ({"kind": "prompt", "prompt": "9999"}, "There is no such prompt"),
        ({"kind": "prompt", "prompt": "first"}, "named by its number"),
        ({"formats": []}, "Choose a format"),
        ({"kind": "rankings", "messages": "yes"}, "never in messages"),
        ({"freeze": "yes", "also": ["heldout"]}, "takes nothing that is usually left out"),
        ({"snapshot": "77"}, "There is no such snapshot"),
        ({"kind": "all"}, "no ExportKind"),
    ):
        response = client.post("/studies/alpha/exports", data={**FORM, **fields})
        assert response.status_code in {404, 422}, fields
        assert words in response.text, fields
    assert db.scalar(select(func.count()).select_from(Export)) == 0


def test_others_see_nothing_of_it(client: TestClient) -> None:
    sign_in(client, "ann")
    assert client.get("/studies/alpha/exports").status_code == 404
    assert client.post("/studies/alpha/exports", data=FORM).status_code == 404


def test_a_frozen_export_is_its_snapshot_and_is_marked_later(
    client: TestClient, db: Session
) -> None:
    sign_in(client, "rosa")
    client.post("/studies/alpha/exports", data={**FORM, "freeze": "yes"})
    background.make_export(only_export(db).id)
    export = only_export(db)
    snapshot = db.get_one(Snapshot, export.snapshot_id or 0)
    assert export.manifest is not None
    assert export.manifest["snapshot"] == {"id": snapshot.id, "sha256": snapshot.sha256}
    page = client.get("/studies/alpha/exports").text
    assert "customer: train 2" in page
    assert "withdrawn since" not in page

    ann = db.scalars(select(User.id).where(User.username == "ann")).one()
    response = client.post(f"/studies/alpha/people/{ann}/withdraw", follow_redirects=False)
    assert response.status_code == 303
    assert "2 withdrawn since" in client.get("/studies/alpha/exports").text
    assert "Take back in" in client.get("/studies/alpha/people").text
    client.post("/studies/alpha/exports", data={**FORM, "snapshot": str(snapshot.id)})
    background.make_export(only_export(db).id)
    again = only_export(db)
    assert again.manifest is not None
    assert (again.rows_done, again.manifest["left_out"]) == (0, {"withdrawn": 2})

    sign_in(client, "ann")
    assert client.get("/label/alpha").status_code == 403


def test_a_prompt_is_withdrawn_on_its_page(client: TestClient, db: Session, study: Study) -> None:
    prompt = make.make_prompt(db, study)
    db.commit()
    sign_in(client, "rosa")
    here = f"/studies/alpha/prompts/{prompt.id}"
    assert "Withdraw the prompt" in client.get(here).text
    client.post(f"{here}/withdraw")
    assert "Use it again" in client.get(here).text
    client.post(f"{here}/readmit")
    assert "Withdraw the prompt" in client.get(here).text


def test_the_row_is_the_queue(client: TestClient, db: Session) -> None:
    """Claimed once; taken over when its worker fell silent; given up after three of them."""
    sign_in(client, "rosa")
    client.post("/studies/alpha/exports", data=FORM)
    export = only_export(db)
    assert exports.due(db) == [export.id]
    assert exports.claim(db, export.id) == 1
    assert exports.claim(db, export.id) is None
    assert exports.due(db) == []
    for attempt in (2, 3):
        only_export(db).lease_until = func.now() - timedelta(seconds=1)
        db.flush()
        assert exports.due(db) == [export.id]
        assert exports.claim(db, export.id) == attempt
    with pytest.raises(exports.ExportGone):
        exports.beat(db, export.id, 2, 10)  # overtaken: writes nothing
    exports.beat(db, export.id, 3, 10)
    assert only_export(db).rows_done == 10
    only_export(db).lease_until = func.now() - timedelta(seconds=1)
    db.flush()
    assert exports.due(db) == []
    assert "stopped 3 times" in str(only_export(db).error)


def test_what_goes_wrong_is_said_in_words(client: TestClient, db: Session) -> None:
    """The store cannot be written: a file stands where its folder should be."""
    sign_in(client, "rosa")
    client.post("/studies/alpha/exports", data=FORM)
    root = storage.local_path(storage.artifact_url("exports"))
    assert root is not None
    blocked = root / "alpha"
    moved = root / "alpha.away"
    root.mkdir(parents=True, exist_ok=True)
    if blocked.exists():
        blocked.rename(moved)
    blocked.write_text("in the way")
    try:
        background.make_export(only_export(db).id)
    finally:
        blocked.unlink()
    export = only_export(db)
    assert export.state is ExportState.failed
    assert export.error
    assert export.error in client.get("/studies/alpha/exports").text.replace("&#39;", "'")
