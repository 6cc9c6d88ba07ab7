"""Large files: other processes look at the texts, and it makes no difference but to the clock."""

from __future__ import annotations

import io
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.config import get_settings
from app.models import FoldedPrompt, Import, Prompt, PromptSketch, SourceUser, Study
from app.services import imports
from app.services.imports import ImportRefused, import_prompts
from app.services.preparation import helpers
from tests.factories import make_study


@pytest.fixture(autouse=True)
def _settings_of_this_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.undo()
    get_settings.cache_clear()


def rows(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Prompts of 30 words by few users: repeated, nearly repeated, with a name or a number."""
    draw = random.Random(seed)
    words = [f"{first}{last}" for first in "bdgklmnprst" for last in ("ar", "eno", "ilu", "oss")]
    made: list[dict[str, Any]] = []
    for number in range(count):
        text = " ".join(draw.choices(words, k=draw.randint(4, 60)))
        if made and draw.random() < 0.2:
            text = draw.choice(made)["prompt"] + draw.choice(["", " please", "\r\nnow", "  "])
        text += draw.choice([""] * 9 + [" Mail joan.baker@posteo.de."])
        row = {"prompt_id": f"p{number}", "prompt": text, "user": f"u{draw.randrange(count // 20)}"}
        made.append(row if draw.random() < 0.9 else {"prompt": text})
    return made


def jsonl(values: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def stored(session: Session, study: Study) -> list[list[Any]]:
    """All that an import wrote of prompts, without the numbers that rows have."""
    stands = select(Prompt.text_sha256).where(Prompt.id == FoldedPrompt.prompt_id).scalar_subquery()
    queries = (
        select(
            Prompt.text,
            Prompt.split,
            Prompt.external_id,
            Prompt.language,
            Prompt.tokens,
            Prompt.pii_state,
            Prompt.pii_spans,
            SourceUser.name,
            PromptSketch.prefix,
            PromptSketch.bands,
        )
        .join(Prompt.source_user)
        .join(PromptSketch, PromptSketch.prompt_id == Prompt.id)
        .where(Prompt.study_id == study.id)
        .order_by(Prompt.id),
        select(
            FoldedPrompt.line,
            FoldedPrompt.external_id,
            FoldedPrompt.reason,
            FoldedPrompt.similarity,
            stands,
        )
        .where(FoldedPrompt.study_id == study.id)
        .order_by(FoldedPrompt.line, FoldedPrompt.id),
    )
    return [[tuple(row) for row in session.execute(query)] for query in queries]


@pytest.mark.parametrize("near_duplicates", ["fold", "keep"])
def test_chunks_that_others_looked_at_become_the_same_rows(
    session: Session, monkeypatch: pytest.MonkeyPatch, near_duplicates: str
) -> None:
    data = jsonl(rows(1_500, seed=3))
    monkeypatch.setattr(imports, "CHUNK", 100)
    found = []
    for processes in ("0", "3"):
        monkeypatch.setenv("PLUMBLINE_IMPORT_PROCESSES", processes)
        get_settings.cache_clear()
        study = make_study(session)
        study.split_key = "the same"
        study.preparation = {"near_duplicates": near_duplicates, "cap": 15}
        report = import_prompts(session, study, io.BytesIO(data), file_name="prompts.jsonl")
        counts = (report.stored, report.held, report.folded, report.folded_lines)
        found.append((counts, stored(session, study)))
    assert found[0] == found[1]
    assert all(found[0][1])


def test_long_prompts_make_small_chunks(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "CHUNK_CHARACTERS", 1_000)
    sizes = []
    store = imports.PromptFile.store

    def counted(file: Any, some: Any, import_id: int) -> None:
        sizes.append(sum(len(row.text) for row in some))
        store(file, some, import_id)

    monkeypatch.setattr(imports.PromptFile, "store", counted)
    data = jsonl([{"prompt": f"{number} " * 80} for number in range(100, 160)])
    report = import_prompts(session, make_study(session), io.BytesIO(data), file_name="long.jsonl")
    assert report.stored == 60
    assert sizes == [1_280] * 15


def test_the_database_is_told_how_its_tables_grow(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else look-ups in a million rows of one transaction would scan them all."""
    monkeypatch.setattr(imports, "CHUNK", 100)
    monkeypatch.setattr(imports, "ANALYZED", 500)
    data = jsonl([{"prompt": f"Say {number}."} for number in range(1_000)])
    import_prompts(session, make_study(session), io.BytesIO(data), file_name="prompts.jsonl")
    distinct = text(
        "SELECT n_distinct FROM pg_stats WHERE tablename = 'prompts' AND attname = 'text_sha256'"
    )
    assert session.scalar(distinct) == -1  # all of them differ
    assert session.scalar(text("SELECT reltuples FROM pg_class WHERE relname = 'prompts'")) >= 400


def test_a_process_that_is_killed_refuses_the_file(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "CHUNK", 50)
    monkeypatch.setattr(imports, "PROGRESS", 100)
    monkeypatch.setenv("PLUMBLINE_IMPORT_PROCESSES", "2")
    get_settings.cache_clear()
    killed = []

    def progress(_bytes: int, count: int) -> None:
        if count == 1_000:
            for process in alive():
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    study = make_study(session)
    with pytest.raises(ImportRefused, match=r"ended by signal 9 \(Killed\)"):
        import_prompts(
            session,
            study,
            io.BytesIO(jsonl(rows(2_000, seed=4))),
            file_name="prompts.jsonl",
            progress=progress,
        )
    assert len(killed) == 2
    assert not alive()
    session.expire_all()
    assert session.scalar(select(Import.id).where(Import.study_id == study.id)) is None
    assert session.scalar(select(Prompt.id).where(Prompt.study_id == study.id)) is None


def alive() -> list[int]:
    """The helpers that this process has."""
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    found = []
    for child in {int(number) for numbers in children for number in numbers}:
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if helpers.__name__.encode() in words:
            found.append(child)
    return found
