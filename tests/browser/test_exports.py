"""The pages of exports and of the API in Chromium: no violation, worked by the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app import background
from app.models import Export, Study, WebhookDelivery
from app.services.webhooks import add_webhook, settle
from tests import factories as make


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may log no error, but for the refusals that a test looks for."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        refused = re.search(r"responded with a status of 422", message.text)
        if message.type in {"error", "warning"} and not refused:
            complaints.append(message.text)

    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def study(live_engine: Engine) -> Study:
    """Two demonstrations by ann; rosa leads the study."""
    with Session(live_engine, expire_on_commit=False) as session:
        study = make.make_study(session, "Alpha")
        make.make_researcher(session, study, "rosa")
        make.make_demonstration_batch(session, study, 2)
        ann = make.make_labeler(session, study, "ann")
        for _ in range(2):
            make.give_label(session, ann)
        session.commit()
    return study


def sign_in(page: Page, address: str) -> None:
    page.goto(f"{address}/login")
    page.get_by_label("User name").fill("rosa")
    page.get_by_label("Password").fill(make.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def no_violations(page: Page) -> None:
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        # Without motion: axe would look at colours on their way from one scheme to the other.
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    page.emulate_media(color_scheme="light")


def test_an_export_by_keyboard_shows_itself_when_it_is_made(
    page: Page,
    live_url: str,
    live_engine: Engine,
    study: Study,  # noqa: ARG001
) -> None:
    sign_in(page, live_url)
    page.goto(f"{live_url}/studies/alpha/exports")
    expect(page.get_by_text("No exports yet")).to_be_visible()
    page.get_by_label("Demonstrations, for SFT").focus()
    page.keyboard.press("Space")
    page.get_by_label("Make a snapshot of it").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Export").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("waits for the worker")).to_be_visible()
    no_violations(page)
    with Session(live_engine) as session:
        background.make_export(session.scalars(select(Export.id)).one())
    link = page.get_by_role("link", name="parquet/train.parquet")
    expect(link).to_be_visible()  # without a reload
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "alpha-sft-1-train.parquet"
    page.reload()
    expect(page.get_by_role("region", name="Snapshots")).to_contain_text("customer: train 2")
    no_violations(page)
    page.get_by_label("Everything of a labeler, for them").check()
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_role("alert")).to_contain_text("Name the labeler")
    page.goto(f"{live_url}/studies/alpha/people")
    no_violations(page)


def test_tokens_webhooks_and_the_apis_document(
    page: Page, live_url: str, live_engine: Engine, study: Study
) -> None:
    with Session(live_engine) as session:
        add_webhook(
            session,
            session.get_one(Study, study.id),
            url="http://127.0.0.1:9/hook",
            events=["batch.labeled"],
        )
        session.commit()
    sign_in(page, live_url)
    page.goto(f"{live_url}/studies/alpha/api")
    page.get_by_label("Program").fill("nightly import")
    page.get_by_role("button", name="Make the token").click()
    expect(page.get_by_role("status")).to_contain_text("It is shown once")
    no_violations(page)
    page.goto(f"{live_url}/studies/alpha/api")
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_role("region", name="Last messages")).to_contain_text("queued")
    with Session(live_engine) as session:
        identity = session.scalars(select(func.max(WebhookDelivery.id))).one()
        assert identity is not None
        settle(session, identity, status=204, error=None)
        session.commit()
    expect(page.get_by_role("region", name="Last messages")).to_contain_text("delivered")
    page.get_by_text("Secret that signs").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("whsec_")).to_be_visible()
    no_violations(page)
    page.get_by_role("link", name="What the API can do").click()
    expect(page.get_by_role("heading", name="The API")).to_be_visible()
    no_violations(page)
