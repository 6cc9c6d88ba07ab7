"""The charts of a run's page in Chromium."""

from __future__ import annotations

from datetime import UTC, datetime

from playwright.sync_api import Page, expect
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.models import Run, RunKindName, RunMetric, RunState
from tests import factories as make
from tests.browser.test_desk import sign_in


def test_charts_are_of_what_was_measured_more_than_once(
    page: Page, live_url: str, live_engine: Engine
) -> None:
    now = datetime.now(UTC)
    with Session(live_engine, expire_on_commit=False) as session:
        study = make.make_study(session, "Charts")
        make.make_researcher(session, study, "rosa")
        run = Run(
            study_id=study.id,
            stage="reward",
            kind=RunKindName.reward,
            state=RunState.succeeded,
            seed=0,
            preset="paper",
            config={},
            started_at=now,
            finished_at=now,
        )
        session.add(run)
        session.flush()
        for step in (1, 2, 3):
            values = {"train/loss": 0.7 - step / 10, "train/learning_rate": 3e-6 * step}
            session.add(RunMetric(run_id=run.id, phase="train", step=step, values=values, time=now))
        values = {"valid/pairwise_accuracy": 0.7}
        session.add(RunMetric(run_id=run.id, phase="valid", step=3, values=values, time=now))
        session.commit()
    sign_in(page, live_url, "rosa")
    page.goto(f"{live_url}/studies/{study.slug}/runs/{run.id}")
    charts = page.locator("[data-charts] figure")
    expect(charts).to_have_count(2)
    expect(charts.locator("figcaption")).to_have_text(
        ["train: train/learning_rate", "train: train/loss"]
    )
    expect(charts.locator("canvas")).to_have_count(2)
