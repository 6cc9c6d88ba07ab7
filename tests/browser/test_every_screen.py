"""Every screen of a labeler, as `make screenshots` shows it: axe, a phone, and 200 % zoom.

The screens of one scene are looked at in both schemes at 1280 and at 390 pixels. At 200 % of
1280 × 800 a page is 640 × 400 pixels: it may not scroll sideways, and what has the focus may not
be hidden behind what sticks to an edge.
"""

from __future__ import annotations

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from app.models import Assignment
from tests import factories as make
from tests.browser.scenes import LABELER_SCENES, Scene, Screen

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SIZES = {
    "1280": {"width": 1280, "height": 800},
    "390": {"width": 390, "height": 844},
    "200 %": {"width": 640, "height": 400},
}
# What can have the focus and, when it has it, is behind something else. A dialog or menu that is
# open lies over the page by intent.
HIDDEN_FOCUS = """() => {
  const open = document.querySelector("dialog[open], :popover-open, .menu[open]");
  const fields = "input:not([type=hidden]), textarea, select";
  const all = `a[href], button, ${fields}, summary, [tabindex="0"]`;
  const hidden = [];
  const radios = new Set();  // one of each group
  for (const one of (open ?? document.body).querySelectorAll(all)) {
    if (!one.checkVisibility() || one.disabled || one.matches(".skip")) continue;
    if (one.type === "radio" && radios.has(one.name)) continue;
    if (one.type === "radio") radios.add(one.name);
    one.focus();
    const box = one.getBoundingClientRect();
    const [left, right] = [Math.max(0, box.left), Math.min(innerWidth, box.right)];
    const [top, bottom] = [Math.max(0, box.top), Math.min(innerHeight, box.bottom)];
    const points = [0.1, 0.5, 0.9].map((at) => [(left + right) / 2, top + at * (bottom - top)]);
    const seen = points.some(([x, y]) => {
      const there = document.elementFromPoint(x, y);
      const label = there?.closest("label");
      return there && (one.contains(there) || there.contains(one) || label?.control === one);
    });
    if (!seen) hidden.push(one.outerHTML.slice(0, 120));
  }
  return hidden;
}"""
WIDER = "document.documentElement.scrollWidth - window.innerWidth"


def problems_of(page: Page) -> list[str]:
    found: list[str] = []
    for size, viewport in SIZES.items():
        page.set_viewport_size(viewport)  # type: ignore[arg-type]
        if (wider := page.evaluate(WIDER)) > 0:
            found.append(f"{size}: {wider} pixels wider than the screen")
        found += [f"{size}: focus is hidden: {html}" for html in page.evaluate(HIDDEN_FOCUS)]
        for scheme in SCHEMES if size != "200 %" else ():
            # Without motion: axe would look at colours on their way from one scheme to the other.
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            violations = Axe().run(page, options=RULES).response["violations"]
            found += [f"{size} {scheme}: {v['id']}: {v['nodes'][0]['html']}" for v in violations]
    return found


@pytest.mark.parametrize("scene", LABELER_SCENES, ids=lambda scene: scene.__name__)
def test_a_screen_is_accessible_and_fits(
    browser: Browser, live_url: str, live_engine: Engine, scene: Scene
) -> None:
    found: dict[str, list[str]] = {}

    def look(screen: Screen) -> None:
        with browser.new_context(base_url=live_url, bypass_csp=True) as context:
            if screen.user is not None:
                form = {"username": screen.user, "password": make.PASSWORD}
                context.request.post("/login", form=form)
            page = context.new_page()
            page.set_viewport_size(SIZES["1280"])  # type: ignore[arg-type]
            page.goto(screen.path)
            page.wait_for_load_state("networkidle")
            if screen.act is not None:
                screen.act(page)
            if problems := problems_of(page):
                found[screen.name] = problems

    with Session(live_engine) as session:
        for screen in scene(session):
            # The draft of the screen before would come back.
            session.execute(update(Assignment).values(draft=None, draft_saved_at=None))
            session.commit()
            look(screen)
    assert found == {}
