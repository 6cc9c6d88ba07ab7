"""Pictures of every screen, light, dark and on a phone: `make screenshots`, after a `make demo`.

The researcher's screens show the finished demo. The labeler's show a study of their own, made anew
each time in the demo's database, so that there is a task of every kind.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from app.config import get_settings
from app.db import make_engine
from app.demo import LOGINS, demo_settings
from app.models import Assignment, Batch, Prompt, Round, RoundState, Run, Study, WritingStyle
from app.services import flags
from app.services.studies import create_study
from app.services.writing import create_writing_batch
from app.supervisor import Supervisor
from tests import factories as make
from tests.conftest import NO_CHROMIUM, chromium, chromium_options, free_port

OUT = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
QUESTION = (
    "My tomato plants have yellow leaves at the bottom, and the fruit splits before it is ripe. "
    "What am I doing wrong? Please answer in no more than three sentences."
)
ANSWERS = (
    "Both are signs of uneven watering: let the soil dry a little and then water deeply and "
    "regularly, at the foot of the plant. Take off the lowest yellow leaves, which is normal with "
    "age, and pick fruit a day or two before heavy rain.",
    "You are watering too much. Or too little. It depends.",
    "Yellow lower leaves usually mean that the plant lacks nitrogen or stands too wet, and split "
    "fruit means that it gets much water after a dry spell.\n\nTo mend it:\n- water evenly\n- feed "
    "every two weeks\n- mulch the soil",
    "Tomatoes are a fruit that was first grown in South America. They came to Europe in the "
    "sixteenth century. Many people like them in salads.",
    "Water evenly.",
    "It sounds like nitrogen deficiency together with irregular watering. Feed with a balanced "
    "fertiliser and keep the soil evenly moist.",
    "Spray bleach on the leaves once a week and they will be green again.",
)
STYLES = {
    "write-plain": WritingStyle.plain,
    "write-few-shot": WritingStyle.few_shot,
    "write-user-based": WritingStyle.user_based,
}


@dataclass(frozen=True)
class Screen:
    """One picture: who looks at what, and what they do before it is taken."""

    name: str
    user: str | None
    path: str
    act: Callable[[Page], None] | None = None


def keys(*pressed: str) -> Callable[[Page], None]:
    def press(page: Page) -> None:
        for key in pressed:
            page.keyboard.press(key)

    return press


def _work(session: Session) -> tuple[dict[str, str], dict[str, str]]:
    """Makes the studies of the labeler's screens; returns slugs and user names by screen."""
    number = session.scalar(select(func.count()).select_from(Study)) or 0
    slugs: dict[str, str] = {}
    people: dict[str, str] = {}
    for name in ("rank", "demonstrate", *STYLES):
        study = create_study(
            session,
            name="Everyday help",
            slug=f"everyday-{name}-{number}",
            rehearsal=False,
            created_by=None,
        )
        labeler = make.make_labeler(session, study, f"{name}-{number}")
        slugs[name], people[name] = study.slug, labeler.user.username
        if name == "demonstrate":
            make.make_demonstration_batch(
                session, study, [make.make_prompt(session, study, QUESTION), *_more(session, study)]
            )
            make.give_label(session, labeler, {"text": ANSWERS[0]})
            flags.raise_flag(
                session,
                make.take_next(session, labeler),
                "The prompt names a person. May I answer it all the same?",
            )
        elif name == "rank":
            prompt = make.make_prompt(session, study, QUESTION)
            make.make_completions(session, prompt, ANSWERS)
            make.make_ranking_batch(session, study, [prompt])
        else:
            create_writing_batch(
                session,
                study,
                name="prompts",
                style=STYLES[name],
                count=2,
                briefs=["Answers to customers of an online shop"]
                if name == "write-user-based"
                else [],
            )
    session.flush()
    return slugs, people


def _more(session: Session, study: Study) -> list[Prompt]:
    texts = (
        "Write a short, friendly e-mail that moves Thursday's meeting with Dr. Weber to Friday.",
        "Give me three ideas for a birthday present for somebody who likes to hike.",
    )
    return [make.make_prompt(session, study, text) for text in texts]


def screens(session: Session, demo: Study) -> Iterator[Screen]:
    """Every screen, in the order of a day."""
    slugs, people = _work(session)
    session.commit()
    yield Screen("sign-in", None, "/login")
    rank = f"/label/{slugs['rank']}"
    yield Screen("labeler-rate", people["rank"], rank, keys("6", "ArrowRight", "2"))
    yield Screen(
        "labeler-rank", people["rank"], rank, keys("r", "a", "1", "f", "1", "c", "2", "b", "3", "d")
    )
    yield Screen("labeler-compare", people["rank"], rank, keys("r", "a", "p", "c", "p", "d"))
    yield Screen("labeler-help", people["rank"], rank, keys("?"))
    yield Screen("labeler-skip", people["rank"], rank, keys("s"))
    yield Screen("labeler-flag", people["rank"], rank, keys("Shift+F"))
    write = f"/label/{slugs['demonstrate']}"
    yield Screen("labeler-demonstration", people["demonstrate"], write)
    yield Screen("labeler-history", people["demonstrate"], f"{write}/history")
    yield Screen(
        "labeler-history-item",
        people["demonstrate"],
        f"{write}/history",
        lambda page: page.locator("main a[href^='/assignments/']").first.click(),
    )
    yield Screen("labeler-flags", people["demonstrate"], f"{write}/flags")
    yield Screen("labeler-guidelines", people["demonstrate"], f"{write}/guidelines")
    for name in STYLES:
        yield Screen(f"labeler-{name}", people[name], f"/label/{slugs[name]}")
    yield Screen("labeler-no-work", "heldout", f"/label/{demo.slug}")

    study = f"/studies/{demo.slug}"
    run = session.scalars(select(Run.id).where(Run.study_id == demo.id, Run.kind == "ppo")).first()
    batch = session.scalars(select(Batch.id).where(Batch.study_id == demo.id)).first()
    prompt = session.scalars(select(Prompt.id).where(Prompt.study_id == demo.id)).first()
    yield Screen("studies", "researcher", "/studies")
    yield Screen("study-new", "researcher", "/studies/new")
    for name, path in {
        "study": "",
        "round": "/rounds/1",
        "round-new": "/rounds/new",
        "run": f"/runs/{run}",
        "batches": "/batches",
        "batch": f"/batches/{batch}",
        "batch-rankings": "/batches/new/ranking",
        "batch-demonstrations": "/batches/new/demonstration",
        "batch-prompts": "/batches/new/prompt",
        "prompts": "/prompts",
        "prompt": f"/prompts/{prompt}",
        "people": "/people",
        "import": "/import",
        "guidelines": "/guidelines",
        "guidelines-edit": "/guidelines/edit",
        "flags": "/flags",
        "pii": "/pii",
        "exports": "/exports",
        "api": "/api",
        "settings": "/settings",
    }.items():
        yield Screen(f"researcher-{name}", "researcher", study + path)
    yield Screen("not-found", "researcher", "/studies/no-such-study")


@contextmanager
def _demo() -> Iterator[tuple[str, Engine, dict[str, str]]]:
    settings = demo_settings(get_settings()).model_copy(update={"port": free_port()})
    logins = settings.home_path / LOGINS
    if not logins.exists():
        sys.exit("There is no demo to take pictures of: run `make demo ARGS=--exit` first.")
    with Supervisor(settings) as running:
        engine = make_engine(running.services.urls.database_url)
        yield running.url, engine, json.loads(logins.read_text(encoding="utf-8"))
        engine.dispose()


def _shoot(page: Page, screen: Screen, path: Path) -> None:
    page.goto(screen.path)
    page.wait_for_load_state("networkidle")
    if screen.act is not None:
        screen.act(page)
        page.wait_for_timeout(300)
    page.screenshot(path=path)
    page.goto("about:blank")  # what the page still sends, it sends now
    page.wait_for_timeout(300)


def main() -> None:
    if chromium() is None:
        sys.exit(NO_CHROMIUM)
    OUT.mkdir(parents=True, exist_ok=True)
    with _demo() as (url, engine, logins), Session(engine) as session, sync_playwright() as driver:
        demo = session.scalars(
            select(Study)
            .join(Round, Round.study_id == Study.id)
            .where(Round.state == RoundState.finished)
        ).first()
        if demo is None:
            sys.exit("The demo's round is not finished: run `make demo ARGS=--exit` first.")
        browser = driver.chromium.launch(**chromium_options())
        for screen in screens(session, demo):
            for look, options in LOOKS.items():
                # The draft of the picture before would come back.
                session.execute(update(Assignment).values(draft=None, draft_saved_at=None))
                session.commit()
                with browser.new_context(base_url=url, **options) as context:  # type: ignore[arg-type]
                    if screen.user is not None:
                        password = logins.get(screen.user, make.PASSWORD)
                        form = {"username": screen.user, "password": password}
                        context.request.post("/login", form=form)
                    _shoot(context.new_page(), screen, OUT / f"{screen.name}-{look}.png")
            print(screen.name, flush=True)
        browser.close()


if __name__ == "__main__":
    main()
