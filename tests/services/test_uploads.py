"""Uploads: guessed columns, and imports by a worker that may die."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from app import background, storage
from app.errors import Invalid, NotFound
from app.models import Import, Prompt, Upload, UploadState
from app.services import uploads
from app.services.importing.problems import ImportRefused
from tests import factories as make
from tests.conftest import clear_settings


@pytest.fixture
def worker(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Background work commits to a database of its own."""
    monkeypatch.setenv("PLUMBLINE_DATABASE_URL", fresh_database)
    clear_settings()
    yield
    monkeypatch.undo()
    clear_settings()


def jsonl(count: int) -> bytes:
    return b"".join(json.dumps({"prompt": f"Say {n}."}).encode() + b"\n" for n in range(count))


def queued(engine: Engine, data: bytes) -> int:
    """The id of an upload that waits for the worker."""
    with Session(engine) as session:
        study = make.make_study(session)
        upload = uploads.receive(session, study, "prompts", io.BytesIO(data), file_name="p.jsonl")
        uploads.start(session, upload, {"prompt": "prompt"})
        session.commit()
        return upload.id


def stored(engine: Engine) -> tuple[int, int]:
    """Prompts and imports."""
    with Session(engine) as session:
        return (
            session.scalar(select(func.count()).select_from(Prompt)) or 0,
            session.scalar(select(func.count()).select_from(Import)) or 0,
        )


@pytest.mark.parametrize(
    ("kind", "columns", "guesses"),
    [
        ("prompts", ["prompt", "text"], {"prompt": "prompt", "text": ""}),
        ("prompts", ["instruction", "id"], {"instruction": "prompt", "id": "prompt_id"}),
        ("completions", ["generator", "output"], {"generator": "model", "output": "completion"}),
        (
            "completions",  # the paper's released samples
            ["", "model_type", "context", "ref_text", "sample"],
            {
                "": "",
                "model_type": "model",
                "context": "prompt",
                "ref_text": "",
                "sample": "completion",
            },
        ),
        ("rankings", ["question", "answers"], {"question": "prompt", "answers": "completions"}),
        ("comparisons", ["a", "b"], {"a": "", "b": ""}),
    ],
)
def test_guesses(kind: str, columns: list[str], guesses: dict[str, str]) -> None:
    assert uploads.guess(kind, columns) == guesses


def test_a_mapping_holds_what_differs() -> None:
    assert uploads.mapping_of("prompts", {"prompt": "prompt", "note": ""}) == {}
    assert uploads.mapping_of("prompts", {"note": "prompt"}) == {"note": "prompt"}
    # What had a meaning by its name alone loses it.
    chosen = uploads.mapping_of("prompts", {"prompt": "", "note": "prompt", "user": ""})
    assert chosen == {
        "prompt": "prompt (of the file)",
        "note": "prompt",
        "user": "user (of the file)",
    }
    with pytest.raises(Invalid, match="Two columns are to be prompt"):
        uploads.mapping_of("prompts", {"a": "prompt", "b": "prompt"})
    with pytest.raises(Invalid, match="'wings' is no column of prompts"):
        uploads.mapping_of("prompts", {"a": "wings"})


@pytest.mark.parametrize("packed", ["csv", "gzip", "parquet"])
def test_the_first_rows_of_every_format_are_shown(packed: str) -> None:
    rows = [{"Prompt": f"Say {n}.", "n": str(n)} for n in range(9)]
    data = "Prompt,n\n" + "".join(f"{row['Prompt']},{row['n']}\n" for row in rows)
    plain = data.encode()
    if packed == "gzip":
        plain = gzip.compress(plain)
    if packed == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        plain = buffer.getvalue()
    preview = uploads.look("prompts", io.BytesIO(plain), "p")
    assert preview.columns == ["prompt", "n"]
    assert preview.rows == [[f"Say {n}.", str(n)] for n in range(5)]
    with pytest.raises(ImportRefused, match="the file is empty"):
        uploads.look("prompts", io.BytesIO(b""), "p")


@pytest.mark.parametrize("good", [0, 4])
def test_the_look_ends_after_twenty_problems(good: int) -> None:
    """A request waits for it, however large the file is."""
    file = io.BytesIO(jsonl(good) + b"{x\n" * 1_000_000)
    with pytest.raises(ImportRefused) as refused:
        uploads.look("prompts", file, "p.jsonl")
    said = refused.value.problems
    assert (len(said), refused.value.more) == (21, 0)
    assert said[19].startswith(f"line {good + 20}: broken JSON")
    assert said[20] == "what comes after was not looked at"
    assert file.tell() == len(jsonl(good)) + 20 * len(b"{x\n")
    # Fewer say nothing yet: the import lists them all.
    assert len(uploads.look("prompts", io.BytesIO(b"{x\n" * 19 + jsonl(9)), "p.jsonl").rows) == 5


def test_the_look_ends_after_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "LOOKED_AT", 10_000)
    blank = (b" " * 99 + b"\n") * 5_000
    for data in (blank, gzip.compress(blank)):
        with pytest.raises(ImportRefused, match="line 101: no more than the first 10,000 bytes"):
            uploads.look("prompts", io.BytesIO(data), "p.jsonl")
    rows = jsonl(5) + blank
    assert len(uploads.look("prompts", io.BytesIO(rows), "p.jsonl").rows) == 5


@pytest.mark.usefixtures("worker")
def test_a_worker_imports_it_and_says_how_far_it_is(
    fresh_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "BEAT_SECONDS", 0.0)
    seen: list[tuple[int, int, int]] = []
    beat = uploads.beat

    def watched(session: Session, upload_id: int, attempt: int, done: int, rows: int) -> None:
        beat(session, upload_id, attempt, done, rows)
        session.flush()
        seen.append((done, rows, stored(fresh_engine)[0]))

    monkeypatch.setattr(uploads, "beat", watched)
    data = jsonl(3000)
    upload_id = queued(fresh_engine, data)
    background.import_upload(upload_id)
    background.import_upload(upload_id)  # a message that comes twice changes nothing
    assert [rows for _, rows, _ in seen] == [500, 1000, 1500, 2000, 2500, 3000]
    assert all(0 < done <= len(data) for done, _, _ in seen)
    assert {prompts for _, _, prompts in seen} == {0}  # others see all of the file, or nothing
    with Session(fresh_engine) as session:
        upload = session.get_one(Upload, upload_id)
        assert (upload.state, upload.attempt, upload.rows_done) == (UploadState.imported, 1, 3000)
        assert upload.bytes_done == upload.size == len(data)
        assert upload.result is not None
        assert "Prompts: 3,000 read" in upload.result["sentences"][0]
        assert upload.import_id == session.scalars(select(Import.id)).one()
        assert not Path(storage.fetch(upload.uri)).exists()


@pytest.mark.usefixtures("worker")
def test_a_bad_file_ends_with_its_problems(fresh_engine: Engine) -> None:
    upload_id = queued(fresh_engine, jsonl(3) + b"{broken\n")
    background.import_upload(upload_id)
    assert stored(fresh_engine) == (0, 0)
    with Session(fresh_engine) as session:
        upload = session.get_one(Upload, upload_id)
        assert upload.state is UploadState.refused
        assert upload.result is not None
        [problem] = upload.result["problems"]
        assert problem.startswith("line 4: broken JSON")
        assert uploads.due(session) == []


@pytest.mark.usefixtures("worker")
def test_a_dead_workers_import_is_taken_over_and_stored_once(fresh_engine: Engine) -> None:
    upload_id = queued(fresh_engine, jsonl(10))
    with Session(fresh_engine) as session:
        assert uploads.due(session) == [upload_id]
        first = uploads.claim(session, upload_id)
        assert uploads.claim(session, upload_id) is None
        assert uploads.due(session) == []
        _silence(session, upload_id)
        assert uploads.due(session) == [upload_id]
        session.commit()
    background.import_upload(upload_id)
    assert first == 1
    assert stored(fresh_engine) == (10, 1)
    # The first worker was only slow: what it does now comes to nothing.
    with Session(fresh_engine) as session:
        with pytest.raises(uploads.UploadGone):
            uploads.beat(session, upload_id, first, 1, 1)
        with pytest.raises(uploads.UploadGone):
            uploads.refuse(session, upload_id, first, Invalid("too late"))


@pytest.mark.usefixtures("worker")
def test_a_file_that_kills_its_workers_is_given_up(fresh_engine: Engine) -> None:
    upload_id = queued(fresh_engine, jsonl(1))
    with Session(fresh_engine) as session:
        for attempt in range(1, uploads.ATTEMPTS + 1):
            assert uploads.due(session) == [upload_id]
            assert uploads.claim(session, upload_id) == attempt
            _silence(session, upload_id)
        assert uploads.due(session) == []
        upload = session.get_one(Upload, upload_id)
        assert upload.result == {
            "problems": ["the worker stopped 3 times while it was imported"],
            "more": 0,
        }


def _silence(session: Session, upload_id: int) -> None:
    """As if the worker had said nothing for a minute after its lease."""
    session.execute(
        update(Upload)
        .where(Upload.id == upload_id)
        .values(lease_until=func.now() - timedelta(minutes=1))
    )


def test_a_file_of_another_study_is_not_found(session: Session) -> None:
    one, other = make.make_study(session, "One"), make.make_study(session, "Other")
    upload = uploads.receive(session, one, "prompts", io.BytesIO(jsonl(1)), file_name="p.jsonl")
    assert uploads.find_upload(session, one, upload.id) is upload
    for study, number in ((other, upload.id), (one, 0), (one, 10**30)):
        with pytest.raises(NotFound, match="no such upload"):
            uploads.find_upload(session, study, number)


@pytest.mark.usefixtures("worker")
def test_forgotten_uploads_and_leavings_are_removed(fresh_engine: Engine) -> None:
    with Session(fresh_engine) as session:
        study = make.make_study(session)
        waiting = [
            uploads.receive(session, study, "prompts", io.BytesIO(jsonl(2)), file_name="p.jsonl")
            for _ in range(3)
        ]
        uploads.start(session, waiting[0], {"prompt": "prompt"})
        for upload in waiting[:2]:
            upload.created_at = datetime.now(UTC) - uploads.KEPT - timedelta(minutes=1)
        session.commit()
        paths = [storage.local_path(upload.uri) for upload in waiting]
    old, new = storage.scratch() / "old", storage.scratch() / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "part").write_text("half")
    long_ago = time.time() - storage.SCRATCH_SECONDS - 60
    for path in (old / "part", old, new):  # in `new` a file was written since
        os.utime(path, (long_ago, long_ago))
    background.tidy()
    assert [path is not None and path.exists() for path in paths] == [True, False, True]
    with Session(fresh_engine) as session:
        states = session.scalars(select(Upload.state).order_by(Upload.id)).all()
    assert states == [UploadState.queued, UploadState.waiting]
    assert (old.exists(), new.exists()) == (False, True)
    shutil.rmtree(new)
