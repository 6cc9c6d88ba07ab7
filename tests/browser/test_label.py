"""A labeler's first minutes, in Chromium: write, leave and come back, rank by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import Assignment, AssignmentItem, Demonstration, Ranking, RankingItem, Rating
from tests import factories as make


@pytest.fixture
def quiet_page(browser: Browser) -> Iterator[Page]:
    """A page that may log no error: no refused style or script, no exception."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
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


def test_write_a_demonstration_and_rank_four_by_keyboard(
    quiet_page: Page, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine) as session:
        study = make.make_study(session, "First study")
        make.make_labeler(session, study, "ada")
        demonstrations = make.make_demonstration_batch(session, study, 1)
        rankings = make.make_ranking_batch(session, study, 1, k=4)
        assert demonstrations.id < rankings.id
        session.commit()
    page = quiet_page
    sign_in(page, live_url, "ada")

    # The draft is in this browser at once, on the server soon after, and survives a reload.
    text = page.get_by_label("The completion you would like to receive")
    text.fill("Red, orange, yellow")
    expect(page.get_by_text("3 words")).to_be_visible()
    page.reload()
    expect(text).to_have_value("Red, orange, yellow")
    expect(page.locator("#draft-state")).to_contain_text("Draft saved", timeout=5000)
    page.evaluate("localStorage.clear()")
    page.reload()
    expect(text).to_have_value("Red, orange, yellow")
    expect(page.locator("#draft-state")).to_contain_text("is back")
    expect(page.locator("#lease")).to_have_text("60 min left")
    text.press("End")
    text.type(", green.")
    page.keyboard.press("Control+Enter")

    # Rate, then rank: a letter goes to a completion, and a digit rates or places it.
    expect(page.get_by_role("heading", name="Rate and rank 4 completions")).to_be_visible()
    page.keyboard.press("b")
    page.keyboard.press("7")
    page.keyboard.press("a")
    harmful = page.locator("#completion-A").get_by_role("group", name="Gives harmful advice")
    harmful.get_by_label("No", exact=True).check(force=True)
    submit = page.get_by_role("button", name="Submit")
    for key in ["r", "b", "1", "c", "1", "a", "4", "d", "3", "0"]:
        page.keyboard.press(key)
    expect(page.get_by_text("3 of 4 placed")).to_be_visible()
    expect(page.locator("#rail")).to_have_text("B=C>Anot placedD")
    expect(submit).to_be_disabled()
    page.keyboard.press("Control+Enter")  # refused: D has no place
    page.keyboard.press("2")
    expect(page.locator("#rail")).to_have_text("B=C>D>A")
    expect(submit).to_be_enabled()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    expect(page.get_by_text("You gave 2 labels today")).to_be_visible()

    with Session(live_engine) as session:
        assert session.scalars(select(Demonstration.text)).all() == ["Red, orange, yellow, green."]
        letter_of = {
            item.completion_id: item.letter for item in session.scalars(select(AssignmentItem))
        }
        tiers = {
            letter_of[completion_id]: tier
            for completion_id, tier in session.execute(
                select(RankingItem.completion_id, RankingItem.tier)
            )
        }
        assert tiers == {"B": 1, "C": 1, "D": 2, "A": 3}
        ratings = {letter_of[row.completion_id]: row for row in session.scalars(select(Rating))}
        assert {letter: row.overall for letter, row in ratings.items()} == {"B": 7, "A": None}
        assert ratings["A"].harmful_advice is False
        active = session.scalars(select(Assignment.active_seconds)).all()
        assert all(0 <= seconds < 60 for seconds in active)


def test_it_works_without_javascript_and_on_a_phone(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine) as session:
        study = make.make_study(session, "Phones")
        make.make_labeler(session, study, "bo")
        make.make_ranking_batch(session, study, 1, k=4)
        study_id = study.id
        session.commit()
    context = browser.new_context(
        java_script_enabled=False, viewport={"width": 390, "height": 844}, color_scheme="dark"
    )
    page = context.new_page()
    sign_in(page, live_url, "bo")
    for letter, tier in zip("ABCD", "1224", strict=True):
        page.locator(f'input[name="tier_{letter}"][value="{tier}"]').check(force=True)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    context.close()
    with Session(live_engine) as session:
        tiers = select(RankingItem.tier).join(RankingItem.ranking).order_by(RankingItem.tier)
        assert session.scalars(tiers.where(Ranking.study_id == study_id)).all() == [1, 2, 2, 3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_pass_axe(
    browser: Browser, live_url: str, live_engine: Engine, scheme: Literal["light", "dark"]
) -> None:
    """WCAG 2 A and AA, contrast included, on sign-in, both kinds of task, and no work."""
    with Session(live_engine) as session:
        study = make.make_study(session, f"A {scheme} study")
        make.make_labeler(session, study, f"cy-{scheme}")
        make.make_demonstration_batch(session, study, 1)
        make.make_ranking_batch(session, study, 1, k=4)
        session.commit()
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    found: dict[str, list[str]] = {}

    def check(name: str) -> None:
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
        violations = Axe().run(page, options=options).response["violations"]
        found[name] = [f"{v['id']}: {v['nodes'][0]['html']}" for v in violations]

    page.goto(f"{live_url}/login")
    check("sign in")
    sign_in(page, live_url, f"cy-{scheme}")
    check("demonstration")
    page.get_by_role("button", name="Guidelines").click()
    check("guidelines")
    page.get_by_label("The completion you would like to receive").fill("Red")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="Rate and rank 4 completions")).to_be_visible()
    page.locator("#about-prompt > summary").click()
    check("rating")
    for key in ["r", "b", "1", "c", "1", "a", "3"]:
        page.keyboard.press(key)
    check("ranking")
    page.keyboard.press("d")
    page.keyboard.press("4")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    check("no work")
    context.close()
    assert {name: problems for name, problems in found.items() if problems} == {}
