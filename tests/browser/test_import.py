"""The way of a file into a study in Chromium: no violation, worked by the keyboard, and without
scripts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app import background
from app.models import Study, Upload, UploadState
from tests import factories as make

SHOTS = os.environ.get("PLUMBLINE_TEST_SHOTS", "")


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
        session.commit()
    return study


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


def shot(page: Page, name: str) -> None:
    if SHOTS:
        page.set_viewport_size({"width": 390, "height": 844})
        page.screenshot(path=f"{SHOTS}/{name}-phone.png", full_page=True)
        page.set_viewport_size({"width": 1280, "height": 800})
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def test_a_file_from_its_first_rows_to_its_report(
    page: Page,
    live_url: str,
    live_engine: Engine,
    study: Study,  # noqa: ARG001
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    scripts = request.node.callspec.params["page"]
    path = tmp_path / "questions.csv"
    rows = [f"Say {n} in {'English' if scripts else 'French'}.,c{n},note {n}" for n in range(4)]
    rows = [row.replace(",c", f",{0:0160}c") for row in rows]  # names may be long: hashes, for one
    path.write_text("\n".join(["question,customer,remark", *rows]))
    page.goto(f"{live_url}/login")
    page.get_by_label("User name").fill("rosa")
    page.get_by_label("Password").fill(make.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.goto(f"{live_url}/studies/alpha/import")
    no_violations(page, scripts=scripts)
    shot(page, "import")
    page.get_by_label("File", exact=True).set_input_files(path)
    page.get_by_role("button", name="Look at the file").press("Enter")
    expect(page.get_by_role("heading", name="questions.csv")).to_be_visible()
    expect(page.get_by_label("question")).to_have_value("prompt")
    expect(page.get_by_label("customer")).to_have_value("user")
    expect(page.get_by_role("cell", name="note 3")).to_be_visible()
    no_violations(page, scripts=scripts)
    shot(page, "columns")
    page.get_by_role("button", name="Import", exact=True).press("Enter")
    expect(page.get_by_role("heading", name="It waits for the worker")).to_be_visible()
    no_violations(page, scripts=scripts)
    shot(page, "waiting")
    with Session(live_engine) as session:
        queued = select(Upload.id).where(Upload.state == UploadState.queued)
        background.import_upload(session.scalars(queued).one())
    if not scripts:
        page.reload()
    expect(page.get_by_text("Prompts: 4 read, 4 stored")).to_be_visible()
    no_violations(page, scripts=scripts)
    shot(page, "report")
    page.get_by_role("link", name="See the prompts").click()
    table = page.get_by_role("region", name="Prompts", exact=True)
    expect(table.get_by_title(f"{0:0160}c3")).to_be_visible()
    around, within = table.bounding_box(), table.locator("table").bounding_box()
    assert around is not None
    assert within is not None
    assert within["width"] <= around["width"]  # nothing to scroll to
    page.goto(f"{live_url}/studies/alpha/import")
    if scripts:
        page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Undo").first.click()
    if scripts and page.get_by_role("dialog").count():
        page.get_by_role("dialog").get_by_role("button").last.click()
    expect(page.get_by_text("questions.csv is undone")).to_be_visible()
    no_violations(page, scripts=scripts)
    shot(page, "undone")
