"""The queue of held prompts in Chromium: by keyboard alone, undone, and accessible."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import Prompt
from app.services.preparation.sifting import Preparation
from app.services.prompts import PromptRow, add_prompts
from tests import factories as make
from tests.browser.test_desk import sign_in

TEXTS = [
    "My name is Ines Okafor, and my flat at 48 Maple Street, Springfield, IL 62704 is cold. "
    "Write a letter to my landlord Gerald, and put my telephone in it: +49 30 901820.",
    "Why does this not work?\n\nexport GITHUB_TOKEN=ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "Dear Diary is a film. Summarize it for Mrs. Hattersley.",
]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may log nothing: no refused style or script, no exception."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


def states(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return [
            state.value for state in session.scalars(select(Prompt.pii_state).order_by(Prompt.id))
        ]


def test_the_queue_by_keyboard(page: Page, live_url: str, live_engine: Engine) -> None:
    with Session(live_engine, expire_on_commit=False) as session:
        study = make.make_study(session, "Letters")
        make.make_researcher(session, study, "rosa")
        rows = [PromptRow(text=text, user="ann") for text in TEXTS]
        assert add_prompts(session, study, rows, preparation=Preparation(session, study)).held == 3
        session.commit()
    sign_in(page, live_url, "rosa")
    page.goto(f"{live_url}/studies/{study.slug}/pii")
    expect(page.locator("mark")).to_have_count(6)
    keys = page.keyboard
    keys.press("j")
    keys.press("j")
    expect(page.locator("article").nth(1)).to_be_focused()
    keys.press("d")
    expect(page.get_by_role("status")).to_contain_text("was dropped")
    assert states(live_engine) == ["held", "dropped", "held"]
    expect(page.locator("article").first).to_be_focused()  # the keys go on from here
    keys.press("r")
    expect(page.get_by_role("status")).to_contain_text("was redacted")
    expect(page.locator("article").first).to_be_focused()
    keys.press("c")
    expect(page.get_by_role("status")).to_contain_text("was cleared")
    assert states(live_engine) == ["redacted", "dropped", "cleared"]
    page.wait_for_load_state()  # the keys are there
    expect(page.get_by_role("heading", name="No prompt is held")).to_be_visible()
    keys.press("z")
    expect(page.locator("mark")).to_have_count(1)
    assert states(live_engine) == ["redacted", "dropped", "held"]
    # Letters typed into a field decide nothing.
    page.get_by_text("Take out more").click()
    page.get_by_label("Further passages").press_sequentially("rcd Hattersley")
    assert states(live_engine) == ["redacted", "dropped", "held"]
    results = Axe().run(page)
    assert results.response["violations"] == [], results.generate_report()
