"""A labeler's day, in Chromium: tasks without waiting, history, flags, guidelines, help."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import (
    Assignment,
    AssignmentState,
    Demonstration,
    Flag,
    GuidelineVersion,
    Ranking,
    RankingItem,
    User,
)
from app.services import flags
from tests import factories as make

# When the next task is on the screen: its form is there and a frame has been drawn.
WATCH_SWAP = """
() => {
  window.shown = [];
  let pressed = 0;
  document.addEventListener("submit", () => (pressed = performance.now()), true);
  new MutationObserver((changes) => {
    const added = changes.flatMap((change) => [...change.addedNodes]);
    const came = added.some((node) => node.id === "main");
    if (came) requestAnimationFrame(() => window.shown.push(performance.now() - pressed));
  }).observe(document.body, { childList: true });
}
"""


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


def write(page: Page, text: str) -> None:
    """Type a demonstration once the page's script has started, as its count of words tells."""
    expect(page.locator("#word-count")).not_to_be_empty()
    page.locator("#text").fill(text)


def test_the_next_task_is_there_when_one_is_submitted(
    quiet_page: Page, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine) as session:
        study = make.make_study(session, "Quick")
        make.make_labeler(session, study, "quick")
        prompts = [make.make_prompt(session, study, f"Prompt number {n}.") for n in range(8)]
        make.make_demonstration_batch(session, study, prompts)
        study_id = study.id
        session.commit()
    page = quiet_page
    sign_in(page, live_url, "quick")
    page.evaluate(WATCH_SWAP)
    text = page.locator("#text")
    for number in range(7):
        expect(page.locator("#prompt-text")).to_have_text(f"Prompt number {number}.")
        expect(page.locator("#today")).to_have_text(f"{number} today")
        expect(text).to_be_focused()
        page.keyboard.type(f"Answer {number}")
        page.wait_for_function("() => document.documentElement.dataset.ahead === 'ready'")
        page.keyboard.press("Control+Enter")
    expect(page.locator("#prompt-text")).to_have_text("Prompt number 7.")
    shown = page.evaluate("window.shown")
    print(f"next task shown after {sorted(round(ms) for ms in shown)} ms")
    assert len(shown) == 7  # each was a swap, none a page load
    assert statistics.median(shown) < 1000  # the claim is 100 ms on an idle machine

    # The address and the title are the task's own; Back shows what was submitted.
    address = page.url
    page.reload()
    expect(page.locator("#prompt-text")).to_have_text("Prompt number 7.")
    assert page.url == address
    page.go_back()
    expect(page.get_by_role("heading", name="What you submitted")).to_be_visible()
    expect(page.get_by_text("Answer 6")).to_be_visible()
    page.get_by_role("link", name="Next task").click()
    write(page, "Answer 7")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    with Session(live_engine) as session:
        texts = select(Demonstration.text).where(Demonstration.study_id == study_id)
        assert sorted(session.scalars(texts)) == [f"Answer {n}" for n in range(8)]
        active = select(Assignment.active_seconds).where(Assignment.study_id == study_id)
        assert all(0 <= seconds < 120 for seconds in session.scalars(active))


def test_a_refused_field_says_so_until_it_is_mended(
    page: Page, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine) as session:
        study = make.make_study(session, "Refused")
        make.make_labeler(session, study, "refused")
        make.make_demonstration_batch(session, study, 2)
        session.commit()
    sign_in(page, live_url, "refused")
    write(page, "   ")
    page.keyboard.press("Control+Enter")
    text = page.locator("#text")
    expect(text).to_have_attribute("aria-invalid", "true")
    expect(text).to_have_accessible_description("Write the completion before you submit it.")
    write(page, "A completion.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#today")).to_have_text("1 today")
    expect(page.locator("#text")).not_to_have_attribute("aria-invalid", "true")


def test_keys_open_help_skip_and_flag_and_act_in_no_text_field(
    quiet_page: Page, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine) as session:
        study = make.make_study(session, "Keys")
        labeler = make.make_labeler(session, study, "keys")
        rosa = make.make_researcher(session, study)
        make.make_demonstration_batch(session, study, 3)
        study_id, user_id, rosa_id = study.id, labeler.user_id, rosa.id
        session.commit()
    page = quiet_page
    sign_in(page, live_url, "keys")
    text = page.locator("#text")
    expect(text).to_be_focused()
    page.keyboard.type("is?SF")  # into the text, and nowhere else
    expect(text).to_have_value("is?SF")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("Alt+p")
    expect(page.locator("#preview")).to_have_text("is?SF")
    expect(text).to_be_hidden()

    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys).to_be_visible()
    expect(keys).to_contain_text("Skip, with a reason")
    page.keyboard.press("s")  # not while a dialog is open
    expect(page.locator("#skip")).not_to_have_attribute("open", "")
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()

    page.keyboard.press("Shift+F")
    message = page.get_by_label("What shall a researcher know?")
    expect(message).to_be_focused()
    page.keyboard.type("Is this meant?")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_have_text("Sent. The answer will come under Flags.")
    with Session(live_engine) as session:
        flag = session.scalars(select(Flag).where(Flag.study_id == study_id)).one()
        flags.answer_flag(session, flag, session.get_one(User, rosa_id), "Yes, it is.")
        session.commit()

    page.locator("main h1").click()
    page.keyboard.press("s")
    expect(page.get_by_label("I cannot tell what is asked")).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(text).to_have_value("")  # the next task
    with Session(live_engine) as session:
        states = select(Assignment.state).where(Assignment.user_id == user_id)
        assert set(session.scalars(states)) >= {AssignmentState.skipped, AssignmentState.leased}

    page.reload()
    page.get_by_role("link", name="Flags 1 new answer").click()
    expect(page.get_by_text("Yes, it is.")).to_be_visible()
    page.reload()
    expect(page.get_by_role("link", name="Flags", exact=True)).to_be_visible()


def test_history_correction_and_changed_guidelines(
    quiet_page: Page, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine) as session:
        study = make.make_study(session, "Second thoughts")
        make.make_labeler(session, study, "thoughtful")
        prompts = [make.make_prompt(session, study, text) for text in ("Name a color.", "And two.")]
        make.make_demonstration_batch(session, study, prompts)
        study_id = study.id
        session.commit()
    page = quiet_page
    sign_in(page, live_url, "thoughtful")
    text = page.locator("#text")
    write(page, "Rde.")
    with Session(live_engine) as session:
        session.add(GuidelineVersion(study_id=study_id, version=2, markdown="Spell it **right**."))
        session.commit()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="The guidelines have changed")).to_be_visible()
    page.get_by_role("link", name="Work").click()  # there is no way round it
    expect(page.get_by_role("heading", name="The guidelines have changed")).to_be_visible()
    page.get_by_role("button", name="I have read them").click()
    expect(page.locator("#prompt-text")).to_have_text("And two.")

    page.get_by_role("link", name="History").click()
    page.get_by_role("link", name="Correct: Name a color.").click()
    expect(page.get_by_role("heading", name="Correct: Write the completion")).to_be_visible()
    expect(text).to_have_value("Rde.")
    write(page, "Red")
    expect(page.locator("#draft-state")).to_contain_text("Draft saved", timeout=10_000)
    page.reload()
    expect(text).to_have_value("Red")
    text.press("End")
    page.keyboard.type(".")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="Revision 2")).to_be_visible()
    expect(page.get_by_text("under version 2 of the guidelines")).to_be_visible()
    expect(page.get_by_text("Rde.")).to_be_visible()
    with Session(live_engine) as session:
        rows = select(Demonstration.text, Demonstration.superseded_at.is_(None)).where(
            Demonstration.study_id == study_id
        )
        assert session.execute(rows.order_by(Demonstration.id)).all() == [
            ("Rde.", False),
            ("Red.", True),
        ]


def test_it_works_without_javascript_and_on_a_phone(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine) as session:
        study = make.make_study(session, "Phones")
        make.make_labeler(session, study, "bo")
        make.make_ranking_batch(session, study, 1, k=4)
        make.make_demonstration_batch(session, study, 2)
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
    page.locator("#flag > summary").click()
    page.get_by_label("What shall a researcher know?").fill("A question.")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Help").click()
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    page.locator("#text").fill("Red.")
    page.get_by_role("button", name="Submit").click()
    page.locator("#skip > summary").click()
    page.get_by_label("Something else").check()
    page.get_by_role("button", name="Skip it").click()
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    page.get_by_role("link", name="History").click()
    expect(page.get_by_text("3 in all")).to_be_visible()
    context.close()
    with Session(live_engine) as session:
        tiers = select(RankingItem.tier).join(RankingItem.ranking).order_by(RankingItem.tier)
        assert session.scalars(tiers.where(Ranking.study_id == study_id)).all() == [1, 2, 2, 3]
        assert session.scalars(select(Flag.message).where(Flag.study_id == study_id)).all() == [
            "A question."
        ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_pass_axe_and_fit_a_phone(
    browser: Browser, live_url: str, live_engine: Engine, scheme: Literal["light", "dark"]
) -> None:
    """WCAG 2 A and AA, contrast included, and no scrolling sideways at 390 pixels."""
    with Session(live_engine) as session:
        study = make.make_study(session, f"A {scheme} study")
        labeler = make.make_labeler(session, study, f"cy-{scheme}")
        rosa = make.make_researcher(session, study)
        prompts = [make.make_prompt(session, study) for _ in range(3)]
        prompts[0].few_shot = {
            "instruction": "Give the mood.",
            "pairs": [{"query": "I passed!", "response": "glad"}],
            "query": "So what?",
        }
        make.make_demonstration_batch(session, study, prompts)
        first = make.take_next(session, labeler)
        flag = flags.raise_flag(session, first, "Is this meant?")
        flags.answer_flag(session, flag, rosa, "Yes.")
        slug, study_id = study.slug, study.id
        session.commit()
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    found: dict[str, list[str]] = {}

    def check(name: str) -> None:
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
        violations = Axe().run(page, options=options).response["violations"]
        found[name] = [f"{v['id']}: {v['nodes'][0]['html']}" for v in violations]
        page.set_viewport_size({"width": 390, "height": 844})
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if overflow > 0:
            found[name].append(f"{overflow} pixels wider than a phone")
        page.set_viewport_size({"width": 1280, "height": 800})

    page.goto(f"{live_url}/login")
    check("sign in")
    sign_in(page, live_url, f"cy-{scheme}")
    write(page, "Red")
    check("demonstration")
    page.get_by_role("button", name="Preview").click()
    check("preview")
    page.get_by_role("button", name="Guidelines").click()
    check("guidelines beside the work")
    page.locator("#guidelines").get_by_role("button", name="Close").click()
    for menu in ("flag", "skip"):
        page.locator(f"#{menu} > summary").click()
        check(f"{menu} menu")
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Help").click()
    check("help")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#today")).to_have_text("1 today")
    page.goto(f"{live_url}/label/{slug}/flags")
    check("flags")
    page.goto(f"{live_url}/label/{slug}/history")
    check("history")
    page.get_by_role("link", name="Correct").click()
    write(page, "Red, then blue")
    check("correction")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="Revision 2")).to_be_visible()
    check("submitted")
    with Session(live_engine) as session:
        session.add(GuidelineVersion(study_id=study_id, version=2, markdown="# New\n\nRead me."))
        session.commit()
    page.goto(f"{live_url}/label/{slug}")
    write(page, "Blue")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="The guidelines have changed")).to_be_visible()
    check("changed guidelines")
    page.get_by_role("button", name="I have read them").click()
    write(page, "Green")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()
    check("no work")
    context.close()
    assert {name: problems for name, problems in found.items() if problems} == {}
