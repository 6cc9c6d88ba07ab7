"""Questions that only some prompts raise, asked once the labeler says that this one does."""

from __future__ import annotations

from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import Assignment, User
from tests import factories as make
from tests.browser.bench import Keys, given_ranking, labeler_page, said, stored, submitted


def asks(page: Page, letter: str, question: str) -> Locator:
    return page.locator(f"#completion-{letter}").get_by_role("group", name=question)


def test_a_yes_about_the_prompt_raises_a_question_about_each_completion(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    """By keyboard. A question that is withdrawn keeps its answers for when it is raised again."""
    given_ranking(live_engine, "dora", 4)
    with labeler_page(browser, live_url, "dora") as page:
        press = Keys(page)
        expect(asks(page, "A", "Fails to follow")).to_be_visible()
        expect(asks(page, "A", "Hallucination")).to_be_hidden()
        expect(asks(page, "A", "Satisfies the constraint")).to_be_hidden()
        press("j", "j", "j")  # past the question that is not asked
        expect(asks(page, "A", "Contains sexual")).to_be_focused()

        press("q")
        expect(page.get_by_role("group", name="Brings the text")).to_be_focused()
        press("y")
        said(
            page,
            "Prompt, Brings the text to keep to (closed-domain): yes. "
            "Now asked of each completion: Hallucination.",
        )
        expect(asks(page, "A", "Hallucination")).to_be_visible()
        expect(page.get_by_role("group", name="Names safety constraints")).to_be_focused()
        press("n", "y")
        expect(asks(page, "A", "Satisfies the constraint")).to_be_visible()
        expect(page.get_by_role("group", name="Is ambiguous")).to_be_hidden()
        press("q")
        expect(page.get_by_role("group", name="Is ambiguous")).to_be_focused()
        press("k")
        expect(page.get_by_role("group", name="Names other constraints")).to_be_focused()
        press("a", "j", "j", "j", "y", "y")
        press("b", "j", "j", "j", "n")
        expect(asks(page, "B", "Satisfies the constraint")).to_be_focused()
        expect(page.get_by_role("button", name="A, rated in part")).to_be_visible()

        press("q", "n")
        said(page, "Prompt, Brings the text to keep to (closed-domain): no.")
        press("b")
        expect(asks(page, "B", "Hallucination")).to_be_hidden()
        expect(page.get_by_role("button", name="B, not rated")).to_be_visible()
        expect(page.locator("#draft-state")).to_contain_text("Draft saved", timeout=15_000)
        with Session(live_engine) as session:
            drafts = select(Assignment.draft).join(User, User.id == Assignment.user_id)
            draft = session.scalars(drafts.where(User.username == "dora")).one()
            assert draft is not None
            assert (draft["hallucination_A"], draft["hallucination_B"]) == ("yes", "no")
        page.reload()
        press("b")
        expect(asks(page, "B", "Hallucination")).to_be_hidden()
        press("q", "y", "b")
        answer = asks(page, "B", "Hallucination").get_by_label("No", exact=True)
        expect(answer).to_be_checked()
        press("z")
        expect(asks(page, "B", "Hallucination")).to_be_hidden()
        press("r", "a", "1", "b", "1", "c", "1", "d", "1", "Control+Enter")
        submitted(page)
    kept = stored(live_engine, "dora")
    assert kept.overall == {"A": None}
    assert kept.answers == {"A": {"satisfies_constraint": True}}
    assert kept.prompt == {
        "closed_domain": False,
        "safety_constraints": False,
        "other_constraints": True,
    }


def test_what_is_known_of_a_prompt_is_not_asked_first(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    with Session(live_engine) as session:
        study = make.make_study(session, "Known")
        make.make_labeler(session, study, "kay")
        prompt = make.make_prompt(
            session, study, closed_domain=True, constraint_text="in five words"
        )
        make.make_ranking_batch(session, study, [prompt])
        session.commit()
    with labeler_page(browser, live_url, "kay") as page:
        expect(asks(page, "A", "Hallucination")).to_be_visible()
        expect(asks(page, "A", "Satisfies the constraint “in five words”")).to_be_visible()
        expect(page.get_by_text("First, about the prompt")).to_have_count(0)
        Keys(page)("q")
        expect(page.get_by_role("group", name="Is ambiguous")).to_be_focused()


def test_without_javascript_a_yes_raises_the_question_too(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "nils", 4)
    with labeler_page(browser, live_url, "nils", java_script_enabled=False) as page:
        page.locator("#completion-A summary").click()
        expect(asks(page, "A", "Hallucination")).to_be_hidden()
        closed = page.get_by_role("group", name="Brings the text")
        closed.get_by_label("Yes", exact=True).check(force=True)
        hallucination = asks(page, "A", "Hallucination")
        hallucination.get_by_label("Yes", exact=True).check(force=True)
        for letter in "ABCD":
            page.locator(f'input[name="tier_{letter}"][value="1"]').check(force=True)
        page.get_by_role("button", name="Submit").click()
        submitted(page)
    kept = stored(live_engine, "nils")
    assert kept.answers == {"A": {"hallucination": True}}
    assert kept.prompt == {"closed_domain": True}
