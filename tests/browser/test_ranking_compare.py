"""Two completions side by side, with a word diff."""

from __future__ import annotations

import random
from itertools import product

from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine

from tests.browser.bench import Keys, given_ranking, labeler_page, said

FOX = "The quick brown fox jumps over the lazy dog."
CAT = "The quick black cat jumps over a lazy dog, twice."


def diff(page: Page, left: str, right: str) -> list[tuple[str, str]]:
    parts: list[dict[str, str]] = page.evaluate(
        """async ([left, right]) =>
           (await import("/static/js/worddiff.js")).diffWords(left, right)""",
        [left, right],
    )
    return [(part["kind"], part["text"]) for part in parts]


def test_two_pinned_completions_are_compared_word_by_word(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "pia", [FOX, CAT, "A third.", "A fourth."])
    with labeler_page(browser, live_url, "pia") as page:
        press = Keys(page)
        cards = page.locator(".completion")
        fox = cards.filter(has_text="fox").get_attribute("data-letter")
        cat = cards.filter(has_text="cat").get_attribute("data-letter")
        assert fox
        assert cat
        press("r", fox.lower(), "2", "p")
        said(page, f"{fox} is pinned. Pin another one to compare.")
        press("p")
        said(page, f"{fox} is not pinned.")
        page.get_by_role("button", name="Pin to compare").click()
        press(cat.lower(), "p")
        dialog = page.get_by_role("dialog", name="Compare")
        sides = dialog.locator(".compare-text")
        expect(sides).to_have_text([FOX, CAT])
        expect(dialog).to_contain_text("first")
        assert dialog.locator("del, ins").filter(visible=True).count() == 0
        press("d")
        expect(sides.first.locator("del")).to_have_text(["brown fox", "the"])
        expect(sides.last.locator("ins")).to_have_text(["black cat", "a", ", twice"])
        expect(sides).to_have_text([FOX, CAT])
        # Letters and digits rank nothing while the dialog is open.
        press("a", "1", "Escape")
        expect(dialog).to_be_hidden()
        expect(page.locator(f"#completion-{cat}")).to_be_focused()
        expect(page.get_by_text("1 of 4 placed")).to_be_visible()


def test_both_sides_scroll_together(browser: Browser, live_url: str, live_engine: Engine) -> None:
    given_ranking(live_engine, "sam", ["long line\n" * 200, "long line\n" * 100, "c", "d"])
    with labeler_page(browser, live_url, "sam", bypass_csp=True) as page:
        press = Keys(page)
        long = page.locator(".completion").filter(has_text="long line")
        letters = [str(card.get_attribute("data-letter")).lower() for card in long.all()]
        press("r", letters[0], "p", letters[1], "p", "End")
        ends = """[...document.querySelectorAll(".compare-text")].every(
            (pane) => pane.scrollTop > 500
              && Math.abs(pane.scrollTop + pane.clientHeight - pane.scrollHeight) < 2)"""
        page.wait_for_function(ends)
        press("Home")
        page.wait_for_function(
            "[...document.querySelectorAll('.compare-text')].every((pane) => pane.scrollTop < 2)"
        )
        page.set_viewport_size({"width": 390, "height": 844})
        left, right = (side.bounding_box() for side in page.locator(".compare-side").all())
        assert left is not None
        assert right is not None
        assert left["x"] == right["x"]
        assert left["y"] + left["height"] <= right["y"]  # one above the other


def test_the_word_diff_keeps_both_texts_and_is_quick(
    browser: Browser, live_url: str, live_engine: Engine
) -> None:
    given_ranking(live_engine, "wes", 4)
    with labeler_page(browser, live_url, "wes") as page:
        assert diff(page, "", "") == []
        assert diff(page, "same", "same") == [("same", "same")]
        assert diff(page, "", "new") == [("added", "new")]
        assert diff(page, "one  two\nthree", "one two\nfour") == [
            ("same", "one"),
            ("removed", "  "),
            ("added", " "),
            ("same", "two\n"),
            ("removed", "three"),
            ("added", "four"),
        ]
        # "a" and "c" are kept in every one of these; nothing is ever lost or invented.
        chance = random.Random(3)
        words = ["a ", "b ", "c\n", "d", " ", "\u0645 "]
        for left_size, right_size in product([0, 1, 7, 40], repeat=2):
            left = "".join(chance.choices(words, k=left_size))
            right = "".join(chance.choices(words, k=right_size))
            parts = diff(page, left, right)
            assert "".join(text for kind, text in parts if kind != "added") == left
            assert "".join(text for kind, text in parts if kind != "removed") == right
        # 5,000 words against 5,000, all in another order.
        vocabulary = [f"word{n}" for n in range(3000)]
        sides = [" ".join(chance.choices(vocabulary, k=5000)) for _ in "ab"]
        took: float = page.evaluate(
            """async ([left, right]) => {
                 const { diffWords } = await import("/static/js/worddiff.js");
                 const start = performance.now();
                 diffWords(left, right);
                 return performance.now() - start;
               }""",
            sides,
        )
        assert took < 2000
