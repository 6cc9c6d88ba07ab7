"""The labeler's pages over HTTP, on a real database."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from selectolax.lexbor import LexborHTMLParser
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.models import (
    Assignment,
    AssignmentState,
    Demonstration,
    LabelTask,
    Policy,
    Pool,
    Ranking,
    RankingItem,
    Rating,
    Role,
    User,
)
from app.services import assignments, people
from tests import factories as make
from tests.routes.conftest import sign_in

HTMX = {"HX-Request": "true"}


def public_id_of(url: object) -> str:
    match = re.search(r"/assignments/([\w-]+)$", str(url))
    assert match, f"{url} is no assignment"
    return match[1]


def test_a_demonstration_from_sign_in_to_no_work(client: TestClient, db: Session) -> None:
    study = make.make_study(db, "Colors & <shapes>")
    make.make_labeler(db, study, "ada")
    prompt = make.make_prompt(db, study, "Name <two> colors.\n  One a line & no more.")
    make.make_demonstration_batch(db, study, [prompt])
    db.commit()
    sign_in(client, "ada")
    page = client.get("/")  # a labeler's start page is the next task
    public_id = public_id_of(page.url)
    assert "Name &lt;two&gt; colors.\n  One a line &amp; no more." in page.text
    done = client.post(
        f"/assignments/{public_id}",
        data={"text": "Red\r\nBlue\r\n", "active_seconds": "7"},
        follow_redirects=False,
    )
    assert (done.status_code, done.headers["location"]) == (303, f"/label/{study.slug}")
    assert db.scalars(select(Demonstration.text)).all() == ["Red\nBlue"]
    page = client.get(done.headers["location"])
    assert "No work right now" in page.text
    assert "<strong>1</strong> label today" in page.text
    again = client.post(f"/assignments/{public_id}", data={"text": "Red"})
    assert again.url.path == f"/label/{study.slug}"
    assert db.scalar(select(func.count()).select_from(Demonstration)) == 1


def test_a_ranking_with_gaps_comes_back_as_typed_and_is_kept(
    client: TestClient, db: Session
) -> None:
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    make.make_ranking_batch(db, study, 1, k=4)
    db.commit()
    sign_in(client, "ada")
    address = client.get("/label").url.path
    typed = {
        "tier_A": "1", "tier_B": "1", "tier_C": "3", "overall_C": "6", "sexual_content_B": "no",
        "prompt_ambiguous": "yes",
    }  # fmt: skip
    back = client.post(address, data=typed)
    assert back.status_code == 422
    assert "D has no place yet." in back.text
    for page in (back, client.get(address)):  # the answer, and the page after a reload
        checked = dict(re.findall(r'name="(\w+)" value="(\w+)"(?: required)? checked', page.text))
        assert checked == typed
    fine = client.post(address, data=typed | {"tier_D": "4"}, follow_redirects=False)
    assert fine.status_code == 303
    tiers = db.scalars(select(RankingItem.tier).order_by(RankingItem.tier)).all()
    assert tiers == [1, 1, 2, 3]


def test_the_page_tells_nothing_of_where_completions_come_from(
    client: TestClient, db: Session
) -> None:
    study = make.make_study(db)
    labeler = make.make_labeler(db, study, "ada", pool=Pool.heldout)
    prompt = make.make_prompt(db, study, external_id="external-prompt-77")
    # Ids that would be seen: the sequences are moved to where no other number of the page is.
    for table in ("completions", "policies", "label_tasks", "assignments"):
        db.connection().exec_driver_sql(
            f"ALTER TABLE {table} ALTER COLUMN id RESTART WITH 987650000"
        )
    completions = make.make_completions(
        db, prompt, [f"Answer {word}." for word in ("one", "two", "three", "four")], score=0.123456
    )
    secrets = ["external-prompt-77", "123456"]
    for place, completion in enumerate(completions):
        policy = db.get_one(Policy, completion.policy_id)
        policy.name, policy.label = f"secret-name-{place}", f"secret-label-{place}"
        completion.external_score = 0.654321
        secrets += [policy.name, policy.label, str(completion.id), str(policy.id)]
    batch = make.make_ranking_batch(db, study, [prompt], pool=Pool.heldout)
    batch.name = "secret-batch"
    secrets += ["654321", "secret-", "98765", "finish_reason", "policy"]
    db.commit()
    sign_in(client, "ada")
    page = client.get("/label")
    public_id = public_id_of(page.url)
    address = f"/assignments/{public_id}"
    answers = [
        page,
        client.get(address, headers=HTMX),
        client.post(address, data={"tier_A": "1"}),
        client.put(f"{address}/draft", json={"tier_A": "1"}),
    ]
    for answer in answers:
        assert [secret for secret in secrets if secret in answer.text] == []
    assert all(f"Answer {word}." in page.text for word in ("one", "two", "three", "four"))
    stored = db.scalars(select(Assignment).where(Assignment.user_id == labeler.user_id)).one()
    assert len(public_id) >= 20
    assert public_id == stored.public_id


def test_questions_that_do_not_apply_are_not_asked(client: TestClient, db: Session) -> None:
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    plain = make.make_prompt(db, study, closed_domain=False, constraint_text="")
    strict = make.make_prompt(db, study, closed_domain=True, constraint_text="in five words")
    make.make_ranking_batch(db, study, [plain, strict], k=2)
    make.make_ranking_batch(db, study, 1, k=2, rate_completions=False)
    db.commit()
    sign_in(client, "ada")
    page = client.get("/label")
    assert "hallucination_A" not in page.text
    assert "satisfies_constraint_A" not in page.text
    assert "fails_instruction_A" in page.text
    order = {"tier_A": "1", "tier_B": "2"}
    page = client.post(page.url.path, data=order)
    assert "hallucination_A" in page.text
    assert "Satisfies the constraint “in five words”" in page.text
    page = client.post(page.url.path, data=order)
    assert "overall_A" not in page.text
    assert "prompt_ambiguous" not in page.text


def test_the_labeler_says_whether_doubtful_questions_apply(client: TestClient, db: Session) -> None:
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    make.make_ranking_batch(db, study, [make.make_prompt(db, study, closed_domain=False)], k=2)
    make.make_ranking_batch(db, study, 1, k=2)
    db.commit()
    sign_in(client, "ada")
    page = client.get("/label")
    form = LexborHTMLParser(page.text)
    assert [node.attributes for node in form.css("[data-raises]")] == [
        {"class": "tri", "data-raises": "satisfies_constraint"},
        {"class": "tri", "data-raises": "satisfies_constraint"},
    ]
    conditional = form.css("[data-only-if] input[value=yes]")
    assert [node.attributes["name"] for node in conditional] == [
        "satisfies_constraint_A",
        "satisfies_constraint_B",
    ]
    answers = {"tier_A": "1", "satisfies_constraint_B": "no", "prompt_other_constraints": "no"}
    address = page.url.path
    refused = client.post(address, data=answers)
    assert refused.status_code == 422
    # What does not count now is kept with what was typed: the other answer may change again.
    draft = db.scalars(select(Assignment.draft)).one()
    assert draft == answers
    client.post(address, data=answers | {"tier_B": "1", "hallucination_A": "yes"})
    assert db.scalars(select(Rating)).all() == []
    page = client.get("/label")
    form = LexborHTMLParser(page.text)
    assert {node.attributes["data-raises"] for node in form.css("[data-raises]")} == {
        "hallucination",
        "satisfies_constraint",
    }


def test_a_draft_is_saved_and_restored(client: TestClient, db: Session) -> None:
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    make.make_demonstration_batch(db, study, 1)
    db.commit()
    sign_in(client, "ada")
    address = client.get("/label").url.path
    body = r'{"text": "Half\r\na </textarea> \u0000sen\ud800"}'  # what no database would hold
    headers = {"content-type": "application/json"}
    saved = client.put(f"{address}/draft", content=body, headers=headers)
    assert saved.status_code == 200
    assert 3500 < saved.json()["seconds_left"] <= 3600
    page = client.get(address).text
    assert "Half\na &lt;/textarea&gt; sen?</textarea>" in page
    assert f'data-saved-at="{saved.json()["saved_at"]}"' in page


@pytest.mark.parametrize("body", ["[]", "{", '{"text": 3}', '"text"', ""])
def test_a_draft_that_is_none_is_refused(client: TestClient, db: Session, body: str) -> None:
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    make.make_demonstration_batch(db, study, 1)
    db.commit()
    sign_in(client, "ada")
    address = client.get("/label").url.path
    headers = {"content-type": "application/json", "accept": "application/json"}
    answer = client.put(f"{address}/draft", content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_too_late_the_text_is_shown_and_kept(client: TestClient, db: Session) -> None:
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    other = make.make_labeler(db, study, "bo")
    make.make_demonstration_batch(db, study, 1)
    db.commit()
    sign_in(client, "ada")
    address = client.get("/label").url.path
    db.execute(update(Assignment).values(lease_until=func.now() - timedelta(seconds=1)))
    assert assignments.return_expired(db) == 1
    make.give_label(db, other)
    db.commit()
    late = client.post(address, data={"text": "An hour of <b>work</b>."})
    assert late.status_code == 409
    assert "An hour of &lt;b&gt;work&lt;/b&gt;." in late.text
    assert "An hour of &lt;b&gt;work&lt;/b&gt;." in client.get(address).text
    assert db.scalar(select(func.count()).select_from(Demonstration)) == 1


def test_skipping_needs_a_reason_and_goes_on(client: TestClient, db: Session) -> None:
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    make.make_demonstration_batch(db, study, 2)
    db.commit()
    sign_in(client, "ada")
    first = client.get("/label").url.path
    assert client.post(f"{first}/skip", data={}).status_code == 422
    second = client.post(f"{first}/skip", data={"reason": "harmful"}).url.path
    assert second not in {first, f"/label/{study.slug}"}
    assert client.get(first).url.path == second  # what was skipped leads on
    db.expire_all()
    skipped = db.scalars(select(Assignment).order_by(Assignment.id).limit(1)).one()
    assert (skipped.state, skipped.skip_reason) == (AssignmentState.skipped, "harmful")


def test_looking_for_work_takes_no_lease(client: TestClient, db: Session) -> None:
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    db.commit()
    sign_in(client, "ada")
    assert "No work right now" in client.get(f"/label/{study.slug}").text
    make.make_demonstration_batch(db, study, 1)
    db.commit()
    fragment = client.get(f"/label/{study.slug}/work", headers=HTMX)
    assert "There is work again" in fragment.text
    assert "<html" not in fragment.text
    assert db.scalar(select(LabelTask.slots_taken)) == 0


def test_choosing_a_study(client: TestClient, db: Session) -> None:
    one, two = make.make_study(db, "Study one"), make.make_study(db, "Study two")
    user = make.make_labeler(db, one, "ada").user
    make.make_user(db, "nobody")
    make.make_demonstration_batch(db, two, 1)
    db.commit()
    sign_in(client, "nobody")
    assert "You label in no study yet" in client.get("/label").text
    sign_in(client, "ada")
    assert client.get("/label").url.path == f"/label/{one.slug}"
    people.add_member(db, two, db.get_one(User, user.id), Role.labeler)
    db.commit()
    page = client.get("/label").text
    assert "Study one" in page
    assert "Study two" in page
    assert page.count("work waits") == 1


def test_what_is_not_ones_own_does_not_exist(client: TestClient, db: Session) -> None:
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    make.make_user(db, "stranger")
    make.make_researcher(db, study, "rosa")
    make.make_demonstration_batch(db, study, 1)
    db.commit()
    address = "/label"
    assert client.get(address).url.path == "/login"
    sign_in(client, "ada")
    address = client.get("/label").url.path
    sign_in(client, "stranger")
    assert client.get(address).status_code == 404
    assert client.post(address, data={"text": "x"}).status_code == 404
    assert client.put(f"{address}/draft", json={"text": "x"}).status_code == 404
    assert client.post(f"{address}/skip", data={"reason": "other"}).status_code == 404
    assert client.get(f"/label/{study.slug}").status_code == 404
    sign_in(client, "rosa")
    assert client.get(f"/label/{study.slug}").status_code == 403
    assert db.scalars(select(Assignment.draft)).all() == [None]


def test_texts_are_shown_as_they_are(client: TestClient, db: Session) -> None:
    """Markup in completions and guidelines is text; nothing of it runs."""
    study = make.make_study(db)
    make.make_labeler(db, study, "ada")
    prompt = make.make_prompt(db, study)
    texts = ["<script>alert(1)</script>", "  indented\n\n\n    far", "", "**not bold**"]
    make.make_completions(db, prompt, texts)
    make.make_ranking_batch(db, study, [prompt])
    db.commit()
    sign_in(client, "ada")
    page = client.get("/label").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert ">  indented\n\n\n    far<" in page
    assert "**not bold**" in page
    assert "The completion is empty." in page
    assert not re.search(r"<[^>]+\s(style|on\w+)=", page)  # the policy would refuse it


def test_a_program_posts_the_same_form(client: TestClient, db: Session) -> None:
    """Simulated labelers post the same form; their labels are marked."""
    study = make.make_study(db, rehearsal=True)
    make.make_labeler(db, study, "sim", simulated=True)
    make.make_ranking_batch(db, study, 1, k=9)
    db.commit()
    sign_in(client, "sim")
    page = client.get(f"/label/{study.slug}")
    letters = re.findall(r'id="completion-([A-I])"', page.text)
    assert letters == list("ABCDEFGHI")
    client.post(page.url.path, data={f"tier_{letter}": "2" for letter in letters})
    ranking = db.scalars(select(Ranking)).one()
    assert ranking.simulated
    assert set(db.scalars(select(RankingItem.tier))) == {1}
