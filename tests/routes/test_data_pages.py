"""The researchers' pages of studies, prompts, imports, people and label batches, over HTTP."""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.config import get_settings
from app.db import get_session
from app.errors import DomainError
from app.main import create_app
from app.models import (
    Batch,
    Import,
    LabelKind,
    Membership,
    Pool,
    Prompt,
    Purpose,
    Role,
    Split,
    Study,
    Upload,
    UseCase,
    User,
)
from app.services import uploads
from app.services.batch_progress import batch_progress
from tests import factories as make

HTMX = {"HX-Request": "true"}


@pytest.fixture
def client(session: Session) -> Iterator[TestClient]:
    """The application on the test's own transaction, which ends a request as the real one does."""

    def test_session() -> Iterator[Session]:
        session.expire_all()
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise

    app = create_app()
    app.dependency_overrides[get_session] = test_session
    with TestClient(app) as client:
        yield client


def sign_in(client: TestClient, username: str, password: str = make.PASSWORD) -> None:
    form = {"username": username, "password": password}
    response = client.post("/login", data=form, follow_redirects=False)
    assert response.status_code == 303, response.text


@pytest.fixture
def study(session: Session, client: TestClient) -> Study:
    """A study whose researcher, rosa, is signed in."""
    study = make.make_study(session, "A <study>")
    make.make_researcher(session, study, "rosa")
    sign_in(client, "rosa")
    return study


def text_of(page: str) -> str:
    """What a reader sees, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def jsonl(*rows: dict[str, object]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


PATHS = ["", "/prompts", "/import", "/people", "/batches", "/batches/new/ranking"]


@pytest.mark.parametrize("path", PATHS)
def test_pages_open_for_the_studys_researchers_only(
    session: Session, client: TestClient, study: Study, path: str
) -> None:
    address = f"/studies/{study.slug}{path}"
    page = client.get(address)
    assert page.status_code == 200
    assert "A &lt;study&gt;" in page.text
    assert "<study>" not in page.text
    assert page.text.count('aria-current="page"') == 1

    make.make_labeler(session, study, "lena")
    make.make_researcher(session, make.make_study(session, "Another"), "otto")
    for username in ("lena", "otto"):
        sign_in(client, username)
        assert client.get(address).status_code == 404
        if path in {"/import", "/people", "/batches/new/ranking"}:
            assert client.post(address, data={}).status_code == 404
    client.post("/logout")
    assert client.get(address, follow_redirects=False).headers["location"].startswith("/login")


@pytest.mark.usefixtures("study")
def test_studies_are_listed_and_made(session: Session, client: TestClient) -> None:
    make.make_study(session, "Hidden")
    page = text_of(client.get("/studies").text)
    assert "A <study>" in page
    assert "Hidden" not in page
    form = {"name": "Second", "description": "Why", "rehearsal": "yes"}
    made = client.post("/studies", data=form, follow_redirects=False)
    assert (made.status_code, made.headers["location"]) == (303, "/studies/second")
    second = session.scalars(select(Study).where(Study.slug == "second")).one()
    assert (second.rehearsal, second.description) == (True, "Why")
    assert client.get("/studies/second").status_code == 200
    bad = client.post("/studies", data=form | {"name": " "})
    assert bad.status_code == 422
    assert "A study's name has 1 to 120 characters" in text_of(bad.text)
    assert ">\nWhy</textarea>" in bad.text
    assert re.search(r'name="rehearsal" value="yes" checked', bad.text)


def test_labelers_make_no_studies(session: Session, client: TestClient, study: Study) -> None:
    make.make_labeler(session, study, "lena")
    sign_in(client, "lena")
    assert client.get("/studies/new").status_code == 403
    assert client.post("/studies", data={"name": "Mine"}).status_code == 403
    assert "You lead no study" in text_of(client.get("/studies").text)


def test_prompts_are_searched_filtered_and_paged(
    session: Session, client: TestClient, study: Study
) -> None:
    for number in range(55):
        make.make_prompt(session, study, f"Say {number} & <stop>")
    poem = make.make_prompt(session, study, "A 100% poem", split=Split.test, external_id="p-1")
    poem.use_case = UseCase.generation
    session.flush()
    here = f"/studies/{study.slug}/prompts"

    first = client.get(here)
    assert "1–50 of 56 prompts" in text_of(first.text)
    assert "Say 0 &amp; &lt;stop&gt;" in first.text
    assert "51–56 of 56 prompts" in text_of(client.get(f"{here}?page=2").text)
    assert "51–56 of 56 prompts" in text_of(client.get(f"{here}?page=99").text)

    def found(query: str) -> str:
        return text_of(client.get(f"{here}?{query}", headers=HTMX).text)

    for query in ("q=100%25", "q=poem", "q=p-1", "split=test", "use_case=generation"):
        assert "1–1 of 1 prompt " in found(query), query
        assert "A 100% poem p-1 test generation" in found(query), query
    assert "No prompt fits" in found("q=100_")  # neither % nor _ is a wildcard
    assert "No prompt fits" in found("q=poem&split=train")
    assert "of 56 prompts" in found("split=nonsense")
    page = client.get(f"{here}?q=Say&split=train").text
    assert 'href="/studies/a-study/prompts?page=2&amp;q=Say&amp;split=train"' in page
    assert 'name="q" type="search" value="Say"' in page


def test_a_prompt_shows_its_completions_with_policy_and_score(
    session: Session, client: TestClient, study: Study
) -> None:
    prompt = make.make_prompt(session, study, "Say <b>.\n  Twice.", external_id="p-1")
    low, high, empty = make.make_completions(session, prompt, ["<i>Low</i>", "High", ""])
    low.external_score, high.external_score = 0.25, 0.75
    make.make_demonstration_batch(session, study, [prompt])
    labeler = make.make_labeler(session, study, "lena")
    make.give_label(session, labeler, {"text": "B. B."})
    assert empty.external_score is None
    page = client.get(f"/studies/{study.slug}/prompts/{prompt.id}")
    assert "Say &lt;b&gt;.\n  Twice." in page.text
    assert "&lt;i&gt;Low&lt;/i&gt;" in page.text
    seen = text_of(page.text)
    assert seen.index("policy-1 imported score 0.75") < seen.index("policy-0 imported score 0.25")
    assert "Empty: the system answered with nothing." in seen
    assert "B. B." in seen
    other = make.make_prompt(session, make.make_study(session, "Another"))
    assert client.get(f"/studies/{study.slug}/prompts/{other.id}").status_code == 404
    assert client.get(f"/studies/{study.slug}/prompts/{10**30}").status_code == 422


def upload(
    session: Session,
    client: TestClient,
    study: Study,
    kind: str,
    data: bytes,
    name: str = "f.jsonl",
    **columns: str,
) -> Response:
    """The page at the end of an import with the guessed columns, or of a file that is refused."""
    page = client.post(
        f"/studies/{study.slug}/import", data={"kind": kind}, files={"file": (name, data)}
    )
    if "/files/" not in str(page.url):
        return page
    page = client.post(f"{page.url}/start", data=columns)
    upload_id = int(str(page.url).rpartition("/")[2])
    carry_out(session, upload_id)
    return client.get(str(page.url))


def carry_out(session: Session, upload_id: int) -> None:
    """As the worker does."""
    attempt = uploads.claim(session, upload_id)
    assert attempt is not None
    try:
        with session.begin_nested():
            uploads.carry_out(session, upload_id, attempt)
    except DomainError as error:
        uploads.refuse(session, upload_id, attempt, error)


def test_a_file_is_imported_and_reported(
    session: Session, client: TestClient, study: Study
) -> None:
    data = gzip.compress(jsonl({"prompt_id": 1, "prompt": "Say 1."}, {"prompt": "Say 2."}))
    done = upload(session, client, study, "prompts", data, "prompts.jsonl.gz")
    assert done.status_code == 200
    seen = text_of(done.text)
    assert "Prompts: 2 read, 2 stored, 0 left out as duplicates" in seen
    assert (
        "Read 2 Stored 2 Duplicates, left out 0 Held for personal information 0 "
        "Over the length 0 Over a user's cap 0 Without use, left out 0 Refused 0"
    ) in seen
    again = upload(session, client, study, "prompts", data, "prompts.jsonl.gz")
    assert "Nothing new: all of it was here already." in text_of(again.text)
    completions = jsonl({"prompt_id": "1", "model": "m", "completion": "One.", "score": 0.5})
    done = upload(session, client, study, "completions", completions)
    assert "1 policies: m 1." in text_of(done.text)
    records = session.scalars(select(Import).order_by(Import.id)).all()
    assert [(r.kind, r.file_name) for r in records] == [
        ("prompts", "prompts.jsonl.gz"),
        ("completions", "f.jsonl"),
    ]
    rosa = session.scalars(select(User).where(User.username == "rosa")).one()
    assert {r.created_by for r in records} == {rosa.id}
    listed = client.get(f"/studies/{study.slug}/import").text
    report = re.search(r'href="([^"]+/files/\d+)">prompts.jsonl.gz</a>', listed)
    assert report  # found again after the page was left
    assert "Prompts: 2 read, 2 stored" in text_of(client.get(report[1]).text)


def test_an_import_is_undone_on_its_page(
    session: Session, client: TestClient, study: Study
) -> None:
    here = f"/studies/{study.slug}/import"
    row: dict[str, object] = {"prompt": "Say 1.", "chosen": "One.", "rejected": "No."}
    done = upload(session, client, study, "comparisons", jsonl(row), "pairs.jsonl")
    assert "Comparisons: 1 read, 1 stored, 0 left out as duplicates" in text_of(done.text)
    record = session.scalars(select(Import)).one()
    page = client.post(f"{here}/{record.id}/undo")
    assert page.status_code == 200
    assert "pairs.jsonl is undone: what it brought is gone." in text_of(page.text)
    assert f"{record.id}/undo" not in page.text
    report = client.get(str(done.url))  # which may be open elsewhere, or where the API undid it
    assert "What this import brought is gone. It was undone" in text_of(report.text)
    assert "Imported." not in text_of(report.text)
    assert "See the prompts" in done.text
    assert "See the prompts" not in report.text
    assert session.scalars(select(Prompt)).all() == []
    assert client.post(f"{here}/{record.id}/undo").status_code == 409
    assert client.post(f"{here}/{record.id + 1}/undo").status_code == 404

    upload(session, client, study, "prompts", jsonl({"prompt": "Say 2."}), "prompts.jsonl")
    prompt = session.scalars(select(Prompt)).one()
    make.make_demonstration_batch(session, study, [prompt])
    refused = client.post(f"{here}/{prompt.import_id}/undo")
    assert refused.status_code == 409
    assert "cannot be undone: 1 label tasks ask about its prompts." in text_of(refused.text)


def test_a_bad_file_is_listed_and_the_choice_kept(
    session: Session, client: TestClient, study: Study
) -> None:
    make.make_prompt(session, study, "Say 1.", external_id="1")
    row: dict[str, object] = {"prompt_id": "1", "model": "m", "completion": "One."}
    data = jsonl(row, *({**row, "prompt_id": f"<{n}>"} for n in range(30)))
    page = upload(session, client, study, "completions", data, "../<x>.jsonl")
    assert page.status_code == 200
    seen = text_of(page.text)
    assert "<x>.jsonl was not imported; nothing of it is stored." in seen
    assert 'line 2: no prompt "<0>" in this study' in seen
    assert "and 10 more" in seen
    assert session.scalars(select(Import)).all() == []
    listed = text_of(client.get(f"/studies/{study.slug}/import").text)
    assert "<x>.jsonl completions refused" in listed


def test_a_file_that_cannot_be_looked_at_is_refused_at_once(
    session: Session, client: TestClient, study: Study
) -> None:
    page = upload(session, client, study, "completions", b"%PDF-1.7", "x.pdf")
    assert page.status_code == 422
    assert "but a PDF file" in text_of(page.text)
    assert re.search(r'value="completions" checked', page.text)
    assert session.scalars(select(Upload)).all() == []


def test_columns_are_guessed_and_changed(
    session: Session, client: TestClient, study: Study
) -> None:
    data = b"question,user,notes\nSay 1.,ann,<b>\nSay 2.,bob,y\n"
    here = f"/studies/{study.slug}/import"
    page = client.post(here, data={"kind": "prompts"}, files={"file": ("p.csv", data)})
    address = str(page.url)
    assert page.text.count('<option value="prompt" selected>') == 1
    assert page.text.count('<option value="user" selected>') == 1
    seen = text_of(page.text)
    assert "Say 2. bob y" in seen
    assert "<b>" in seen
    assert session.scalars(select(Prompt)).all() == []
    twice = {"column_0": "prompt", "column_1": "", "column_2": "prompt"}
    refused = client.post(f"{address}/start", data=twice)
    assert refused.status_code == 422
    assert "Two columns are to be prompt: choose one." in text_of(refused.text)
    assert "is no column of prompts" in text_of(
        client.post(f"{address}/start", data={"column_0": "wings"}).text
    )
    chosen = {"column_0": "", "column_1": "", "column_2": "prompt"}
    page = client.post(f"{address}/start", data=chosen)
    assert "It waits for the worker" in text_of(page.text)
    assert 'http-equiv="refresh"' in page.text  # it goes on without scripts
    assert client.post(f"{address}/start", data=chosen).status_code == 409
    assert client.post(f"{address}/discard").status_code == 409
    carry_out(session, int(address.rpartition("/")[2]))
    assert "Prompts: 2 read, 2 stored" in text_of(client.get(address).text)
    first = session.scalars(select(Prompt).order_by(Prompt.id)).first()
    assert first is not None
    assert first.text == "<b>"
    assert first.details == {"question": "Say 1.", "user (of the file)": "ann"}
    other = make.make_study(session, "Another")
    assert client.get(address.replace(study.slug, other.slug)).status_code == 404


def test_a_column_without_a_name_has_a_label(client: TestClient, study: Study) -> None:
    page = client.post(
        f"/studies/{study.slug}/import",
        data={"kind": "completions"},
        files={"file": ("samples.csv", b",model_type,context,sample\n0,gpt-xl,Say 1.,One.\n")},
    )
    assert page.text.count("(no name)") == 2  # its label, and the head of its rows
    assert page.text.count(" selected>") == 3


def test_a_file_is_discarded(session: Session, client: TestClient, study: Study) -> None:
    here = f"/studies/{study.slug}/import"
    page = client.post(here, files={"file": ("p.jsonl", jsonl({"prompt": "Say 1."}))})
    kept = session.scalars(select(Upload)).one()
    assert storage.fetch(kept.uri).exists()
    page = client.post(f"{page.url}/discard")
    assert str(page.url).endswith("/import")
    assert session.scalars(select(Upload)).all() == []
    assert not storage.fetch(kept.uri).exists()


def test_no_file_and_a_file_too_large(
    session: Session, client: TestClient, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = client.post(f"/studies/{study.slug}/import", data={"kind": "prompts"})
    assert page.status_code == 422
    assert "choose a file first" in text_of(page.text)
    monkeypatch.setenv("PLUMBLINE_MAX_UPLOAD_BYTES", "1000")
    get_settings.cache_clear()
    try:
        page = upload(session, client, study, "prompts", b"a" * 20_000)
        assert page.status_code == 413
        assert "larger than 1,000 bytes" in text_of(page.text)
        page = upload(session, client, study, "prompts", b"a" * 2_000)
        assert page.status_code == 422
        assert "at most 1,000 are taken" in text_of(page.text)
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()
    assert session.scalars(select(Prompt)).all() == []


def test_a_new_account_gets_a_password_that_is_shown_once(
    session: Session, client: TestClient, study: Study
) -> None:
    here = f"/studies/{study.slug}/people"
    form = {"username": "lena", "display_name": "Lena L.", "role": "heldout_labeler"}
    page = client.post(here, data=form)
    found = re.search(r'id="password">([^<]+)<', page.text)
    assert found
    lena = session.scalars(select(User).where(User.username == "lena")).one()
    membership = session.get_one(Membership, (study.id, lena.id))
    assert (membership.role, membership.pool) == (Role.heldout_labeler, Pool.heldout)
    assert found[1] not in client.get(here).text
    assert "Lena L. lena held-out labeler 0" in text_of(client.get(here).text)
    sign_in(client, "lena", found[1])


def test_an_existing_account_joins_and_keeps_its_password(
    session: Session, client: TestClient, study: Study
) -> None:
    make.make_user(session, "Otto")
    page = client.post(
        f"/studies/{study.slug}/people", data={"username": " otto ", "role": "labeler"}
    )
    assert 'id="password"' not in page.text
    assert "Otto is in the study, and signs in as before." in text_of(page.text)
    sign_in(client, "otto")


@pytest.mark.parametrize(
    ("username", "role", "status", "reason"),
    [
        ("rosa", "labeler", 409, "rosa is already in A <study> as researcher."),
        ("a b", "labeler", 422, "A user name is 1–64 letters"),
        ("new", "administrator", 422, "'administrator' is no role"),
        ("robot", "labeler", 422, "simulated labelers cannot join it"),
    ],
)
def test_who_cannot_be_added(
    session: Session,
    client: TestClient,
    study: Study,
    username: str,
    role: str,
    status: int,
    reason: str,
) -> None:
    make.make_user(session, "robot", simulated=True)
    session.commit()
    form = {"username": username, "display_name": "Kept", "role": role}
    page = client.post(f"/studies/{study.slug}/people", data=form)
    assert page.status_code == status
    assert reason in text_of(page.text)
    assert 'value="Kept"' in page.text
    assert session.scalars(select(User).where(User.username == "new")).all() == []


def test_a_demonstration_batch_by_hand(session: Session, client: TestClient, study: Study) -> None:
    for _ in range(5):
        make.make_prompt(session, study)
    here = f"/studies/{study.slug}/batches"
    form = {"name": "First", "count": "3", "labels": "2", "audience": "training"}
    made = client.post(f"{here}/new/demonstration", data=form, follow_redirects=False)
    batch = session.scalars(select(Batch)).one()
    assert (made.status_code, made.headers["location"]) == (303, f"{here}/{batch.id}")
    assert (batch.kind, batch.purpose, batch.pool) == (
        LabelKind.demonstration,
        Purpose.training,
        Pool.training,
    )
    assert batch_progress(session, batch).labels_wanted == 6
    assert "First demonstrations for training 3 prompts 0 / 6" in text_of(client.get(here).text)
    page = client.post(f"{here}/new/demonstration", data=form)
    assert page.status_code == 422
    assert "2 prompts of the chosen splits have no demonstration task yet" in text_of(page.text)
    assert session.scalars(select(Batch)).all() == [batch]


def test_a_ranking_batch_by_hand(session: Session, client: TestClient, study: Study) -> None:
    here = f"/studies/{study.slug}/batches"
    assert "Nothing to rank yet" in client.get(f"{here}/new/ranking").text
    for _ in range(3):
        make.make_completions(session, make.make_prompt(session, study, split=Split.test), 4)
    page = client.get(f"{here}/new/ranking").text
    policies = re.findall(r'name="policies" value="(\d+)"', page)
    assert len(policies) == 4
    form = {
        "name": "Blind",
        "policies": policies,
        "k_min": "4",
        "k_max": "4",
        "count": "",
        "labels": "1",
        "audience": "heldout",
    }
    made = client.post(f"{here}/new/ranking", data=form, follow_redirects=False)
    assert made.status_code == 303, text_of(made.text)
    batch = session.scalars(select(Batch)).one()
    assert (batch.purpose, batch.pool, batch.rate_completions) == (
        Purpose.evaluation,
        Pool.heldout,
        False,
    )
    assert batch_progress(session, batch).tasks == 3
    assert "held-out pool" in client.get(here).text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"k_min": "x"}, "Fewest completions: a whole number from 2 to 9."),
        ({"k_max": "10"}, "Most completions: a whole number from 2 to 9."),
        ({"k_min": "5", "k_max": "4"}, "the smallest first"),
        ({"count": "-1"}, "Prompts: a whole number"),
        ({"count": "²"}, "Prompts: a whole number"),
        ({"labels": "1000"}, "Labels a prompt: a whole number from 1 to 100."),
        ({"audience": "everybody"}, "Choose who labels"),
        ({"policies": []}, "Choose at least 4 policies"),
        ({"name": " "}, "A batch needs a name."),
        ({"splits": ["valid"]}, "0 prompts of the chosen splits"),
    ],
)
def test_a_batch_that_cannot_be_comes_back_as_typed(
    session: Session,
    client: TestClient,
    study: Study,
    change: dict[str, str | list[str]],
    reason: str,
) -> None:
    completions = make.make_completions(session, make.make_prompt(session, study), 4)
    session.commit()
    form: dict[str, str | list[str]] = {
        "name": "Typed",
        "policies": [str(c.policy_id) for c in completions],
        "k_min": "4",
        "k_max": "9",
        "count": "1",
        "labels": "1",
        "audience": "training",
        "rate": "yes",
    }
    page = client.post(f"/studies/{study.slug}/batches/new/ranking", data=form | change)
    assert page.status_code == 422
    assert reason in text_of(page.text)
    checked = re.findall(r'name="policies" value="(\d+)" checked', page.text)
    assert checked == (form | change)["policies"]
    for name in ("k_min", "k_max", "count", "labels"):
        typed = (form | change)[name]
        assert re.search(rf'name="{name}" type="number" value="{typed}"', page.text), name
    assert session.scalars(select(Batch)).all() == []
