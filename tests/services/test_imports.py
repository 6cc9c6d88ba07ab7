"""Files from outside: what is refused, with its line, and what is stored, once."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.models import Completion, Import, Policy, PolicyKind, Prompt, SourceUser, Study, UseCase
from app.services.importing.lines import Limits
from app.services.imports import ImportRefused, ImportReport, import_completions, import_prompts
from tests.factories import make_prompt, make_study

DATA = Path(os.environ.get("PLUMBLINE_DATA", Path(__file__).parents[3] / "shared" / "data"))


def jsonl(rows: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def prompt_rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt_id": f"p{n}", "prompt": f"Say {n}."} for n in range(1, count + 1)]


@pytest.fixture
def study(session: Session) -> Study:
    return make_study(session)


def load(session: Session, study: Study, data: bytes, name: str = "prompts.jsonl") -> ImportReport:
    return import_prompts(session, study, io.BytesIO(data), file_name=name)


def load_completions(session: Session, study: Study, data: bytes) -> ImportReport:
    return import_completions(session, study, io.BytesIO(data), file_name="completions.jsonl")


def counts(session: Session) -> list[int]:
    tables = (Import, SourceUser, Prompt, Policy, Completion)
    return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


def broken_line_812() -> bytes:
    lines = jsonl(prompt_rows(1000)).splitlines(keepends=True)
    lines[811] = b'{"prompt_id": "p812", "prompt": "Say 812."\n'
    return b"".join(lines)


def latin_1() -> bytes:
    return jsonl(prompt_rows(2)) + '{"prompt": "Café?"}\n'.encode("latin-1")


def excel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


def cut_gzip() -> bytes:
    # Random letters, so that what is cut off is more than the checksum at the end.
    noise = "".join(random.Random(1).choices("abcdefghij ", k=100_000))
    return gzip.compress(jsonl([{"prompt": noise[n : n + 500]} for n in range(0, 100_000, 500)]))[
        :20_000
    ]


def damaged_gzip() -> bytes:
    data = bytearray(gzip.compress(jsonl(prompt_rows(100))))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


BAD_PROMPTS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "wrong column": (
        "p.jsonl",
        lambda: jsonl([{"prompt": "Say 1."}, {"question": "Say 2."}]),
        "conversations, chosen); the columns are: question",
    ),
    "wrong column in CSV": (
        "p.csv",
        lambda: b"id,question\n1,Say 1.\n",
        "line 1: no column prompt (or text, instruction, few_shot, messages, conversations",
    ),
    "broken JSON": (
        "p.jsonl",
        broken_line_812,
        "line 812: broken JSON: Expecting ',' delimiter (column 43)",
    ),
    "not UTF-8": (
        "p.jsonl",
        latin_1,
        "line 3: is not UTF-8: byte 0xe9 at 95 of the text",
    ),
    "UTF-16": ("p.csv", lambda: "prompt\nSay 1.\n".encode("utf-16"), "UTF-16 text; save it"),
    "empty file": ("p.jsonl", lambda: b"", "the file is empty"),
    "blank file": ("p.jsonl", lambda: b"\n \n\n", "the file is empty"),
    "a header alone": ("p.csv", lambda: b"prompt,user\n", "a header and no rows"),
    "300,000 characters": (
        "p.jsonl",
        lambda: jsonl([{"prompt": "Say 1."}, {"prompt": "a" * 300_000}]),
        "line 2: prompt has 300,000 characters; at most 32,000 are taken",
    ),
    "300,000 characters in CSV": (
        "p.csv",
        lambda: b"prompt\nSay 1.\n" + b"a" * 300_000 + b"\n",
        "line 3: prompt has 300,000 characters; at most 32,000 are taken",
    ),
    "an id twice": (
        "p.jsonl",
        lambda: jsonl([{"prompt_id": 7, "prompt": "Say 1."}, {"prompt_id": 7, "prompt": "Two."}]),
        'line 2: prompt_id "7" already stands for another text',
    ),
    "a NUL byte": (
        "p.csv",
        lambda: b"prompt\nSay\0 1.\n",
        "line 2: holds a NUL byte (byte 10 of the text)",
    ),
    "an escaped NUL": (
        "p.jsonl",
        lambda: b'{"prompt": "Say\\u0000 1."}\n',
        "line 1: prompt holds a NUL character",
    ),
    "a NUL in another column": (
        "p.jsonl",
        lambda: b'{"prompt": "Say 1.", "notes": [{"by": "\\u0000"}]}\n',
        "line 1: notes holds a NUL character",
    ),
    "half a surrogate pair": (
        "p.jsonl",
        lambda: b'{"prompt": "Say \\ud83d."}\n',
        "line 1: prompt holds half of a character (\\ud83d alone)",
    ),
    "a gzip file cut off": ("p.jsonl.gz", cut_gzip, "in the middle: it was cut off"),
    "a damaged gzip file": ("p.jsonl.gz", damaged_gzip, "damaged from here on"),
    "a gzip bomb": (
        "p.jsonl.gz",
        lambda: gzip.compress((b" " * 9_999 + b"\n") * 3_000),
        "decompress to more than 16,000,000",
    ),
    "a gzip bomb of one line": (
        "p.jsonl.gz",
        lambda: gzip.compress(bytes(50_000_000)),
        "line 1: is longer than 4,000,000 bytes",
    ),
    "an Excel file": ("p.csv", excel, "this is not JSONL, CSV or Parquet but an Excel workbook"),
    "a JSON array": ("p.json", lambda: b'[{"prompt": "Say 1."}]', "line 1: begins a JSON array"),
    "no object": ("p.jsonl", lambda: b'{"prompt": "a"}\n"Say"\n', "line 2: a JSON object is"),
    "nested without end": ("p.jsonl", lambda: b'{"prompt":' + b"[" * 200_000, "line 1: broken"),
    "a list as prompt": (
        "p.jsonl",
        lambda: jsonl([{"prompt": ["Say 1."]}]),
        "line 1: prompt must be text, not a list",
    ),
    "an empty prompt": (
        "p.jsonl",
        lambda: jsonl([{"prompt": "Say 1."}, {"prompt": " \n"}]),
        "line 2: the prompt is empty",
    ),
    "a number that is none": (
        "p.jsonl",
        lambda: b'{"prompt": "Say 1.", "weight": 1e999}\n',
        "line 1: weight holds a number that is too large",
    ),
    "NaN": ("p.jsonl", lambda: b'{"prompt": "Say 1.", "w": NaN}\n', "line 1: broken JSON: NaN is"),
    "no use case": (
        "p.jsonl",
        lambda: jsonl([{"prompt": "Say 1.", "use_case": "poetry"}]),
        "line 1: use_case 'poetry' is none of generation, open_qa",
    ),
    "a long name": (
        "p.jsonl",
        lambda: jsonl([{"prompt": "Say 1.", "user": "u" * 5000}]),
        "line 1: user has 5,000 characters; at most 200",
    ),
    "too few cells": ("p.csv", lambda: b"prompt,user\nSay 1.\n", "line 2: has 1 cells, the header"),
    "an open quotation mark": (
        "p.csv",
        lambda: b'prompt,user\nSay 1.,u\n"Say 2.,u\nSay 3.,u\n',
        "line 3: broken CSV: a quotation mark that is opened here is never closed",
    ),
    "a column twice": ("p.csv", lambda: b"prompt,Prompt\na,b\n", "line 1: two columns have the"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_a_bad_file_is_refused_with_line_and_reason_and_nothing_is_stored(
    session: Session, study: Study, case: str
) -> None:
    name, make, reason = BAD_PROMPTS[case]
    before = counts(session)
    with pytest.raises(ImportRefused) as refused:
        load(session, study, make(), name)
    assert reason in refused.value.problems[-1]
    assert reason in refused.value.message
    session.commit()  # even a caller who shows the refusal and commits stores nothing
    assert counts(session) == before


def test_rows_stored_before_the_problem_go_with_it(session: Session, study: Study) -> None:
    """The first chunks are in the database by the time that line 5,001 turns out to be broken."""
    before = counts(session)
    with pytest.raises(ImportRefused, match="line 5,001: broken JSON"):
        load(session, study, jsonl(prompt_rows(5000)) + b"{\n")
    assert counts(session) == before


def test_twenty_problems_are_listed_and_the_others_counted(session: Session, study: Study) -> None:
    with pytest.raises(ImportRefused) as refused:
        load(session, study, b"".join(b"{\n" for _ in range(1, 813)))
    assert len(refused.value.problems) == 20
    assert refused.value.problems[19].startswith("line 20: ")
    assert refused.value.more == 792
    assert refused.value.message.endswith("and 792 more")


class EndlessLine(io.RawIOBase):
    """A file of one gigabyte and not one line feed, made as it is read."""

    size = 1_000_000_000

    def __init__(self) -> None:
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = self.size + offset if whence == os.SEEK_END else offset
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.size - self.at)
        buffer[:count] = b"a" * count
        self.at += count
        return count


def test_a_line_of_a_gigabyte_takes_bounded_memory(session: Session, study: Study) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ImportRefused, match="line 1: is longer than 4,000,000 bytes"):
            import_prompts(session, study, io.BufferedReader(EndlessLine()), file_name="p.jsonl")
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_row_over_many_lines_is_bounded_too(session: Session, study: Study) -> None:
    data = b'prompt,note\n"' + b"a\n" * 1000 + b'","' + b"b\n" * 1000 + b'"\n'
    limits = Limits(line_bytes=3000)
    with pytest.raises(ImportRefused, match="line 2: a row that never ends"):
        import_prompts(session, study, io.BytesIO(data), file_name="p.csv", limits=limits)


def test_a_file_over_the_limit_is_not_read(session: Session, study: Study) -> None:
    limits = Limits(file_bytes=10)
    data = io.BytesIO(jsonl(prompt_rows(1)))
    with pytest.raises(ImportRefused, match="at most 10 are taken"):
        import_prompts(session, study, data, file_name="p.jsonl", limits=limits)


def test_prompts_are_stored_with_their_columns(session: Session, study: Study) -> None:
    rows = [
        {
            "prompt_id": 1,
            "prompt": "Which river? \r\n",
            "user": "ann",
            "use_case": "Closed QA",
            "closed_domain": True,
            "constraint": "one word",
            "source": "a data set",
        },
        {"instruction": "Say 2.", "source_user": "ann"},
        {"text": "Say 3.", "user": None},
    ]
    report = load(session, study, jsonl(rows))
    assert (report.read, report.stored, report.duplicates, report.own_users) == (3, 3, 0, 1)
    assert report.unused_columns == ["source"]
    first, second, third = session.scalars(select(Prompt).order_by(Prompt.id)).all()
    assert (first.text, first.external_id, first.use_case) == (
        "Which river? \r\n",  # as it was typed
        "1",
        UseCase.closed_qa,
    )
    assert (first.closed_domain, first.constraint_text) == (True, "one word")
    assert first.details == {"source": "a data set"}
    assert first.source_user_id == second.source_user_id != third.source_user_id
    names = set(session.scalars(select(SourceUser.name)))
    assert names == {"ann", f"prompt:{third.text_sha256}"}


FEW_SHOT = {
    "instruction": "Tell the mood of the sentence.",
    "pairs": [{"query": "I won!", "response": "glad"}, {"query": "Alas.", "response": " sad\n"}],
    "query": "It rains again.",
}
RENDERED = (
    "Tell the mood of the sentence.\n\n"
    "Query: I won!\nResponse: glad\n\n"
    "Query: Alas.\nResponse: sad\n\n"
    "Query: It rains again.\nResponse:"
)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_few_shot_prompt_is_made_of_its_parts(session: Session, study: Study, kind: str) -> None:
    if kind == "jsonl":
        data = jsonl([{"user": "ann", "few_shot": FEW_SHOT}, {"prompt": "Hi", "few_shot": None}])
    else:
        buffer = io.StringIO()
        rows = csv.writer(buffer)
        rows.writerows([["few_shot", "prompt"], [json.dumps(FEW_SHOT), ""], ["", "Hi"]])
        data = buffer.getvalue().encode()
    report = load(session, study, data, f"prompts.{kind}")
    assert (report.stored, list(report.unused_columns)) == (2, [])
    first, second = session.scalars(select(Prompt).order_by(Prompt.id))
    assert first.text == RENDERED
    assert first.few_shot is not None
    assert first.few_shot["pairs"][1] == {"query": "Alas.", "response": "sad"}
    assert (second.text, second.few_shot, first.details) == ("Hi", None, {})
    null = select(func.count()).where(Prompt.few_shot.is_(None))
    assert session.scalar(null) == 1  # SQL's null, which a query finds, and not JSON's


def test_a_few_shot_prompt_may_come_with_its_own_text(session: Session, study: Study) -> None:
    load(session, study, jsonl([{"prompt": "I won! -> glad. Alas. ->", "few_shot": FEW_SHOT}]))
    prompt = session.scalars(select(Prompt)).one()
    assert prompt.text == "I won! -> glad. Alas. ->"
    assert prompt.few_shot is not None
    assert prompt.few_shot["query"] == "It rains again."


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ([], "few_shot must be an object with instruction, pairs, query"),
        ("{", "few_shot must be an object in JSON"),
        ({**FEW_SHOT, "query": " "}, "few_shot.query must be text, and not empty"),
        ({"pairs": [], "query": "q"}, "few_shot has no instruction"),
        ({**FEW_SHOT, "pairs": []}, "few_shot.pairs must be a list of at least one query"),
        ({**FEW_SHOT, "pairs": ["q"]}, "few_shot.pairs[0] must be an object with query, response"),
        ({**FEW_SHOT, "pairs": [{"query": "q"}]}, "few_shot.pairs[0] has no response"),
        ({**FEW_SHOT, "shots": 2}, "few_shot holds 'shots', which has no meaning there"),
        ({**FEW_SHOT, "query": "a\0"}, "few_shot holds a NUL character"),
    ],
)
def test_broken_parts_are_refused(session: Session, study: Study, broken: Any, reason: str) -> None:
    with pytest.raises(ImportRefused) as refusal:
        load(session, study, jsonl([{"few_shot": FEW_SHOT}, {"few_shot": broken}]))
    assert refusal.value.problems[0].startswith(f"line 2: {reason}")
    assert counts(session) == [0] * 5


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_keeps_line_feeds_and_long_cells(
    session: Session, study: Study, delimiter: str
) -> None:
    long = "a long cell, with a comma; " * 1100  # 29,700 characters
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerows([["Prompt", "user"], ["Two\nlines", "ann"], [long, ""]])
    data = gzip.compress(b"\xef\xbb\xbf" + buffer.getvalue().encode())
    study.preparation = {"max_tokens": 10_000}
    report = load(session, study, data, "prompts.csv.gz")
    assert report.stored == 2
    texts = session.scalars(select(Prompt.text).order_by(Prompt.id)).all()
    assert texts == ["Two\nlines", long]


def test_line_numbers_count_lines_and_not_rows(session: Session, study: Study) -> None:
    data = b'\nprompt\n"Two\nlines"\n\n" "\n'
    with pytest.raises(ImportRefused, match="line 6: the prompt is empty"):
        load(session, study, data, "p.csv")


def test_the_same_file_again_stores_nothing_and_says_so(session: Session, study: Study) -> None:
    data = jsonl([*prompt_rows(3), {"prompt": "Say 3.  "}])
    first = load(session, study, data)
    assert (first.stored, first.duplicates, first.imported_before) == (3, 1, None)
    after = counts(session)
    again = load(session, study, data)
    assert (again.read, again.stored, again.duplicates) == (4, 0, 4)
    assert again.imported_before is not None
    assert "Nothing new: all of it was here already." in again.sentences()
    assert counts(session) == after
    grown = load(session, study, data + jsonl([{"prompt": "Say 4."}]))
    assert (grown.stored, grown.duplicates, grown.imported_before) == (1, 4, None)


def test_no_row_is_checked_by_reading_a_whole_table(session: Session, study: Study) -> None:
    """Nor where the connection keeps plans from when the tables were small."""
    session.execute(text("DISCARD PLANS"))
    session.execute(text("SET LOCAL random_page_cost = 100000"))  # as good as tiny tables
    before = whole_reads(session)
    for _ in range(8):  # of which checks keep their plan
        make_prompt(session, study)
    session.flush()
    small = whole_reads(session)
    assert small["source_users"] >= before["source_users"] + 8
    load(session, study, jsonl(prompt_rows(500)))
    assert whole_reads(session) == small


def whole_reads(session: Session) -> dict[str, int]:
    """How often this transaction has read all of a table."""
    tables = "('prompts', 'source_users', 'studies', 'imports', 'prompt_sketches')"
    rows = session.execute(
        text(f"SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE relname IN {tables}")
    )
    return dict(iter(rows))


def test_an_import_is_recorded_and_named_by_its_rows(session: Session, study: Study) -> None:
    load(session, study, jsonl(prompt_rows(2)))
    record = session.scalars(select(Import)).one()
    assert (record.kind, record.file_name, record.report["stored"]) == (
        "prompts",
        "prompts.jsonl",
        2,
    )
    assert set(session.scalars(select(Prompt.import_id))) == {record.id}


# Completions ------------------------------------------------------------------------------------


BAD_COMPLETIONS: dict[str, tuple[Any, str]] = {
    "unknown prompt": (
        {"prompt_id": "p9", "model": "m", "completion": "Nine."},
        'line 2: no prompt "p9" in this study; import its prompts first',
    ),
    "unknown text": (
        {"prompt": "Say 9.", "model": "m", "completion": "Nine."},
        "line 2: no such prompt in this study: 'Say 9.'",
    ),
    "id and text at odds": (
        {"prompt_id": "p2", "prompt": "Say 1.", "model": "m", "completion": "Two."},
        'line 2: the prompt\'s text is not that of "p2"',
    ),
    "no completion": (
        {"prompt_id": "p2", "model": "m", "completion": None},
        "line 2: the completion is missing",
    ),
    "no model": (
        {"prompt_id": "p2", "model": " ", "completion": "Two."},
        "line 2: the model is missing",
    ),
    "no column for the model": (
        {"prompt_id": "p2", "completion": "Two."},
        "line 2: no column model (or policy, system); the columns are: prompt_id, completion",
    ),
    "a score that is none": (
        {"prompt_id": "p2", "model": "m", "completion": "Two.", "score": "good"},
        "line 2: score must be a number, not 'good'",
    ),
    "another score": (
        {"prompt_id": "p1", "model": "m", "completion": "One.", "score": 0.5},
        "line 2: score 0.5, but this completion is already known with 0.25",
    ),
    "too long": (
        {"prompt_id": "p2", "model": "m", "completion": "a" * 32_001},
        "line 2: completion has 32,001 characters",
    ),
}


@pytest.mark.parametrize("case", BAD_COMPLETIONS)
def test_a_bad_completion_refuses_the_file(session: Session, study: Study, case: str) -> None:
    row, reason = BAD_COMPLETIONS[case]
    load(session, study, jsonl(prompt_rows(2)))
    before = counts(session)
    good = {"prompt_id": "p1", "model": "m", "completion": "One.", "score": 0.25}
    with pytest.raises(ImportRefused) as refused:
        load_completions(session, study, jsonl([good, row]))
    assert reason in refused.value.problems[-1]
    assert counts(session) == before


def test_completions_become_external_policies(session: Session, study: Study) -> None:
    load(session, study, jsonl(prompt_rows(2)))
    rows = [
        {"prompt_id": "p1", "model": "m1", "completion": "One.", "score": 0.25},
        {"prompt_id": "p2", "policy": "m1", "output": ""},
        {"prompt": "Say 1. ", "system": "m2", "text": " One! "},
        {"prompt_id": "p1", "model": "m1", "completion": "One.", "score": 0.25},
        {"prompt_id": "p1", "model": "m1", "completion": "Uno."},
    ]
    report = load_completions(session, study, jsonl(rows))
    assert (report.read, report.stored, report.duplicates, report.empty) == (5, 4, 1, 1)
    assert report.policies == {"m1": 3, "m2": 1}
    policies = session.scalars(select(Policy).order_by(Policy.id)).all()
    assert [(p.name, p.label, p.kind) for p in policies] == [
        ("m1", "m1", PolicyKind.external),
        ("m2", "m2", PolicyKind.external),
    ]
    stored = session.scalars(select(Completion).order_by(Completion.id)).all()
    assert [(c.text, c.sample_index, c.external_score) for c in stored] == [
        ("One.", 0, 0.25),
        ("", 0, None),
        (" One! ", 0, None),  # as the system gave it
        ("Uno.", 1, None),
    ]
    again = load_completions(session, study, jsonl(rows))
    assert (again.stored, again.duplicates) == (0, 5)


def test_a_prompt_under_two_ids_is_found_under_both(session: Session, study: Study) -> None:
    rows = [{"prompt_id": "a", "prompt": "Say 1."}, {"prompt_id": "b", "prompt": "Say 1."}]
    assert load(session, study, jsonl(rows)).duplicates == 1
    rows = [{"prompt_id": key, "model": "m", "completion": key} for key in "ab"]
    assert load_completions(session, study, jsonl(rows)).stored == 2
    assert len(set(session.scalars(select(Completion.prompt_id)))) == 1


def test_a_study_does_not_see_the_prompts_of_another(session: Session, study: Study) -> None:
    make_prompt(session, make_study(session, "Another"), "Say 1.", external_id="p1")
    row = {"prompt_id": "p1", "model": "m", "completion": "One."}
    with pytest.raises(ImportRefused, match='no prompt "p1" in this study'):
        load_completions(session, study, jsonl([row]))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no sample data at {DATA}; set PLUMBLINE_DATA")
@pytest.mark.parametrize(
    ("folder", "prompts", "near", "completions", "policies"),
    # Nine of the first ask for a country's dishes in the words of another.
    [("alpaca_eval", 805, 9, 7241, 9), ("user_oriented", 252, 0, 2016, 8)],
)
def test_real_files(
    session: Session,
    study: Study,
    folder: str,
    prompts: int,
    near: int,
    completions: int,
    policies: int,
) -> None:
    with (DATA / folder / "prompts.jsonl.gz").open("rb") as file:
        report = import_prompts(session, study, file, file_name="prompts.jsonl.gz")
    assert (report.stored, report.own_users) == (prompts - near, prompts - near)
    assert report.duplicates == near
    with (DATA / folder / "completions.jsonl.gz").open("rb") as file:
        report = import_completions(session, study, file, file_name="completions.jsonl.gz")
    left_out = sum(report.left_out.values())
    assert (report.stored + left_out, len(report.policies)) == (completions, policies)
    assert left_out == policies * near  # every system answered them
    assert report.seconds < 20  # 2 s on two idle cores
