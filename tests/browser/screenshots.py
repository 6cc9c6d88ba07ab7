"""Pictures of every screen, light, dark and on a phone: `make screenshots`.

The pages of a finished round show the demo, so a `make demo` comes first; `--without-demo` leaves
them out. All others are taken of a small installation that is made for it and thrown away.
`--only NAME` takes those screens alone whose names hold NAME, `--to FOLDER` puts them elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.config import Settings, get_settings
from app.db import make_engine
from app.demo import LOGINS, demo_settings
from app.models import Assignment, Round, RoundState, Study
from app.supervisor import Supervisor
from tests import factories as make
from tests.browser.scenes import LABELER_SCENES, Screen
from tests.browser.scenes_research import data_pages, finished_round
from tests.conftest import NO_CHROMIUM, chromium, chromium_options, free_port

OUT = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
NO_DEMO = "There is no finished demo: run `make demo ARGS=--exit` first, or pass --without-demo."


@dataclass(frozen=True)
class Camera:
    """Takes a screen's pictures in each look, of the installation at `url`."""

    browser: Browser
    url: str
    session: Session
    folder: Path
    only: str = ""
    passwords: Mapping[str, str] | None = None  # of accounts that have another one than PASSWORD

    def take(self, screens: Iterable[Screen]) -> None:
        for screen in screens:
            if self.only in screen.name:
                for look in LOOKS:
                    self._shoot(screen, look)
                print(screen.name, flush=True)

    def _shoot(self, screen: Screen, look: str) -> None:
        # The draft of the picture before would come back.
        self.session.execute(update(Assignment).values(draft=None, draft_saved_at=None))
        self.session.commit()
        with self.browser.new_context(base_url=self.url, **LOOKS[look]) as context:  # type: ignore[arg-type]
            if screen.user is not None:
                password = (self.passwords or {}).get(screen.user, make.PASSWORD)
                context.request.post("/login", form={"username": screen.user, "password": password})
            page = context.new_page()
            answer = page.goto(screen.path)
            assert answer is not None
            assert answer.status < 500, f"{screen.path}: {answer.status}"
            page.wait_for_load_state("networkidle")
            if screen.act is not None:
                screen.act(page)
                page.wait_for_timeout(300)
            page.screenshot(path=self.folder / f"{screen.name}-{look}.png")
            _leave(page)


def _leave(page: Page) -> None:
    page.goto("about:blank")  # what the page still sends, it sends now
    page.wait_for_timeout(300)


@contextmanager
def _running(settings: Settings) -> Iterator[tuple[str, Session]]:
    """The installation of these settings, its address and a session on its database."""
    with Supervisor(settings) as running:
        engine = make_engine(running.services.urls.database_url)
        with Session(engine) as session:
            yield running.url, session
        engine.dispose()


def _take_small(browser: Browser, folder: Path, only: str) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="plumbline-") as home,
        _running(Settings(home=Path(home), port=free_port())) as (url, session),
    ):
        camera = Camera(browser, url, session, folder, only)
        for scene in (*LABELER_SCENES, data_pages):
            camera.take(scene(session))


def _take_demo(browser: Browser, folder: Path, only: str) -> None:
    settings = demo_settings(get_settings()).model_copy(update={"port": free_port()})
    logins = settings.home_path / LOGINS
    if not logins.exists():
        sys.exit(NO_DEMO)
    with _running(settings) as (url, session):
        demo = session.scalars(
            select(Study)
            .join(Round, Round.study_id == Study.id)
            .where(Round.state == RoundState.finished)
        ).first()
        if demo is None:
            sys.exit(NO_DEMO)
        passwords = json.loads(logins.read_text(encoding="utf-8"))
        Camera(browser, url, session, folder, only, passwords).take(finished_round(session, demo))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=OUT)
    parser.add_argument("--only", default="")
    parser.add_argument("--without-demo", action="store_true")
    chosen = parser.parse_args()
    if chromium() is None:
        sys.exit(NO_CHROMIUM)
    chosen.to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver, driver.chromium.launch(**chromium_options()) as browser:
        if not chosen.without_demo:
            _take_demo(browser, chosen.to, chosen.only)
        _take_small(browser, chosen.to, chosen.only)


if __name__ == "__main__":
    main()
