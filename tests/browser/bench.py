"""A ranking on a labeler's screen: made, opened, driven, and looked up in the database."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import Assignment, AssignmentItem, PromptRating, Ranking, RankingItem, Rating, User
from tests import factories as make

DATA = Path(os.environ.get("PLUMBLINE_DATA", Path(__file__).parents[3] / "shared" / "data"))


def given_ranking(
    engine: Engine,
    username: str,
    texts: Sequence[str] | int = 4,
    *,
    prompt: str | None = None,
    rated: bool = True,
    suggest: bool = True,
) -> None:
    """A study of its own with one labeler and one ranking of these texts."""
    with Session(engine) as session:
        study = make.make_study(session, f"Study of {username}")
        make.make_labeler(session, study, username)
        asked = make.make_prompt(session, study, prompt)
        make.make_completions(session, asked, texts)
        batch = make.make_ranking_batch(session, study, [asked], rate_completions=rated)
        batch.suggest_order = suggest
        session.commit()


def nine_texts() -> tuple[str, list[str]]:
    """A prompt and nine completions: of real systems where the sample data is, else made up."""
    folder = DATA / "user_oriented"
    if not folder.is_dir():
        texts = [f"{n}. " + "A sentence about the rainbow. " * (3 * n) for n in range(1, 10)]
        return "Write about the rainbow.", texts

    def rows(name: str) -> list[dict[str, Any]]:
        with gzip.open(folder / name, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    prompt = rows("prompts.jsonl.gz")[30]
    texts = [
        row["completion"]
        for row in rows("completions.jsonl.gz")
        if row["prompt_id"] == prompt["prompt_id"]
    ]
    return prompt["prompt"], [*texts, prompt["reference"]][:9]


@contextmanager
def labeler_page(
    browser: Browser, url: str, username: str, **context_options: Any
) -> Iterator[Page]:
    """A labeler's page with their ranking on it, ready for keys. It may log no error."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | context_options)
    page = context.new_page()
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{url}/login")
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password").fill(make.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    if context_options.get("java_script_enabled", True):
        expect(page.locator("form[data-step]")).to_be_visible()
    yield page
    context.close()
    assert complaints == []


@dataclass
class Keys:
    """A keyboard that counts: a chord such as Control+Enter is one press."""

    page: Page
    pressed: list[str] = field(default_factory=list)

    def __call__(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.pressed.append(key)


def expect_order(page: Page, order: str) -> None:
    """The order rail: "B>A=D>C", or "B>A, C D" with what has no place."""
    ranked, _, rest = order.partition(", ")
    unplaced = f"not placed{rest.replace(' ', '')}" if rest else ""
    expect(page.locator("#rail")).to_have_text(ranked + unplaced)


def said(page: Page, words: str) -> None:
    """What the live region said last."""
    expect(page.locator("#live")).to_have_text(words)


def submitted(page: Page) -> None:
    expect(page.get_by_role("heading", name="No work right now")).to_be_visible()


@dataclass(frozen=True)
class Stored:
    """A labeler's ranking as the database has it, by the letters that they saw."""

    tiers: dict[str, int]
    overall: dict[str, int | None]  # only completions that have a rating row
    answers: dict[str, dict[str, bool]]  # and only answered questions
    prompt: dict[str, bool]


def stored(engine: Engine, username: str) -> Stored:
    """The one ranking that the labeler submitted."""
    with Session(engine) as session:
        ranking = session.scalars(
            select(Ranking).join(User, User.id == Ranking.user_id).where(User.username == username)
        ).one()
        items = session.scalars(
            select(AssignmentItem)
            .join(Assignment, Assignment.id == AssignmentItem.assignment_id)
            .where(Assignment.id == ranking.assignment_id)
        )
        letter = {item.completion_id: item.letter for item in items}
        tiers = session.execute(
            select(RankingItem.completion_id, RankingItem.tier).where(
                RankingItem.ranking_id == ranking.id
            )
        )
        ratings = session.scalars(select(Rating).where(Rating.ranking_id == ranking.id)).all()
        about = session.get(PromptRating, ranking.id)
        return Stored(
            tiers={letter[completion]: tier for completion, tier in tiers},
            overall={letter[row.completion_id]: row.overall for row in ratings},
            answers={letter[row.completion_id]: _answered(row) for row in ratings},
            prompt=_answered(about) if about else {},
        )


def _answered(row: Rating | PromptRating) -> dict[str, bool]:
    values = {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}
    return {name: value for name, value in values.items() if isinstance(value, bool)}
