"""The researcher's screens: data on its way in and out, and a study whose round is finished."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from playwright.sync_api import FilePayload, Page
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Batch, Prompt, Run, Study
from app.services.preparation.sifting import Preparation
from app.services.prompts import PromptRow, add_prompts
from app.services.webhooks import add_webhook
from tests import factories as make
from tests.browser.scenes import FURTHER, QUESTION, Screen, new_study

TOLD = (
    "My name is Ines Okafor, and my flat at 48 Maple Street, Springfield, IL 62704 is cold. "
    "Write a letter to my landlord Gerald, and put my telephone in it: +49 30 901820.",
    "Why does this not work?\n\nexport GITHUB_TOKEN=ghp_16C7e42F292c6912E7710c838347Ae178B4a",
)
FILE = "customers.csv"
_numbers = count(3)


def _choose_file(page: Page) -> None:
    page.locator("[name=kind][value=prompts]").check()
    page.get_by_label("File", exact=True).set_input_files(_file())
    page.get_by_role("button", name="Look at the file").click()
    page.get_by_role("heading", name=FILE).wait_for()


def _import_file(page: Page) -> None:
    _choose_file(page)
    page.get_by_role("button", name="Import", exact=True).click()
    page.get_by_text("left out as duplicates").first.wait_for(timeout=60_000)


def _file() -> FilePayload:
    """A prompt that is new, twice; the others came before once the file was imported."""
    new = f"Name {next(_numbers)} birds of the Alps."
    texts = (new, QUESTION, *FURTHER, new)
    rows = [f'"{text}",customer {n},note {n}' for n, text in enumerate(texts)]
    text = "\n".join(["question,customer,remark", *rows])
    return {"name": FILE, "mimeType": "text/csv", "buffer": text.encode()}


def data_pages(session: Session) -> Iterator[Screen]:
    """Prompts on their way in, and labels on their way out."""
    study = new_study(session, "data")
    make.make_researcher(session, study, "rex")
    fred = make.make_labeler(session, study, "fred")
    rows = [PromptRow(text=text, user="ann") for text in TOLD]
    add_prompts(session, study, rows, preparation=Preparation(session, study))
    make.make_demonstration_batch(session, study, 2)
    make.give_label(session, fred)
    add_webhook(session, study, url="https://lab.example/hook", events=["batch.labeled"])
    session.commit()
    here = "/studies/data"
    for name in ("import", "preparation", "pii", "exports", "api"):
        yield Screen(f"researcher-{name}", "rex", f"{here}/{name}")
    yield Screen("researcher-import-preview", "rex", f"{here}/import", _choose_file)
    yield Screen("researcher-import-report", "rex", f"{here}/import", _import_file)
    yield Screen("not-found", "rex", "/studies/no-such-study")


def finished_round(session: Session, demo: Study) -> Iterator[Screen]:
    """The researcher's pages of a study whose round is finished."""
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
        "guidelines": "/guidelines",
        "guidelines-edit": "/guidelines/edit",
        "flags": "/flags",
        "settings": "/settings",
    }.items():
        yield Screen(f"researcher-{name}", "researcher", study + path)
