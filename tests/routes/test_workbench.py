"""Around the work, over HTTP: the task ahead, two tabs, corrections, flags, guidelines."""

from __future__ import annotations

import re
from datetime import timedelta

from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.models import (
    Assignment,
    Demonstration,
    Flag,
    GuidelineVersion,
    LabelTask,
    LoginSession,
    Study,
    User,
)
from app.services import flags
from app.simulation.pages import read_page
from tests import factories as make
from tests.routes.conftest import sign_in

JSON = {"Accept": "application/json"}


def begin(client: TestClient, db: Session, prompts: int = 3) -> tuple[Study, str]:
    """A labeler, ada, signed in with her first demonstration on the screen; its address."""
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    make.make_demonstration_batch(db, study, prompts)
    db.commit()
    sign_in(client, "ada")
    return study, client.get("/label").url.path


def test_the_page_ahead_is_the_page_that_follows(client: TestClient, db: Session) -> None:
    study, address = begin(client, db, prompts=2)
    ahead = client.post(f"/label/{study.slug}/ahead")
    again = client.post(f"/label/{study.slug}/ahead")
    following = read_page(ahead.text).action
    assert following not in {"", address}
    assert read_page(again.text).action == following
    # Until this one is done, the next is not to be had.
    assert client.get(following).url.path == address
    answer = client.post(address, data={"text": "One."}, headers=JSON).json()
    assert 3500 < answer.pop("seconds_left") <= 3600
    assert answer == {"location": following, "stored": True, "today": 1}
    assert client.get(following).url.path == following
    assert client.post(f"/label/{study.slug}/ahead").status_code == 204
    # The same form from a tab that is behind changes nothing and leads on all the same.
    late = client.post(address, data={"text": "Two."}, headers=JSON).json()
    assert (late["stored"], late["location"]) == (False, following)
    done = client.post(following, data={"text": "Three."}, headers=JSON).json()
    assert (done["location"], done["today"]) == (f"/label/{study.slug}", 2)
    assert db.scalars(select(Demonstration.text).order_by(Demonstration.id)).all() == [
        "One.", "Three.",
    ]  # fmt: skip
    assert db.scalars(select(LabelTask.slots_taken)).all() == [1, 1]


def test_refusals_come_as_words_and_keep_what_was_typed(client: TestClient, db: Session) -> None:
    _, address = begin(client, db)
    empty = client.post(address, data={"text": " "}, headers=JSON)
    assert empty.status_code == 422
    assert empty.json()["problems"] == {"text": "Write the completion before you submit it."}
    skipped = client.post(f"{address}/skip", data={"reason": "harmful"}, headers=JSON)
    assert skipped.json()["location"].startswith("/label/")  # nothing was fetched ahead
    refused = client.post(address, data={"text": "After all."}, headers=JSON)
    assert (refused.status_code, refused.json()) == (409, {"detail": "You skipped this one."})
    page = client.post(address, data={"text": "After <all>."})
    assert page.status_code == 409
    assert "After &lt;all&gt;." in page.text


def test_a_draft_that_is_behind_is_answered_with_the_newer_one(
    client: TestClient, db: Session
) -> None:
    _, address = begin(client, db)
    put = f"{address}/draft"
    first = client.put(put, json={"text": "One"}, params={"base": ""}).json()
    second = client.put(put, json={"text": "One two"}, params={"base": first["saved_at"]}).json()
    behind = client.put(put, json={"text": "One three"}, params={"base": first["saved_at"]})
    assert behind.status_code == 409
    assert behind.json() == {
        "detail": "This was changed in another tab or browser.",
        "draft": {"text": "One two"},
        "saved_at": second["saved_at"],
    }
    kept = client.put(put, json={"text": "One three"}, params={"base": second["saved_at"]})
    assert kept.status_code == 200


def test_signed_out_in_the_middle(client: TestClient, db: Session) -> None:
    """Scripts are told; after sign-in the same assignment is there with its draft."""
    study, address = begin(client, db)
    client.put(f"{address}/draft", json={"text": "Half a sen"})
    db.query(LoginSession).delete()
    db.commit()
    for answer in (
        client.put(f"{address}/draft", json={"text": "Half a sentence"}, headers=JSON),
        client.post(address, data={"text": "Whole."}, headers=JSON),
        client.post(f"{address}/alive", json={}, headers=JSON),
        client.post(f"{address}/flag", data={"message": "x"}, headers=JSON),
        client.post(f"/label/{study.slug}/ahead", headers=JSON),
    ):
        assert answer.status_code == 401
        assert answer.json()["detail"] == "Please sign in."
    back = client.post(
        "/login", data={"username": "ada", "password": make.PASSWORD, "next": address}
    )
    assert back.url.path == address
    assert ">\nHalf a sen</textarea>" in back.text


def test_reading_renews_the_lease(client: TestClient, db: Session) -> None:
    _, address = begin(client, db)
    db.execute(update(Assignment).values(lease_until=func.now() + timedelta(minutes=2)))
    db.commit()
    answer = client.post(f"{address}/alive", json={"active_seconds": "75"})
    assert 3500 < answer.json()["seconds_left"] <= 3600
    assert 'name="active_seconds" value="75"' in client.get(address).text


def test_history_and_a_correction(client: TestClient, db: Session) -> None:
    study, first = begin(client, db)
    second = client.post(first, data={"text": "Red <b>."}).url.path
    client.post(f"{second}/skip", data={"reason": "personal_data"})
    page = client.get(f"/label/{study.slug}/history").text
    assert "2 in all" in page
    assert "it contains somebody's personal data" in page.replace("&#39;", "'")
    assert page.count(f'href="{first}/correct"') == 1
    assert f'href="{second}' not in page  # what was skipped is gone

    shown = client.get(first)
    assert shown.url.path == f"/label/{study.slug}/history/{first.rpartition('/')[2]}"
    assert "Red &lt;b&gt;." in shown.text
    form = client.get(f"{first}/correct")
    assert ">\nRed &lt;b&gt;.</textarea>" in form.text
    assert 'name="correction" value="1"' in form.text
    refused = client.post(first, data={"text": "", "correction": "1"})
    assert refused.status_code == 422
    done = client.post(first, data={"text": "Blue.", "correction": "1"})
    assert done.url.path == shown.url.path
    assert re.findall(r"Revision (\d)</h2>", done.text) == ["2", "1"]
    assert "corrected" in client.get(f"/label/{study.slug}/history").text

    study.correction_minutes = 0
    db.commit()
    assert client.get(f"{first}/correct").url.path == shown.url.path
    late = client.post(first, data={"text": "Green.", "correction": "2"})
    assert late.status_code == 409
    assert "Green." in late.text
    assert "are not corrected" in client.get(first).text
    texts = select(Demonstration.text).order_by(Demonstration.id)
    assert db.scalars(texts).all() == ["Red <b>.", "Blue."]


def test_history_has_pages(client: TestClient, db: Session) -> None:
    study, _ = begin(client, db, prompts=1)
    member = make.make_labeler(db, study, "bo")
    make.make_demonstration_batch(db, study, 30, labels_wanted=1)
    for _ in range(27):
        make.give_label(db, member)
    db.commit()
    sign_in(client, "bo")
    address = f"/label/{study.slug}/history"
    assert client.get(address).text.count("<li>") == 25
    older = client.get(address, params={"number": 2}).text
    assert older.count("<li>") == 2
    assert "Page 2 of 2" in older
    assert client.get(address, params={"number": 99}).text.count("<li>") == 2


def test_flags_go_out_and_answers_come_back(client: TestClient, db: Session) -> None:
    study, address = begin(client, db)
    rosa = make.make_researcher(db, study, "rosa")
    assert client.post(f"{address}/flag", data={"message": " "}).status_code == 422
    back = client.post(f"{address}/flag", data={"message": "Is <this> meant?"})
    assert back.url.path == address  # without a script one is back at work
    told = client.post(f"{address}/flag", data={"message": "Another."}, headers=JSON)
    assert told.status_code == 201
    page = client.get(f"/label/{study.slug}/flags").text
    assert "Is &lt;this&gt; meant?" in page
    assert page.count("waits for an answer") == 2
    flag = db.scalars(select(Flag).order_by(Flag.id)).first()
    assert flag is not None
    flags.answer_flag(db, flag, db.get_one(User, rosa.id), "Yes, <it> is.")
    db.commit()
    assert "1<span" in client.get(address).text.partition("Flags")[2][:80]
    page = client.get(f"/label/{study.slug}/flags").text
    assert "Yes, &lt;it&gt; is." in page
    assert "new answer" in page
    assert "rosa" not in page
    assert "new answer" not in client.get(f"/label/{study.slug}/flags").text


def test_new_guidelines_come_between_two_tasks(client: TestClient, db: Session) -> None:
    study, address = begin(client, db)
    client.post(f"/label/{study.slug}/ahead")
    assert "Go on" in client.get(f"/label/{study.slug}/guidelines").text
    db.add(GuidelineVersion(study_id=study.id, version=2, markdown="# Two\n\n<script>x</script>"))
    db.commit()
    assert client.get(f"/label/{study.slug}").url.path == address  # what is leased goes on
    done = client.post(address, data={"text": "One.", "guidelines_version": "1"}, headers=JSON)
    assert done.json()["location"] == f"/label/{study.slug}"
    page = client.get(f"/label/{study.slug}")
    assert page.url.path == f"/label/{study.slug}/guidelines"
    assert "<script>x" not in page.text
    asked = read_page(page.text)
    assert (asked.guidelines, asked.guidelines_version) == (page.url.path, "2")
    assert client.post(asked.guidelines, data={"version": "9"}).status_code == 404
    following = client.post(asked.guidelines, data={"version": "2"})
    assert read_page(following.text).kind == "demonstration"
    under = select(GuidelineVersion.version).join(
        Demonstration, Demonstration.guideline_version_id == GuidelineVersion.id
    )
    assert db.scalars(under).all() == [1]


def test_what_is_not_ones_own_does_not_exist(client: TestClient, db: Session) -> None:
    study, address = begin(client, db)
    client.post(address, data={"text": "Mine."})
    make.make_labeler(db, study, "bo")
    elsewhere = make.make_study(db, "Elsewhere")
    make.make_labeler(db, elsewhere, "cy")
    db.commit()
    history = f"/label/{study.slug}/history/{address.rpartition('/')[2]}"
    assert client.get(history.replace(study.slug, elsewhere.slug)).status_code == 404
    for name in ("bo", "cy"):
        sign_in(client, name)
        assert client.get(history).status_code == 404
        assert client.get(f"{address}/correct").status_code == 404
        assert client.post(f"{address}/flag", data={"message": "x"}).status_code == 404
        assert client.post(f"{address}/alive", json={}).status_code == 404
        assert client.post(address, data={"text": "x", "correction": "1"}).status_code == 404
    assert client.post(f"/label/{study.slug}/ahead").status_code == 404
