"""A study from the terminal, on a database of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from app.cli import app
from app.models import Import, Membership, Pool, Prompt, Ranking, Study, User
from app.services import people
from tests import factories as make
from tests.conftest import clear_settings


@pytest.fixture
def run(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("PLUMBLINE_DATABASE_URL", fresh_database)
    clear_settings()
    runner = CliRunner()
    return lambda *words, **options: runner.invoke(app, [str(word) for word in words], **options)


def test_a_study_from_nothing_to_rankings(
    run: Callable[..., Result], fresh_engine: Engine, tmp_path: Path
) -> None:
    prompts, completions = tmp_path / "p.jsonl", tmp_path / "c.csv"
    prompts.write_text(
        "".join(json.dumps({"prompt_id": n, "prompt": f"{n}?"}) + "\n" for n in "12")
    )
    rows = [f"{prompt},m{model},answer {model},0.{model}" for prompt in "12" for model in "345"]
    completions.write_text("\n".join(["prompt_id,model,completion,score", *rows]))

    made = run("user", "create", "rosa", "--name", "Rosa")
    assert made.exit_code == 0, made.output
    password = made.output.split("Password: ")[1].strip()
    run("user", "create", "lena", "--password-stdin", input="a good one\n")
    made = run("study", "create", "A study", "--rehearsal", "--researcher", "rosa")
    assert "/studies/a-study" in made.output
    run("member", "add", "lena", "--study", "a-study", "--role", "heldout_labeler")
    done = run("import", "prompts", prompts, "--study", "a-study")
    assert "Prompts: 2 read, 2 stored" in done.output
    assert (
        "read: 2, stored: 2, collapsed as duplicates: 0, held for personal information: 0, "
        "over the length: 0, over a user's cap: 0, refused: 0\n" in done.output
    )
    done = run("import", "completions", completions, "--study", "a-study")
    assert "Completions: 6 read, 6 stored" in done.output
    assert (
        "2 rankings (2 of K = 3), 0 of them with ties"
        in run("rank-by-score", "--study", "a-study").output
    )
    assert "Nothing new" in run("rank-by-score", "--study", "a-study").output

    with Session(fresh_engine) as session:
        study = session.scalars(select(Study)).one()
        assert study.rehearsal
        assert session.scalar(select(func.count()).select_from(Ranking)) == 2
        lena = people.authenticate(session, "lena", "a good one")
        assert session.get_one(Membership, (study.id, lena.id)).pool is Pool.heldout
        people.authenticate(session, "rosa", password)


def test_refusals_are_plain_words_and_status_1(
    run: Callable[..., Result], fresh_engine: Engine, tmp_path: Path
) -> None:
    run("study", "create", "A study")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "Say 1."}\n{"prompt": \n')
    study = ("--study", "a-study")
    cases = {
        "line 2: broken JSON": run("import", "prompts", bad, *study),
        "There is no study b.": run("import", "prompts", bad, "--study", "b"),
        "cannot be read: No such file": run("import", "prompts", tmp_path / "none", *study),
        "A study is not a rehearsal": run("rank-by-score", *study),
        "There is no account x.": run("member", "add", "x", *study),
        "A password has at least": run("user", "create", "x", "--password-stdin", input="1\n"),
        "The address a-study is taken.": run("study", "create", "B", "--slug", "a-study"),
    }
    for words, result in cases.items():
        assert result.exit_code == 1, words
        assert words in result.stderr
        assert "Traceback" not in result.output
    with Session(fresh_engine) as session:
        assert session.scalars(select(User)).all() == []
        assert session.scalars(select(Prompt)).all() == []


def test_a_database_that_is_not_there(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    clear_settings()
    result = run("study", "create", "A study")
    assert result.exit_code == 1
    assert "The database cannot be reached" in result.stderr


def test_export_writes_a_folder_and_says_what_it_left_out(
    run: Callable[..., Result], fresh_engine: Engine, tmp_path: Path
) -> None:
    with Session(fresh_engine) as session:
        study = make.make_study(session, "Large")
        prompts = [make.make_prompt(session, study) for _ in range(3)]
        make.make_demonstration_batch(session, study, prompts)
        ann = make.make_labeler(session, study, "ann")
        for _ in prompts:
            make.give_label(session, ann)
        prompts[0].withdrawn_at = func.now()
        session.commit()
    out = tmp_path / "out"
    options = ("--study", "large", "--out", out)
    result = run("export", "sft", *options, "--format", "jsonl", "--messages")
    assert result.exit_code == 0, result.output
    assert "2 rows in 1 files" in result.output
    assert "Left out: 1 demonstrations of a labeler or prompt that was withdrawn." in result.output
    assert len((out / "jsonl" / "train.jsonl").read_text("utf-8").splitlines()) == 2
    result = run("export", "sft", *options)
    assert (result.exit_code, "not an empty folder" in result.stderr) == (1, True)
    result = run("export", "labeler", *options[:2], "--out", tmp_path / "ann", "--labeler", "ann")
    assert "6 rows in 2 files" in result.output  # three assignments, three demonstrations
    result = run("export", "labeler", *options[:2], "--out", tmp_path / "none")
    assert (result.exit_code, "Name the labeler" in result.stderr) == (1, True)
    assert not (tmp_path / "none").exists()


def test_labels_are_imported_and_taken_back(
    run: Callable[..., Result], fresh_engine: Engine, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "Say 1.", "chosen": "One.", "rejected": "No."}))
    run("study", "create", "A study")
    done = run("import", "comparisons", pairs, "--study", "a-study")
    assert "Comparisons: 1 read, 1 stored" in done.output
    assert "This is import 1" in done.output
    undone = run("undo-import", 1, "--study", "a-study")
    assert undone.exit_code == 0, undone.output
    with Session(fresh_engine) as session:
        assert session.scalar(select(func.count()).select_from(Ranking)) == 0
    assert run("undo-import", 1, "--study", "a-study").exit_code == 1


def test_columns_are_named(run: Callable[..., Result], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(",Asked,a,b\n0,Say 1.,One.,No.\n")
    run("study", "create", "A study")
    words = ("import", "comparisons", pairs, "--study", "a-study", "--column", "asked=prompt")
    assert "line 1: no column chosen" in run(*words).stderr
    done = run(*words, "--column", "a=chosen", "--column", "b=rejected")
    assert "Comparisons: 1 read, 1 stored" in done.output
    for wrong in ("a", "a=best", "a=prompt"):
        refused = run(*words, "--column", wrong)
        assert (refused.exit_code, "Traceback" in refused.output) == (1, False), wrong


def test_files_with_odd_names_and_pipes(
    run: Callable[..., Result], fresh_engine: Engine, tmp_path: Path
) -> None:
    run("study", "create", "A study")
    pair = b'{"prompt": "Say 1.", "chosen": "One.", "rejected": "No."}'
    odd = tmp_path / os.fsdecode(b"pairs\xff\xe2\x80\xaegpj.jsonl")  # not UTF-8, and turned
    odd.write_bytes(pair)
    done = run("import", "comparisons", odd, "--study", "a-study")
    assert done.exit_code == 0, done.output
    assert "1 policies: pairs?gpj 2." in done.output
    with Session(fresh_engine) as session:
        assert session.scalars(select(Import.file_name)).one() == "pairs?gpj.jsonl"

    reads, writes = os.pipe()
    os.write(writes, pair)
    os.close(writes)
    refused = run("import", "comparisons", f"/dev/fd/{reads}", "--study", "a-study")
    os.close(reads)
    assert refused.exit_code == 1
    assert "is a pipe" in refused.stderr


def test_pretraining_text(run: Callable[..., Result], tmp_path: Path) -> None:
    run("study", "create", "Web")
    texts = tmp_path / "texts.csv"
    texts.write_text('text\n"One,\nin two lines."\nTwo.\n')
    done = run("pretraining-text", texts, "--study", "web")
    assert "Snapshot 1: 2 texts, which the study's next rounds mix in." in done.output
    texts.write_text("words\nOne.\n")
    done = run("pretraining-text", texts, "--study", "web")
    assert done.exit_code == 1
    assert "no column text" in done.output
