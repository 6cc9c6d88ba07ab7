"""The researcher's side of the workbench over HTTP: batches, guidelines, flags, settings, prompts
to write."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import get_session
from app.main import create_app
from app.models import (
    Assignment,
    AssignmentState,
    Batch,
    Flag,
    GuidelineVersion,
    LabelTask,
    LabelTaskState,
    Membership,
    Prompt,
    PromptRating,
    Rating,
    Study,
    User,
    WritingStyle,
)
from app.services import assignments, flags
from app.services.acknowledgements import acknowledge
from app.services.batch_progress import batch_progress
from app.services.label_queue import lease_next, work_waits
from app.services.labels import LeaseLost, submit
from app.services.writing import create_writing_batch
from app.simulation.family import generate_prompts
from app.simulation.labeler import SimulatedLabeler
from app.simulation.pages import read_page
from app.simulation.workforce import fill_form
from tests import factories as make


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


def sign_in(client: TestClient, username: str) -> None:
    form = {"username": username, "password": make.PASSWORD}
    assert client.post("/login", data=form, follow_redirects=False).status_code == 303


@pytest.fixture
def study(session: Session, client: TestClient) -> Study:
    """A study whose researcher, rosa, is signed in."""
    study = make.make_study(session, "A study")
    make.make_researcher(session, study, "rosa")
    sign_in(client, "rosa")
    return study


def text_of(page: str) -> str:
    """What a reader sees, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def here(study: Study, path: str = "") -> str:
    return f"/studies/{study.slug}{path}"


PATHS = ["/flags", "/guidelines", "/guidelines/edit", "/guidelines/1", "/settings", "/batches/1"]


@pytest.mark.parametrize("path", PATHS)
def test_pages_are_the_studys_researchers_own(
    session: Session, client: TestClient, study: Study, path: str
) -> None:
    batch = make.make_demonstration_batch(session, study)
    session.commit()
    address = here(study, path.replace("/batches/1", f"/batches/{batch.id}"))
    page = client.get(address)
    assert page.status_code == 200
    assert page.text.count('aria-current="page"') == 1
    make.make_labeler(session, study, "lena")
    make.make_researcher(session, make.make_study(session, "Another"), "otto")
    for username in ("lena", "otto"):
        sign_in(client, username)
        assert client.get(address).status_code == 404


def test_what_is_of_another_study_is_not_found(
    session: Session, client: TestClient, study: Study
) -> None:
    other = make.make_study(session, "Another")
    batch = make.make_demonstration_batch(session, other)
    flag = flags.raise_flag(
        session, make.take_next(session, make.make_labeler(session, other)), "?"
    )
    session.commit()
    for path in (f"/batches/{batch.id}", "/batches/999999999", "/guidelines/2"):
        assert client.get(here(study, path)).status_code == 404
    for path in (f"/batches/{batch.id}/withdraw", f"/flags/{flag.id}"):
        assert client.post(here(study, path), data={"answer": "x"}).status_code == 404
    assert session.get_one(Flag, flag.id).answer is None


# Batches ------------------------------------------------------------------------------------------


def test_every_setting_of_a_batch_is_the_researchers(
    session: Session, client: TestClient, study: Study
) -> None:
    prompt = make.make_prompt(session, study)
    policies = [str(c.policy_id) for c in make.make_completions(session, prompt, 4)]
    session.commit()
    form = {"name": "x", "policies": policies, "count": "", "labels": "2"}
    more = {"lease_minutes": "15", "priority": "-3", "suggest": "yes"}
    client.post(here(study, "/batches/new/ranking"), data=form | more | {"rate": "yes"})
    client.post(here(study, "/batches/new/ranking"), data=form | {"rate": "yes"})
    chosen, plain = session.scalars(select(Batch).order_by(Batch.id))
    assert (chosen.lease_minutes, chosen.rate_completions, chosen.suggest_order) == (15, True, True)
    assert (plain.lease_minutes, plain.suggest_order) == (60, False)
    assert [t.priority for t in make.tasks_of(session, chosen)] == [-3]
    page = text_of(client.get(here(study, f"/batches/{chosen.id}")).text)
    for fact in (
        "Lease 15 minutes",
        "Place in the queue -3",
        "Labels a task 2",
        "Rating first yes",
    ):
        assert fact in page
    assert "Order suggested yes, from the ratings" in page


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lease_minutes": "0"}, "Lease minutes: a whole number from 1 to 1,440."),
        ({"priority": "soon"}, "Place in the queue: a whole number from -1,000 to 1,000."),
        ({"priority": "--1"}, "Place in the queue"),
        ({"style": "sonnet"}, "Choose the kind of prompt."),
        ({"briefs": " \n "}, "give at least one"),
        ({"count": ""}, "Prompts: a whole number from 1 to 100,000."),
    ],
)
def test_a_batch_of_prompts_that_cannot_be_comes_back_as_typed(
    session: Session, client: TestClient, study: Study, change: dict[str, str], reason: str
) -> None:
    form = {"name": "Typed", "style": "user_based", "count": "3", "briefs": "Letters\nRecipes"}
    page = client.post(here(study, "/batches/new/prompt"), data=form | change)
    assert page.status_code == 422
    assert reason in text_of(page.text)
    assert 'value="Typed"' in page.text
    if "briefs" not in change:
        assert "Letters\nRecipes</textarea>" in page.text
    if "style" not in change:
        assert '<option value="user_based" selected>' in page.text
    assert session.scalars(select(Batch)).all() == []


def test_labelers_write_the_prompts_of_a_batch_and_researchers_find_them(
    session: Session, client: TestClient, study: Study
) -> None:
    form = {"name": "After use cases", "style": "user_based", "count": "2", "briefs": "Recipes"}
    made = client.post(here(study, "/batches/new/prompt"), data=form, follow_redirects=False)
    assert made.status_code == 303, text_of(made.text)
    make.make_prompt(session, study, "An imported one.")
    make.make_labeler(session, study, "lena")
    sign_in(client, "lena")
    page = client.get(f"/label/{study.slug}")
    shown = read_page(page.text)
    assert (shown.kind, shown.prompt, shown.completions) == ("prompt", "", {})
    assert {"prompt_text", "use_case"} < shown.fields
    assert "Recipes" in page.text
    assert "After use cases" not in page.text
    refused = client.post(shown.action, data={"prompt_text": "", "use_case": "chat"})
    assert refused.status_code == 422
    assert "Write the prompt before you submit it." in refused.text
    assert '<option value="chat" selected>' in refused.text
    sent = {"prompt_text": "How long do I\n  boil <an egg>?", "use_case": "open_qa"}
    assert client.post(shown.action, data=sent).status_code == 200

    sign_in(client, "rosa")
    prompt = session.scalars(select(Prompt).where(Prompt.text.contains("egg"))).one()
    listed = text_of(client.get(here(study, "/prompts?origin=written")).text)
    assert "boil <an egg>?" in listed
    assert "An imported one." not in listed
    listed = text_of(client.get(here(study, "/prompts?origin=imported")).text)
    assert "egg" not in listed
    assert "An imported one." in listed
    about = text_of(client.get(here(study, f"/prompts/{prompt.id}")).text)
    assert re.search(r"Written by lena , after a use case, \d+ s ago Source user labeler", about)
    batch = session.scalars(select(Batch)).one()
    progress = text_of(client.get(here(study, f"/batches/{batch.id}")).text)
    assert "Labels 1 of 2 wanted" in progress
    assert "Style after a use case; prompts written so far" in progress


def test_a_withdrawn_batch_gives_nothing_and_reopens(
    session: Session, client: TestClient, study: Study
) -> None:
    batch = make.make_demonstration_batch(session, study, 3, labels_wanted=2)
    first, second, third = (make.make_labeler(session, study) for _ in range(3))
    for labeler in (first, second):
        make.give_label(session, labeler)  # the first task is complete
    on_screen = make.take_next(session, first)
    session.commit()
    address = here(study, f"/batches/{batch.id}")
    assert "Reopen" not in client.get(address).text
    page = client.post(f"{address}/withdraw")
    assert "2 label tasks withdrawn" in text_of(page.text)
    states = [task.state for task in make.tasks_of(session, batch)]
    assert states == [LabelTaskState.complete, LabelTaskState.closed, LabelTaskState.closed]
    assert not work_waits(session, third)
    assert lease_next(session, third) is None
    assert client.post(f"{address}/withdraw").status_code == 409

    # Who had one on the screen submits it, and it counts.
    assignment = assignments.find_assignment(
        session, session.get_one(User, first.user_id), on_screen.public_id
    )
    submit(session, assignment, session.get_one(User, first.user_id), {"text": "kept"})
    session.commit()
    page = client.post(f"{address}/reopen")
    assert "withdrawn" not in text_of(page.text)
    progress = batch_progress(session, batch)
    assert (progress.tasks, progress.labels_done, progress.labels_wanted) == (3, 3, 6)
    assert work_waits(session, third)
    assert client.post(f"{address}/reopen").status_code == 409


def test_a_task_that_was_finished_while_withdrawn_is_complete_when_reopened(
    session: Session, client: TestClient, study: Study
) -> None:
    batch = make.make_demonstration_batch(session, study, 1)
    labeler = make.make_labeler(session, study)
    assignment = make.take_next(session, labeler)
    session.commit()
    address = here(study, f"/batches/{batch.id}")
    client.post(f"{address}/withdraw")
    user = session.get_one(User, labeler.user_id)
    assignment = assignments.find_assignment(session, user, assignment.public_id)
    submit(session, assignment, user, {"text": "done"})
    session.commit()
    client.post(f"{address}/reopen")
    assert [task.state for task in make.tasks_of(session, batch)] == [LabelTaskState.complete]


def test_a_label_for_a_withdrawn_task_whose_lease_ran_out_is_not_taken(
    session: Session, client: TestClient, study: Study
) -> None:
    batch = make.make_demonstration_batch(session, study, 1)
    labeler = make.make_labeler(session, study)
    assignment = make.take_next(session, labeler)
    session.commit()
    client.post(here(study, f"/batches/{batch.id}/withdraw"))
    user = session.get_one(User, labeler.user_id)
    assignment = assignments.find_assignment(session, user, assignment.public_id)
    assignment.state, assignment.label_task.slots_taken = AssignmentState.returned, 0
    session.flush()
    with pytest.raises(LeaseLost, match="a researcher has withdrawn it in the meantime"):
        submit(session, assignment, user, {"text": "late"})


def test_the_page_of_a_batch_counts_skips_and_active_time(
    session: Session, client: TestClient, study: Study
) -> None:
    batch = make.make_demonstration_batch(session, study, 4)
    labelers = [make.make_labeler(session, study) for _ in range(3)]
    for labeler, seconds in zip(labelers, ("30", "90", "600"), strict=True):
        make.give_label(session, labeler, {"active_seconds": seconds})
    for labeler, reason in zip(labelers, ("unclear", "language", "unclear"), strict=True):
        assignments.skip(session, make.take_next(session, labeler), reason)
    session.commit()
    page = text_of(client.get(here(study, f"/batches/{batch.id}")).text)
    assert "Active time a label 1 min 30 s median" in page  # of 30, 90 and 600 seconds
    assert "Skipped 3" in page
    assert "2 I cannot tell what is asked 1 It is in a language I do not know well" in page
    skipped = session.scalars(
        select(Assignment).where(Assignment.state == AssignmentState.skipped)
    ).all()
    assert len(skipped) == 3
    assert page.count("Name the color number") == 3


# Guidelines ---------------------------------------------------------------------------------------


def newest(session: Session, study: Study) -> GuidelineVersion:
    return session.scalars(
        select(GuidelineVersion)
        .where(GuidelineVersion.study_id == study.id)
        .order_by(GuidelineVersion.version.desc())
        .limit(1)
    ).one()


def test_guidelines_are_saved_in_versions_that_labelers_acknowledge(
    session: Session, client: TestClient, study: Study
) -> None:
    labelers = [make.make_labeler(session, study) for _ in range(3)]
    make.give_label(session, _working(session, study, labelers[0]))
    session.commit()
    page = client.get(here(study, "/guidelines"))
    assert "Example: ranking four completions" in page.text
    assert "1 label given under it" in text_of(page.text)
    form = {"markdown": "# New\r\n\r\nBe *kind*.\r\n<b>x</b>", "based_on": "1"}
    saved = client.post(here(study, "/guidelines"), data=form)
    assert saved.status_code == 200
    version = newest(session, study)
    assert (version.version, version.markdown) == (2, "# New\n\nBe *kind*.\n<b>x</b>\n")
    assert (
        version.created_by == session.scalars(select(User.id).where(User.username == "rosa")).one()
    )
    assert "Be <em>kind</em>." in saved.text
    assert "&lt;b&gt;x&lt;/b&gt;" in saved.text
    acknowledge(session, labelers[1], 2)
    session.commit()
    page = text_of(client.get(here(study, "/guidelines")).text)
    assert "1 of 3 labelers have acknowledged it" in page
    assert "0 labels given under it" in page
    old = text_of(client.get(here(study, "/guidelines/1")).text)
    assert "This is an earlier version. Labelers work under version 2." in old
    assert "Example: ranking four completions" in old
    assert "Be kind" not in old


def _working(session: Session, study: Study, labeler: Membership) -> Membership:
    make.make_demonstration_batch(session, study, 1)
    return labeler


def test_the_changed_lines_are_shown(client: TestClient, study: Study) -> None:
    for based_on, text in ((1, "same\nold"), (2, "same\nnew")):
        form = {"markdown": text, "based_on": str(based_on)}
        assert client.post(here(study, "/guidelines"), data=form).status_code == 200
    page = client.get(here(study, "/guidelines")).text
    assert "<del>old</del>" in page
    assert "<ins>new</ins>" in page
    assert "<ins>same</ins>" not in page


def test_no_edit_of_the_guidelines_is_lost(
    session: Session, client: TestClient, study: Study
) -> None:
    """Two researchers edit version 1; the second hears of it, with the text kept."""
    address = here(study, "/guidelines")
    assert client.post(address, data={"markdown": "Mine.", "based_on": "1"}).status_code == 200
    late = client.post(address, data={"markdown": "Yours & <mine>.", "based_on": "1"})
    assert late.status_code == 409
    assert "Version 2 was saved in the meantime. Your text is kept below" in text_of(late.text)
    assert "Yours &amp; &lt;mine&gt;.</textarea>" in late.text
    assert newest(session, study).markdown == "Mine.\n"
    based_on = re.findall(r'name="based_on" value="(\d+)"', late.text)
    assert based_on == ["2"]
    form = {"markdown": "Both.", "based_on": based_on[0]}
    assert client.post(address, data=form).status_code == 200
    assert (newest(session, study).version, newest(session, study).markdown) == (3, "Both.\n")


@pytest.mark.parametrize(
    ("markdown", "reason"),
    [
        (" \n", "A study needs guidelines"),
        ("x" * 100_001, "at most 100,000 characters"),
        (None, "Nothing has changed since version 1."),
    ],
)
def test_guidelines_that_cannot_be_saved_come_back(
    session: Session, client: TestClient, study: Study, markdown: str | None, reason: str
) -> None:
    text = newest(session, study).markdown if markdown is None else markdown
    page = client.post(here(study, "/guidelines"), data={"markdown": text, "based_on": "1"})
    assert page.status_code == 422
    assert reason in text_of(page.text)
    count = select(func.count()).where(GuidelineVersion.study_id == study.id)
    assert session.scalar(count) == 1


def test_a_preview_saves_nothing(session: Session, client: TestClient, study: Study) -> None:
    form = {"markdown": "**bold** <script>", "based_on": "1"}
    part = client.post(here(study, "/guidelines/preview"), data=form).text
    assert part == "<p><strong>bold</strong> &lt;script&gt;</p>\n"
    whole = client.post(here(study, "/guidelines"), data=form | {"intent": "preview"})
    assert part in whole.text
    assert "**bold** &lt;script&gt;</textarea>" in whole.text
    assert newest(session, study).version == 1


# Flags --------------------------------------------------------------------------------------------


def test_a_flag_is_read_with_what_the_labeler_saw_and_answered(
    session: Session, client: TestClient, study: Study
) -> None:
    labeler = make.make_labeler(session, study, "lena")
    make.make_ranking_batch(session, study, 1)
    assignment = make.take_next(session, labeler)
    shown = [(item.letter, item.completion.text) for item in assignment.items]
    flags.raise_flag(session, assignment, "B holds an <address>.")
    session.commit()
    assert "Flags 1 unanswered" in text_of(client.get(here(study)).text)
    page = text_of(client.get(here(study, "/flags")).text)
    assert "lena unanswered ranking in rankings" in page
    assert "B holds an <address>." in page
    assert " ".join(f"{letter} {text}" for letter, text in shown) in page
    flag = session.scalars(select(Flag)).one()
    empty = client.post(here(study, f"/flags/{flag.id}"), data={"answer": " "})
    assert empty.status_code == 422
    assert "Write an answer." in empty.text
    answered = client.post(here(study, f"/flags/{flag.id}"), data={"answer": "Skip it, please."})
    assert "Skip it, please." in answered.text
    assert "not seen yet" in answered.text
    assert "unanswered" not in answered.text
    again = client.post(here(study, f"/flags/{flag.id}"), data={"answer": "Another."})
    assert again.status_code == 409
    assert "answered in the meantime" in again.text
    assert session.get_one(Flag, flag.id).answer == "Skip it, please."


def test_open_flags_come_first_and_a_demonstrations_draft_is_shown(
    session: Session, client: TestClient, study: Study
) -> None:
    make.make_demonstration_batch(session, study, 2)
    first, second = (make.make_labeler(session, study, name) for name in ("lena", "mia"))
    one, two = make.take_next(session, first), make.take_next(session, second)
    two.draft = {"text": "half a dra"}
    flag = flags.raise_flag(session, one, "first message")
    flags.raise_flag(session, two, "second message")
    rosa = session.scalars(select(User).where(User.username == "rosa")).one()
    flags.answer_flag(session, flag, rosa, "yes")
    flags.raise_flag(session, one, "third message")
    session.commit()
    page = text_of(client.get(here(study, "/flags")).text)
    places = [page.index(f"{word} message") for word in ("third", "second", "first")]
    assert places == sorted(places)
    assert "What they wrote half a dra" in page


# Settings -----------------------------------------------------------------------------------------


def test_settings_are_saved_or_come_back(
    session: Session, client: TestClient, study: Study
) -> None:
    form = {"name": " New name ", "description": "Why", "correction_minutes": "90"}
    saved = client.post(here(study, "/settings"), data=form)
    assert "Saved." in saved.text
    session.refresh(study)
    assert (study.name, study.description, study.correction_minutes) == ("New name", "Why", 90)
    for change, reason in (
        ({"correction_minutes": "a day"}, "a whole number of minutes"),
        ({"correction_minutes": "43201"}, "0 to 43,200 minutes"),
        ({"name": " "}, "1 to 120 characters"),
    ):
        page = client.post(here(study, "/settings"), data=form | {"description": "Typed"} | change)
        assert page.status_code == 422
        assert reason in text_of(page.text)
        assert "Typed</textarea>" in page.text
    session.refresh(study)
    assert study.description == "Why"


# Simulated labelers -------------------------------------------------------------------------------


@pytest.mark.parametrize("style", list(WritingStyle))
def test_simulated_labelers_write_prompts_of_each_kind(
    session: Session, client: TestClient, style: WritingStyle
) -> None:
    study = make.make_study(session, "Rehearsal", rehearsal=True)
    make.make_labeler(session, study, "sim", simulated=True)
    create_writing_batch(session, study, name="x", style=style, count=2, briefs=["A farm"])
    session.commit()
    sign_in(client, "sim")
    labeler = SimulatedLabeler(1)
    for _ in range(2):
        page = read_page(client.get(f"/label/{study.slug}").text)
        assert client.post(page.action, data=fill_form(page, labeler)).status_code == 200
    assert session.scalar(select(func.count()).select_from(Prompt)) == 2
    few_shot = session.scalars(select(Prompt.few_shot)).all()
    assert [parts is not None for parts in few_shot] == [style is WritingStyle.few_shot] * 2
    assert set(session.scalars(select(LabelTask.state))) == {LabelTaskState.complete}


def test_simulated_labelers_say_which_questions_apply(session: Session, client: TestClient) -> None:
    study = make.make_study(session, "Rehearsal", rehearsal=True)
    make.make_labeler(session, study, "sim", simulated=True)
    drawn = (p.text for p in generate_prompts(1, 400) if p.closed_domain and p.constraint)
    make.make_ranking_batch(session, study, [make.make_prompt(session, study, next(drawn))], k=3)
    session.commit()
    sign_in(client, "sim")
    page = read_page(client.get(f"/label/{study.slug}").text)
    assert client.post(page.action, data=fill_form(page, SimulatedLabeler(1))).status_code == 200
    ratings = session.scalars(select(Rating)).all()
    assert len(ratings) == 3
    assert all(isinstance(rating.hallucination, bool) for rating in ratings)
    assert all(isinstance(rating.satisfies_constraint, bool) for rating in ratings)
    about = session.scalars(select(PromptRating)).one()
    assert (about.closed_domain, about.safety_constraints, about.other_constraints) == (
        True,
        False,
        True,
    )
