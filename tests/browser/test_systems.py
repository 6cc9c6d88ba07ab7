"""An external system in Chromium, from its first try to its completions: no violation, by keyboard
and without scripts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import Sampling, SamplingState, Split, Study
from tests import factories as make
from tests.endpoint import Endpoint, chat, endpoint_server, error, work

SHOTS = os.environ.get("PLUMBLINE_TEST_SHOTS", "")
PREFIX = "Answer briefly.\n\nQuery: Name a colour.\nResponse: Blue"
QUESTIONS = ("Why is the sky blue?", "Name three rivers of Europe.", "What is a plumb line for?")


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    complaints: list[str] = []
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, java_script_enabled=request.param
    )
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def study(live_engine: Engine) -> Study:
    with Session(live_engine, expire_on_commit=False) as session:
        study = make.make_study(session, "Alpha")
        make.make_researcher(session, study, "rosa")
        for text in QUESTIONS:
            prompt = make.make_prompt(session, study, text, split=Split.test)
        make.make_ranking_batch(session, study, [prompt])
        session.commit()
    return study


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint_server() as server:
        yield server


def no_violations(page: Page, *, scripts: bool) -> None:
    if not scripts:
        return  # the checker is a script
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        # Without motion: axe would look at colours on their way from one scheme to the other.
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    page.emulate_media(color_scheme="light")


def shot(page: Page, name: str, *, scripts: bool) -> None:
    if SHOTS and scripts:
        page.set_viewport_size({"width": 390, "height": 844})
        page.screenshot(path=f"{SHOTS}/{name}-phone.png", full_page=True)
        page.set_viewport_size({"width": 1280, "height": 800})
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def work_on_it(engine: Engine) -> None:
    with Session(engine) as session:
        queued = select(Sampling.id).where(Sampling.state == SamplingState.queued)
        number = session.scalars(queued).one()
    work(number)


def test_a_system_from_its_first_try_to_its_completions(
    page: Page,
    live_url: str,
    live_engine: Engine,
    study: Study,  # noqa: ARG001
    server: Endpoint,
    request: pytest.FixtureRequest,
) -> None:
    scripts = request.node.callspec.params["page"]
    name = "GPT-3 prompted" if scripts else "Without scripts"
    page.goto(f"{live_url}/login")
    page.get_by_label("User name").fill("rosa")
    page.get_by_label("Password").fill(make.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.goto(f"{live_url}/studies/alpha/import")
    page.get_by_role("link", name="Sample external systems").click()
    no_violations(page, scripts=scripts)
    shot(page, "systems-none", scripts=scripts)
    page.get_by_role("link", name="Add a system").first.click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Base URL").fill(server.url)
    page.get_by_label("Model", exact=True).fill("tiny")
    page.get_by_label("Few-shot prefix").fill(PREFIX)
    page.get_by_label("Prompt", exact=True).fill("Say hello.")

    # The first try fails, in words; nothing that was typed is lost.
    server.replies = [error(404, "The model `tiny` does not exist.")]
    page.get_by_role("button", name="Try it").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no such model there (404)")
    expect(page.get_by_role("alert")).to_contain_text("The model `tiny` does not exist.")
    expect(page.get_by_label("Few-shot prefix")).to_have_value(PREFIX)
    shot(page, "system-refused", scripts=scripts)
    page.get_by_role("button", name="Try it").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Answer 2 to Say hello.")
    no_violations(page, scripts=scripts)
    shot(page, "system-tried", scripts=scripts)
    page.get_by_role("button", name="Add the system").press("Enter")
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    no_violations(page, scripts=scripts)
    shot(page, "system-new", scripts=scripts)

    # One of three prompts cannot be answered, until it can.
    bad = QUESTIONS[1]
    server.rule = lambda asked: chat("") if asked.prompt == bad else None
    page.get_by_label("Completions a prompt").fill("2")
    page.get_by_role("button", name="Sample", exact=True).press("Enter")
    expect(page.get_by_text("waits for the worker")).to_be_visible()
    no_violations(page, scripts=scripts)
    shot(page, "system-waits", scripts=scripts)
    work_on_it(live_engine)
    if not scripts:
        page.reload()
    expect(page.get_by_text("4 of 6 completions are there; 2 cannot be had")).to_be_visible()
    page.get_by_text("Why 2 cannot be had").click()
    expect(page.get_by_text("It said nothing.").first).to_be_visible()
    no_violations(page, scripts=scripts)
    shot(page, "system-problems", scripts=scripts)
    server.rule = lambda _: None
    page.get_by_role("button", name="Ask again for the other 2").press("Enter")
    expect(page.get_by_text("waits for the worker")).to_be_visible()
    work_on_it(live_engine)
    page.reload()
    expect(page.get_by_text("6 of 6 completions are there.")).to_be_visible()
    expect(page.get_by_text(f" to {bad}").first).to_be_visible()
    no_violations(page, scripts=scripts)
    shot(page, "system-sampled", scripts=scripts)

    # The same once more asks for nothing, and what it answers with cannot change.
    page.get_by_label("Completions a prompt").fill("2")
    page.get_by_role("button", name="Sample", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("has 2 of its completions already")
    page.get_by_role("link", name="Change or try it").click()
    expect(page.get_by_label("Temperature")).to_have_count(0)
    page.get_by_label("Requests a minute").fill("60")
    no_violations(page, scripts=scripts)
    shot(page, "system-change", scripts=scripts)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    page.goto(f"{live_url}/studies/alpha/systems")
    expect(page.get_by_role("row", name=name)).to_contain_text("finished")
    no_violations(page, scripts=scripts)
    shot(page, "systems", scripts=scripts)
    page.goto(f"{live_url}/studies/alpha/batches/new/ranking")
    expect(page.get_by_label(name)).to_be_visible()
    no_violations(page, scripts=scripts)
    page.goto(f"{live_url}/studies/alpha/rounds/new")
    page.get_by_label(name).check()
    no_violations(page, scripts=scripts)
    shot(page, "round-baselines", scripts=scripts)
