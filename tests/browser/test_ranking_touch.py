"""Ranking on a phone by touch, and without JavaScript; texts of every shape keep theirs."""

from __future__ import annotations

from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import Engine

from tests.browser.bench import (
    Keys,
    expect_order,
    given_ranking,
    labeler_page,
    stored,
    submitted,
)

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def no_wider_than_the_screen(page: Page) -> None:
    too_wide = """[...document.querySelectorAll("main *")].filter(
        (one) => one.checkVisibility() && !one.closest(".rail, .toolbar, .visually-hidden")
          && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML)"""
    assert page.evaluate(too_wide) == []


def middle(place: Locator) -> dict[str, float]:
    box = place.bounding_box()
    assert box is not None
    return {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}


def touch_drag(page: Page, start: Locator, end: Locator) -> None:
    """A finger that goes from one to the other in steps, through the browser's own input."""
    finger = page.context.new_cdp_session(page)
    begin, finish = middle(start), middle(end)

    def touch(kind: str, *points: dict[str, float]) -> None:
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    touch("touchStart", begin)
    for step in range(1, 13):
        share = step / 12
        touch("touchMove", {key: begin[key] + share * (finish[key] - begin[key]) for key in begin})
        page.wait_for_timeout(20)
    page.wait_for_timeout(150)  # the place under the finger is looked for every 50 ms
    touch("touchEnd")


def test_a_phone_rates_ranks_by_button_and_drags_by_touch(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "tom", 4)
    with labeler_page(browser, live_url, "tom", **PHONE) as page:
        card = page.locator("#completion-A")
        card.locator(".pill", has_text="6").tap()
        card.get_by_role("group", name="Gives harmful").locator(".pill:has([value=no])").tap()
        page.get_by_role("button", name="Next").tap()
        expect(page.locator("#completion-B")).to_be_visible()
        expect(card).to_be_hidden()
        no_wider_than_the_screen(page)
        page.get_by_role("button", name="Rank", exact=True).tap()

        # The prompt is a bar that opens, and stays in sight.
        prompt = page.locator("#prompt-text")
        expect(prompt).to_be_hidden()
        page.locator(".prompt-fold > summary").tap()
        expect(prompt).to_be_visible()
        page.locator(".prompt-fold > summary").tap()

        # A tap selects; the places and the moves are buttons.
        place = page.locator("#place-now .place.current .pill")
        for letter, digit in zip("ABCD", "1122", strict=True):
            page.locator(f"#completion-{letter} .reading").tap()
            place.filter(has_text=digit).tap()
        expect_order(page, "A=B>C=D")
        page.locator("#rail").get_by_role("button", name="D, second").tap()
        for name, order in [
            ("Up", "A=B>D>C"),
            ("Up", "D>A=B>C"),
            ("Down", "A=B>D>C"),
            ("Tie with the one above", "A=B=D>C"),
            ("Take back", "A=B>C, D"),
        ]:
            page.get_by_role("button", name=name, exact=True).tap()
            expect_order(page, order)
        no_wider_than_the_screen(page)

        # By its handle a card is dragged; a finger elsewhere on it scrolls.
        page.locator("#board").evaluate("(board) => board.scrollIntoView()")
        touch_drag(page, page.locator("#completion-D .handle"), page.locator(".gap").first)
        expect_order(page, "D>A=B>C")
        page.get_by_role("button", name="Submit").tap()
        submitted(page)
    kept = stored(live_engine, "tom")
    assert kept.tiers == {"D": 1, "A": 2, "B": 2, "C": 3}
    assert kept.overall == {"A": 6}
    assert kept.answers == {"A": {"harmful_advice": False}}


def test_without_javascript_one_page_posts_the_same_form(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "noa", 4)
    with labeler_page(browser, live_url, "noa", java_script_enabled=False) as page:
        expect(page.locator(".completion")).to_have_count(4)
        for letter in "ABCD":
            expect(page.locator(f"#completion-{letter} .reading")).to_be_visible()
        expect(page.locator("#board")).to_be_hidden()
        expect(page.get_by_role("button", name="Undo")).to_have_count(0)
        page.locator('input[name="overall_B"][value="7"]').check(force=True)
        page.locator("#completion-B summary").click()
        page.locator('input[name="violent_content_B"][value="yes"]').check(force=True)
        for letter, tier in zip("ABCD", "4221", strict=True):
            page.locator(f'input[name="tier_{letter}"][value="{tier}"]').check(force=True)
        page.get_by_role("button", name="Submit").click()
        submitted(page)
    kept = stored(live_engine, "noa")
    assert kept.tiers == {"D": 1, "B": 2, "C": 2, "A": 3}
    assert kept.overall == {"B": 7}
    assert kept.answers == {"B": {"violent_content": True}}


TEXTS = [
    "",
    "word " * 4000,  # 20,000 characters
    "مرحبا بالعالم\nthen English",
    "<script>window.hacked = 1</script> <b>bold</b> &amp;",
    "def f(x):\n\treturn [\n\t\tx    ,\n\t]\n\n" + "a" * 300,
]


def test_text_stays_text_and_long_ones_are_cut_to_the_same_height(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "tex", TEXTS)
    with labeler_page(browser, live_url, "tex") as page:
        press = Keys(page)
        shown = "[...document.querySelectorAll('.completion .reading')].map((x) => x.textContent)"
        texts = [text or "The completion is empty." for text in TEXTS]
        assert sorted(page.evaluate(shown)) == sorted(texts)
        assert page.evaluate("window.hacked") is None
        card = {
            text: page.locator(".completion").nth(page.evaluate(shown).index(text))
            for text in texts
        }
        letter = {text: found.get_attribute("data-letter") for text, found in card.items()}
        empty, long, arabic, markup, code = (letter[text] for text in texts)
        for name in (empty, long, arabic, markup, code):
            press(str(name).lower())
            no_wider_than_the_screen(page)
        press("r")
        no_wider_than_the_screen(page)
        height = f"document.querySelector('#completion-{long} .reading').offsetHeight"
        assert page.evaluate(height) == 140  # six lines
        direction = "(letter) => getComputedStyle(document.querySelector(letter)).direction"
        assert page.evaluate(direction, f"#completion-{arabic} .reading") == "rtl"
        # Only what is cut can be shown whole.
        expander = page.locator(f"#completion-{long} .expand")
        expect(expander).to_be_visible()
        for name in (empty, arabic, markup):
            expect(page.locator(f"#completion-{name} .expand")).to_be_hidden()
        press(str(long).lower(), "x")
        assert page.evaluate(height) > 2000
        expect(expander).to_have_text("Show less X")
        expander.click()
        assert page.evaluate(height) == 140
        press("Shift+E")
        assert page.evaluate(height) > 2000
        press("Shift+E")
        assert page.evaluate(height) == 140
        page.set_viewport_size({"width": 390, "height": 844})
        no_wider_than_the_screen(page)
        page.set_viewport_size({"width": 640, "height": 400})  # 1280 x 800 at 200 %
        no_wider_than_the_screen(page)
        expect(page.locator("#rail")).to_be_in_viewport()
