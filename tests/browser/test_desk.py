"""Prompts that labelers write, and the researcher's side of the workbench, in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import Flag, GuidelineVersion, Prompt, Study, UseCase, WritingStyle
from app.services import assignments, flags
from app.services.writing import create_writing_batch
from tests import factories as make


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may log no error: no refused style or script, no exception.

    That a form was refused with 409 or 422 Chromium logs too; the tests that do it look for it.
    """
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        refused = re.search(r"responded with a status of (409|422)", message.text)
        if message.type in {"error", "warning"} and not refused:
            complaints.append(message.text)

    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


def sign_in(page: Page, address: str, username: str) -> None:
    page.goto(f"{address}/login")
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password").fill(make.PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def make_writing(session: Session, name: str, style: WritingStyle, count: int = 1) -> Study:
    """A study with prompts to write, and a labeler of the study's name."""
    study = make.make_study(session, name)
    make.make_labeler(session, study, name)
    briefs = ["Letters to a <landlord>"] if style is WritingStyle.user_based else []
    create_writing_batch(session, study, name="x", style=style, count=count, briefs=briefs)
    return study


def prompts_of(engine: Engine, study: Study) -> list[Prompt]:
    with Session(engine) as session:
        return list(
            session.scalars(select(Prompt).where(Prompt.study_id == study.id).order_by(Prompt.id))
        )


def test_write_a_few_shot_prompt_by_keyboard(
    page: Page, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine, expire_on_commit=False) as session:
        study = make_writing(session, "fay", WritingStyle.few_shot)
        session.commit()
    sign_in(page, live_url, "fay")
    keys = page.keyboard
    expect(page.get_by_label("Instruction")).to_be_focused()
    expect(page.get_by_role("group", name="Pair 3")).to_be_hidden()
    for text in ("Give the mood.", "I passed!", "glad", "It rains.", "glum"):
        keys.type(text)
        keys.press("Tab")
    # A third pair; then the second is removed, and comes back where it was.
    expect(page.get_by_role("button", name="Add a pair")).to_be_focused()
    keys.press("Enter")
    expect(page.get_by_label("Query 3")).to_be_focused()
    keys.type("No!")
    keys.press("Tab")
    keys.type("cross")
    expect(page.get_by_text("11 words")).to_be_visible()
    remove = page.get_by_role("button", name="Remove pair 2")
    remove.focus()
    keys.press("Enter")
    expect(page.locator("#live")).to_have_text("Pair 2 removed; 2 pairs are left")
    expect(page.get_by_label("Query 2")).to_have_value("No!")
    expect(page.get_by_label("Query 2")).to_be_focused()
    expect(page.get_by_role("group", name="Pair 3")).to_be_hidden()
    expect(remove).to_be_hidden()  # two are the fewest
    page.get_by_role("button", name="Bring the removed pair back").focus()
    keys.press("Enter")
    expect(page.get_by_label("Query 2")).to_have_value("It rains.")
    expect(page.get_by_label("Query 3")).to_have_value("No!")

    # All of it is a draft: it comes back after a reload, with as many pairs.
    expect(page.locator("#draft-state")).to_contain_text("Draft saved", timeout=5000)
    page.reload()
    expect(page.get_by_label("Response 3")).to_have_value("cross")
    expect(page.get_by_role("group", name="Pair 4")).to_be_hidden()
    page.get_by_label("The query to respond to").focus()
    keys.type("Where is everybody?")
    keys.press("Control+Enter")
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    [prompt] = prompts_of(live_engine, study)
    assert prompt.few_shot == {
        "instruction": "Give the mood.",
        "pairs": [
            {"query": "I passed!", "response": "glad"},
            {"query": "It rains.", "response": "glum"},
            {"query": "No!", "response": "cross"},
        ],
        "query": "Where is everybody?",
    }


def test_write_plain_and_user_based_prompts_by_keyboard(
    page: Page, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine, expire_on_commit=False) as session:
        plain = make_writing(session, "pia", WritingStyle.plain, 2)
        based = make_writing(session, "uma", WritingStyle.user_based)
        make.make_prompt(session, plain, "Name a bird.")
        session.commit()
    sign_in(page, live_url, "pia")
    keys = page.keyboard
    expect(page.get_by_label("Your prompt")).to_be_focused()
    keys.type("Name a bird.")
    keys.press("Tab")
    expect(page.get_by_label("Kind of task")).to_be_focused()
    keys.type("Brain")  # a select goes to what is typed
    keys.press("Control+Enter")
    expect(page.locator("#notice")).to_contain_text("this very prompt already")
    prompt = page.get_by_label("Your prompt")
    expect(prompt).to_have_value("Name a bird.")
    expect(page.get_by_label("Kind of task")).to_have_value("brainstorming")
    prompt.focus()
    keys.press("End")
    keys.type(" Then another.")
    keys.press("Control+Enter")
    expect(page.get_by_text("1 today")).to_be_visible()
    expect(prompt).to_have_value("")  # the next one
    expect(prompt).to_be_focused()
    keys.type("Name a fish.")
    keys.press("Control+Enter")
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    _, first, second = prompts_of(live_engine, plain)
    assert (first.text, first.use_case) == (
        "Name a bird. Then another.",
        UseCase.brainstorming,
    )
    assert (second.text, second.use_case) == ("Name a fish.", None)

    page.context.clear_cookies()
    sign_in(page, live_url, "uma")
    expect(page.get_by_text("Letters to a <landlord>")).to_be_visible()
    expect(prompt).to_be_focused()
    keys.type("Write to my landlord: the tap drips.")
    keys.press("Control+Enter")
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    assert [p.text for p in prompts_of(live_engine, based)] == [
        "Write to my landlord: the tap drips."
    ]


@pytest.mark.parametrize("style", list(WritingStyle))
def test_prompts_are_written_without_javascript(
    browser: Browser, live_url: str, live_engine: Engine, style: WritingStyle
) -> None:
    """On a phone: every pair is there, an error keeps what was typed, and it is stored."""
    name = f"plain-{style.value}"
    with Session(live_engine, expire_on_commit=False) as session:
        study = make_writing(session, name, style)
        session.commit()
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page = context.new_page()
    sign_in(page, live_url, name)
    if style is WritingStyle.few_shot:
        page.get_by_label("Instruction").fill("Give the mood.")
        for place, (query, response) in {1: ("Hooray", "glad"), 6: ("Alas", "")}.items():
            page.get_by_label(f"Query {place}").fill(query)
            page.get_by_label(f"Response {place}").fill(response)
        page.get_by_label("The query to respond to").fill("Oh")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("alert")).to_contain_text("Pair 6 has a query and no response.")
        expect(page.get_by_label("Response 1")).to_have_value("glad")
        page.get_by_label("Response 6").fill("sad")
    else:
        page.get_by_label("Your prompt").fill("Name a bird.")
        page.get_by_label("Kind of task").select_option("open_qa")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    context.close()
    [prompt] = prompts_of(live_engine, study)
    if style is WritingStyle.few_shot:
        assert prompt.text == (
            "Give the mood.\n\nQuery: Hooray\nResponse: glad\n\nQuery: Alas\nResponse: sad"
            "\n\nQuery: Oh\nResponse:"
        )
    else:
        assert (prompt.text, prompt.use_case) == ("Name a bird.", UseCase.open_qa)


def test_edit_the_guidelines_with_a_preview(page: Page, live_url: str, live_engine: Engine) -> None:
    with Session(live_engine, expire_on_commit=False) as session:
        study = make.make_study(session, "Guided")
        make.make_researcher(session, study, "gil")
        session.commit()
    sign_in(page, live_url, "gil")
    page.goto(f"{live_url}/studies/{study.slug}/guidelines")
    page.get_by_role("link", name="Edit").click()
    text = page.get_by_label("Markdown")
    text.fill("# Be brief\n\n- **Short** answers")
    expect(page.locator("#preview").get_by_role("heading", name="Be brief")).to_be_visible()
    expect(page.locator("#preview strong")).to_have_text("Short")

    # Somebody else is faster: nothing is lost, and the next attempt goes on from theirs.
    with Session(live_engine) as session:
        session.add(GuidelineVersion(study_id=study.id, version=2, markdown="Theirs.\n"))
        session.commit()
    page.get_by_role("button", name="Save as version 2").click()
    expect(page.get_by_role("alert")).to_contain_text("Version 2 was saved in the meantime")
    expect(text).to_have_value("# Be brief\n\n- **Short** answers")
    page.get_by_role("button", name="Save as version 3").click()
    expect(page.get_by_role("heading", name="Guidelines version 3")).to_be_visible()
    expect(page.get_by_role("article").get_by_text("Short answers")).to_be_visible()
    page.get_by_text("What version 3 changed").click()
    expect(page.locator("del").first).to_have_text("Theirs.")
    page.get_by_role("link", name="Version 2").click()
    expect(page.get_by_text("Labelers work under version 3")).to_be_visible()
    expect(page.get_by_role("article")).to_have_text("Theirs.")


def test_answer_a_flag_and_withdraw_a_batch(page: Page, live_url: str, live_engine: Engine) -> None:
    with Session(live_engine, expire_on_commit=False) as session:
        study = make.make_study(session, "Flagged")
        make.make_researcher(session, study, "finn")
        labeler = make.make_labeler(session, study, "flo")
        make.make_ranking_batch(session, study, 2)
        flags.raise_flag(session, make.take_next(session, labeler), "Is C a <joke>?")
        session.commit()
    sign_in(page, live_url, "finn")
    page.goto(f"{live_url}/studies/{study.slug}")
    page.get_by_role("link", name="Flags 1 unanswered").click()
    expect(page.get_by_text("Is C a <joke>?")).to_be_visible()
    page.get_by_text("What the labeler saw").click()
    expect(page.get_by_role("heading", name="D", exact=True)).to_be_visible()
    page.get_by_label("Answer to flo").fill("It is; rank it low.")
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_text("It is; rank it low.")).to_be_visible()
    expect(page.get_by_role("link", name="Flags", exact=True)).to_be_visible()
    with Session(live_engine) as session:
        flag = session.scalars(select(Flag).where(Flag.study_id == study.id)).one()
        assert (flag.answer, flag.seen_at) == ("It is; rank it low.", None)

    page.get_by_role("link", name="rankings", exact=True).click()
    questions: list[str] = []
    page.once("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))
    page.get_by_role("button", name="Withdraw").click()
    expect(page.get_by_text("2 label tasks withdrawn")).to_be_visible()
    assert questions == [
        "Withdraw the 2 label tasks that are still open? You can reopen them later."
    ]
    page.get_by_role("button", name="Reopen what was withdrawn").click()
    expect(page.get_by_role("button", name="Withdraw")).to_be_visible()


def test_every_page_of_the_study_is_within_reach_on_a_phone(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine, expire_on_commit=False) as session:
        study = make.make_study(session, "A study with quite a long name of its own")
        make.make_researcher(session, study, "phil")
        session.commit()
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    sign_in(page, live_url, "phil")
    page.goto(f"{live_url}/studies/{study.slug}")
    links = page.get_by_role("navigation", name="Study").get_by_role("link").all()
    assert [link.inner_text() for link in links] == [
        "Overview",
        "Prompts",
        "Labels",
        "Flags",
        "Guidelines",
        "People",
        "Import",
        "Exports",
        "Settings",
    ]
    for link in links:
        box = link.bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= 390
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_pass_axe(
    browser: Browser, live_url: str, live_engine: Engine, scheme: Literal["light", "dark"]
) -> None:
    """WCAG 2 A and AA, contrast included, on every page that is new here."""
    with Session(live_engine, expire_on_commit=False) as session:
        study = make.make_study(session, f"Checked {scheme}")
        researcher = make.make_researcher(session, study, f"rex-{scheme}")
        labelers = [make.make_labeler(session, study) for _ in range(3)]
        batch = make.make_demonstration_batch(session, study, 3)
        answered, open_ = (make.take_next(session, labeler) for labeler in labelers[:2])
        flags.answer_flag(session, flags.raise_flag(session, answered, "One?"), researcher, "Yes.")
        flags.raise_flag(session, open_, "Two?")
        assignments.skip(session, make.take_next(session, labelers[2]), "unclear")
        make.make_ranking_batch(session, study, 1)
        session.add(GuidelineVersion(study_id=study.id, version=2, markdown="| a |\n|---|\n| b |"))
        for style in WritingStyle:
            make_writing(session, f"{style.value}-{scheme}", style)
        session.commit()
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    found: dict[str, list[str]] = {}

    def check(name: str) -> None:
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
        violations = Axe().run(page, options=options).response["violations"]
        found[name] = [f"{v['id']}: {v['nodes'][0]['html']}" for v in violations]

    sign_in(page, live_url, f"rex-{scheme}")
    paths = ["batches", f"batches/{batch.id}", "batches/new/prompt", "batches/new/ranking"]
    paths += ["flags", "guidelines", "guidelines/1", "guidelines/edit", "settings", "prompts"]
    for path in paths:
        page.goto(f"{live_url}/studies/{study.slug}/{path}")
        for summary in page.locator("main summary").all():
            summary.click()
        check(path)
    for style in WritingStyle:
        context.clear_cookies()
        sign_in(page, live_url, f"{style.value}-{scheme}")
        expect(page.get_by_text("0 words")).to_be_visible()
        check(style.value)
        page.get_by_role("button", name="Submit").click()
    context.close()
    assert {name: problems for name, problems in found.items() if problems} == {}
