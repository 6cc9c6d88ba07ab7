"""Rate and rank by keyboard and by mouse: what is shown, what is said, what is stored."""

from __future__ import annotations

from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import Engine

from tests.browser.bench import (
    Keys,
    expect_order,
    given_ranking,
    labeler_page,
    nine_texts,
    said,
    stored,
    submitted,
)


def test_nine_real_completions_are_ranked_in_twenty_key_presses(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    prompt, texts = nine_texts()
    given_ranking(live_engine, "nina", texts, prompt=prompt)
    with labeler_page(browser, live_url, "nina") as page:
        press = Keys(page)
        press("r")
        for letter, place in zip("abcdefghi", "312254167", strict=True):
            press(letter, place)
        expect_order(page, "B=G>C=D>A>F>E>H>I")
        press("Control+Enter")
        submitted(page)
        assert len(press.pressed) == 20
    assert stored(live_engine, "nina").tiers == {
        "A": 3, "B": 1, "C": 2, "D": 2, "E": 5, "F": 4, "G": 1, "H": 6, "I": 7,
    }  # fmt: skip


def test_places_are_given_moved_tied_and_taken_back_by_key(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "kim", 6, rated=False)
    with labeler_page(browser, live_url, "kim") as page:
        press = Keys(page)
        expect_order(page, ", A B C D E F")
        press("a", "2")
        said(page, "A is first.")
        press("c", "2")
        said(page, "C is first, tied with A.")
        press("b", "5", "d", "1")
        expect_order(page, "D>A=C>B, E F")
        expect(page.locator(".group-number")).to_have_text(["1", "2", "5"])
        # Out of the tie first, then past the next group, and at the top no further.
        press("c", "Alt+ArrowUp")
        expect_order(page, "D>C>A>B, E F")
        press("Alt+ArrowUp")
        expect_order(page, "C>D>A>B, E F")
        press("Alt+ArrowUp")
        said(page, "C is first already.")
        press("b", "=")
        said(page, "B is third, tied with A.")
        press("Alt+ArrowDown")
        expect_order(page, "C>D>A>B, E F")
        # E and F are letters here; X expands, and Shift+F flags.
        press("e", "Alt+ArrowUp", "f", "Alt+ArrowDown")
        expect_order(page, "E>C>D>A>B>F")
        press("c", "Backspace")
        said(page, "C is not placed.")
        expect_order(page, "E>D>A>B>F, C")
        expect(page.get_by_role("button", name="Submit")).to_be_disabled()
        press("Control+Enter", "7")
        said(page, "The places are 1 to 6.")
        press("6", "Alt+ArrowUp", "Alt+ArrowUp")
        expect_order(page, "E>D>A>C>B>F")
        expect(page.locator("#completion-C")).to_be_focused()
        press("Control+Enter")
        submitted(page)
    assert stored(live_engine, "kim").tiers == {"E": 1, "D": 2, "A": 3, "C": 4, "B": 5, "F": 6}


def test_undo_takes_back_keys_buttons_and_ratings_one_by_one(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "uma", 4, suggest=False)
    with labeler_page(browser, live_url, "uma") as page:
        press = Keys(page)
        press("5", "6")
        overall = page.locator("#completion-A").get_by_role("group", name="Overall quality")
        press("z")
        expect(overall.get_by_label("5", exact=True)).to_be_checked()
        press("r", "b", "1", "c", "2")
        page.get_by_role("button", name="Tie with the one above").click()
        expect_order(page, "B=C, A D")
        page.locator("#place-now .place.current").get_by_label("4", exact=True).check(force=True)
        expect_order(page, "B>C, A D")
        press("z")
        said(page, "Undone. C is first, tied with B.")
        press("z")
        said(page, "Undone. C is second.")
        page.locator('.only-rank > [data-do="undo"]').click()
        press("z")
        said(page, "Undone. B is not placed.")
        expect_order(page, ", A B C D")
        # What is left to undo is the rating: it is shown where it was given.
        press("z")
        expect(page.locator("#label-form")).to_have_attribute("data-step", "rate")
        expect(overall).to_be_focused()
        expect(overall.get_by_label("not answered")).to_be_checked()
        press("z")
        said(page, "There is nothing to undo.")


def test_a_suggested_order_counts_only_once_it_is_taken(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "sue", 4)
    with labeler_page(browser, live_url, "sue") as page:
        press = Keys(page)
        press("3", "ArrowRight", "6", "Enter", "3", "ArrowRight")
        expect(page.locator("#completion-D")).to_be_focused()
        press("ArrowRight")  # past the last: to the ranks
        expect(page.locator("#suggested")).to_have_text("B > A = C")
        expect_order(page, ", A B C D")
        expect(page.get_by_text("0 of 4 placed")).to_be_visible()
        assert page.locator("#places input:checked, #place-now input:checked").count() == 0
        press("u")
        expect_order(page, "B>A=C, D")
        said(page, "The order is now B > A = C.")
        expect(page.locator("#suggestion")).to_be_hidden()
        press("z")
        expect_order(page, ", A B C D")
        page.get_by_role("button", name="Use this order").click()
        press("d", "Alt+ArrowUp", "Control+Enter")
        submitted(page)
    kept = stored(live_engine, "sue")
    assert kept.tiers == {"D": 1, "B": 2, "A": 3, "C": 3}
    assert kept.overall == {"A": 3, "B": 6, "C": 3}


def test_no_order_is_suggested_where_the_researcher_switched_it_off(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "sid", 4, suggest=False)
    with labeler_page(browser, live_url, "sid") as page:
        Keys(page)("7", "r", "u")
        expect(page.locator("#suggestion")).to_be_hidden()
        expect_order(page, ", A B C D")


def test_only_what_was_answered_is_stored(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "ray", 4)
    with labeler_page(browser, live_url, "ray") as page:
        press = Keys(page)
        card = page.locator("#completion-A")
        expect(card).to_contain_text("1 of 4")
        # J and K, or arrows, go through the questions; an answer goes on to the next.
        press("j", "y")
        expect(card.get_by_role("group", name="Inappropriate")).to_be_focused()
        press("n")
        said(page, "A, Inappropriate for a customer assistant: no.")
        press("ArrowUp", "k", "Backspace")
        said(page, "A, Fails to follow the correct instruction or task: not answered.")
        press("b", "5", "0", "c", "4")
        page.locator("#completion-C").get_by_role("group", name="Gives harmful").get_by_label(
            "No", exact=True
        ).check(force=True)
        press("q", "y", "ArrowDown", "n", "Backspace")
        for name in ["A, rated in part", "B, not rated", "C, rated 4", "D, not rated"]:
            expect(page.get_by_role("button", name=name)).to_be_visible()
        press("r", "a", "1", "b", "1", "c", "1", "d", "1", "Control+Enter")
        submitted(page)
    kept = stored(live_engine, "ray")
    assert kept.tiers == {"A": 1, "B": 1, "C": 1, "D": 1}
    assert kept.overall == {"A": None, "C": 4}
    assert kept.answers == {
        "A": {"inappropriate_for_assistant": False},
        "C": {"harmful_advice": False},
    }
    assert kept.prompt == {"closed_domain": True}


def test_the_step_and_the_order_come_back_with_the_draft(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "dora", 4)
    with labeler_page(browser, live_url, "dora") as page:
        Keys(page)("2", "r", "c", "1", "b", "3")
        page.reload()
        expect_order(page, "C>B, A D")
        Keys(page)("r")
        expect(page.locator("#completion-A").get_by_label("2", exact=True)).to_be_checked()


def drag(page: Page, letter: str, target: Locator) -> None:
    """By the handle to the middle of the target, as a hand does it."""
    handle = page.locator(f"#completion-{letter} .handle")
    handle.scroll_into_view_if_needed()
    start, end = handle.bounding_box(), target.bounding_box()
    assert start is not None
    assert end is not None
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    x, y = end["x"] + end["width"] / 2, end["y"] + end["height"] / 2
    page.mouse.move(x - 8, y - 4, steps=8)
    page.mouse.move(x, y, steps=4)
    page.wait_for_timeout(150)  # the place under the pointer is looked for every 50 ms
    page.mouse.up()


def test_cards_are_dragged_onto_groups_between_them_and_back(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "mia", 4)
    with labeler_page(browser, live_url, "mia", viewport={"width": 1280, "height": 1100}) as page:
        press = Keys(page)
        press("6", "r")
        gaps, groups = page.locator(".gap"), page.locator(".group-cards")
        drag(page, "C", gaps.first)
        expect_order(page, "C, A B D")
        said(page, "C is first.")
        drag(page, "A", groups.first)
        said(page, "A is first, tied with C.")
        drag(page, "B", gaps.last)
        expect_order(page, "A=C>B, D")
        drag(page, "D", gaps.nth(1))
        expect_order(page, "A=C>D>B")
        drag(page, "A", gaps.nth(1))
        expect_order(page, "C>A>D>B")
        drag(page, "B", page.locator("#tray"))
        expect_order(page, "C>A>D, B")
        press("z")
        expect_order(page, "C>A>D>B")
        page.get_by_role("button", name="Submit").click()
        submitted(page)
    kept = stored(live_engine, "mia")
    assert kept.tiers == {"C": 1, "A": 2, "D": 3, "B": 4}
    assert kept.overall == {"A": 6}  # a dragged copy of its radio buttons took nothing away
