"""A corpus of files that are not what they should be: each is refused with its place and reason,
in bounded memory and time, and nothing of it is stored."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import resource
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Completion, Import, Policy, Prompt, Ranking, SourceUser, Study, User
from app.services.imports import IMPORTERS, ImportRefused
from tests import factories as make

Make = Callable[[], bytes | BinaryIO]
SECONDS = 20.0  # the slowest unpacks what its limit allows; on a busy machine
MEGABYTES = 300  # beyond the most that the process held before


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


GOOD = lines({"prompt": "Say 1."})


class Sparse(io.RawIOBase):
    """A file of `size` bytes that are made as they are read: `head`, then one letter."""

    def __init__(self, size: int, head: bytes = b"", letter: bytes = b"a") -> None:
        self.size, self.head, self.letter, self.at = size, head, letter, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        self.at = start + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.size - self.at))
        data = self.head[self.at : self.at + count]
        buffer[:count] = data + self.letter * (count - len(data))
        self.at += count
        return count


def sparse(size: int, head: bytes = b"", letter: bytes = b"a") -> BinaryIO:
    return io.BufferedReader(Sparse(size, head, letter))


def noise(count: int) -> bytes:
    """Prompts of random letters, which gzip cannot make much smaller."""
    draw = random.Random(1)
    return lines(*({"prompt": "".join(draw.choices("abcdefgh ", k=200))} for _ in range(count)))


def damaged(data: bytes, at: float) -> bytes:
    """The data with one byte turned over, `at` a fraction of its length."""
    copy = bytearray(data)
    copy[int(len(copy) * at)] ^= 0xFF
    return bytes(copy)


def bomb(megabytes: int, head: bytes = b"", piece: bytes = b"0") -> bytes:
    """Gzip of so many megabytes of the same, made in little memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = (piece * (1_000_000 // len(piece) + 1))[:1_000_000]
    packed = [packer.compress(head)]
    packed += [packer.compress(block) for _ in range(megabytes)]
    return b"".join([*packed, packer.flush()])


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr(name, "x")
    return buffer.getvalue()


def table(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def footer_length(length: int) -> bytes:
    """A Parquet file whose end says that its footer has so many bytes."""
    whole = table({"prompt": ["Say 1."]})
    return whole[:-8] + struct.pack("<I", length) + b"PAR1"


def nested(depth: int) -> bytes:
    return b'{"prompt": "Say 1.", "x": ' + b"[" * depth + b"]" * depth + b"}\n"


# By name: the kind, the file's name, how it is made, and the last reason that is given.
CORPUS: dict[str, tuple[str, str, Make, str]] = {
    # Nothing, or next to nothing
    "empty": ("prompts", "p.jsonl", lambda: b"", "the file is empty"),
    "empty gzip": ("prompts", "p.gz", lambda: gzip.compress(b""), "the file is empty"),
    "blank lines": ("prompts", "p.jsonl", lambda: b"\n\r\n \t\n", "the file is empty"),
    "a byte order mark alone": ("prompts", "p.csv", lambda: b"\xef\xbb\xbf", "the file is empty"),
    "header only": ("prompts", "p.csv", lambda: b"prompt,user\n", "a header and no rows"),
    "header without line feed": ("prompts", "p.csv", lambda: b"prompt", "a header and no rows"),
    "no rows in Parquet": (
        "prompts",
        "p.parquet",
        lambda: table({"prompt": pa.array([], pa.string())}),
        "a header and no rows",
    ),
    # Cut off or damaged
    "gzip cut in the header": (
        "prompts",
        "p.gz",
        lambda: gzip.compress(GOOD)[:6],
        "line 1: the gzip file ends here, in the middle",
    ),
    "gzip cut in the middle": (
        "prompts",
        "p.gz",
        lambda: gzip.compress(noise(500))[:20_000],
        "the gzip file ends here, in the middle",
    ),
    "gzip without its checksum": (
        "prompts",
        "p.gz",
        lambda: gzip.compress(noise(10))[:-8],
        "line 11: the gzip file ends here, in the middle",
    ),
    "gzip with a wrong byte": (
        "prompts",
        "p.gz",
        lambda: damaged(gzip.compress(noise(500)), 0.5),
        "the gzip file is damaged from here on",
    ),
    "gzip with a wrong checksum": (
        "prompts",
        "p.gz",
        lambda: damaged(gzip.compress(GOOD), 0.9),
        "the gzip file is damaged from here on (CRC check failed",
    ),
    "gzip of an unknown method": (
        "prompts",
        "p.gz",
        lambda: b"\x1f\x8b\x07" + gzip.compress(GOOD)[3:],
        "line 1: the gzip file is damaged from here on (Unknown compression method)",
    ),
    "rubbish after gzip": (
        "prompts",
        "p.gz",
        lambda: gzip.compress(GOOD) + b"rubbish",
        "line 2: the gzip file is damaged from here on",
    ),
    "Parquet cut off": (
        "prompts",
        "p.parquet",
        lambda: table({"prompt": ["Say 1."]})[:-20],
        "the Parquet file is damaged from here on",
    ),
    "the first bytes of Parquet alone": (
        "prompts",
        "p.parquet",
        lambda: b"PAR1",
        "row 1: the Parquet file is damaged from here on",
    ),
    "Parquet with a footer of 4 GB": (
        "prompts",
        "p.parquet",
        lambda: footer_length(0xFFFFFFFF),
        "row 1: the Parquet file is damaged from here on",
    ),
    "Parquet with a footer of 0 bytes": (
        "prompts",
        "p.parquet",
        lambda: footer_length(0),
        "row 1: the Parquet file is damaged from here on",
    ),
    "Parquet with a wrong byte in its footer": (
        "prompts",
        "p.parquet",
        lambda: damaged(table({"prompt": ["Say 1."]}), 0.6),
        "the Parquet file is damaged from here on",
    ),
    "Parquet with wrong bytes in its pages": (
        "prompts",
        "p.parquet",
        lambda: (whole := table({"prompt": ["Say 1."]}))[:4] + b"\xff" * 30 + whole[34:],
        "row 1: the Parquet file is damaged from here on",
    ),
    "gzip of Parquet cut off": (
        "prompts",
        "p.parquet.gz",
        lambda: gzip.compress(table({"prompt": [noise(200).decode()]}))[:-500],
        "the gzip file was cut off",
    ),
    # Larger than it looks
    "a bomb of zeros": (
        "prompts",
        "p.gz",
        lambda: bomb(200),
        "line 1: is longer than 4,000,000 bytes",
    ),
    "a bomb of blank lines": (
        "prompts",
        "p.gz",
        lambda: bomb(100, piece=b" \n"),
        "line 10,001: more than 10,000 blank lines in a row",
    ),
    "a bomb of long lines": (
        "prompts",
        "p.gz",
        lambda: bomb(100, head=GOOD, piece=b'{"prompt": "' + b"a" * 31_000 + b'"}\n'),
        "the file is far larger than it looks",
    ),
    "a bomb of Parquet in gzip": (
        "prompts",
        "p.gz",
        lambda: bomb(100, head=b"PAR1"),
        "the file is far larger than it looks",
    ),
    "a bomb within Parquet": (
        "prompts",
        "p.parquet",
        lambda: table(
            {"prompt": ["a" * 1_000_000 + str(n) for n in range(60)]},
            compression="zstd",
            use_dictionary=False,
        ),
        "the file is far larger than it looks",
    ),
    "one long text for a million rows": (
        "prompts",
        "p.parquet",
        lambda: table(
            {"prompt": pa.DictionaryArray.from_arrays(pa.array([0] * 10**6), ["a" * 900_000])},
            compression="zstd",
        ),
        "the file is far larger than it looks",
    ),
    "a line of 2 GB": (
        "prompts",
        "p.jsonl",
        lambda: sparse(1_999_999_999, b'{"prompt": "'),
        "line 1: is longer than 4,000,000 bytes",
    ),
    "a file over the limit": (
        "prompts",
        "p.jsonl",
        lambda: sparse(5_000_000_000, GOOD),
        "the file has 5,000,000,000 bytes; at most 2,000,000,000 are taken",
    ),
    "Parquet over the limit": (
        "prompts",
        "p.parquet",
        lambda: sparse(5_000_000_000, b"PAR1"),
        "the file has 5,000,000,000 bytes; at most 2,000,000,000 are taken",
    ),
    "a line of 2 GB after good ones": (
        "prompts",
        "p.csv",
        lambda: sparse(1_999_999_999, b"prompt\nSay 1.\n"),
        "line 3: is longer than 4,000,000 bytes",
    ),
    # Something else
    "an Excel workbook": ("prompts", "p.csv", lambda: archive("xl/workbook.xml"), "an Excel"),
    "an old Excel file": ("prompts", "p.csv", lambda: b"\xd0\xcf\x11\xe0" * 99, "an old Excel"),
    "a PDF file": ("prompts", "p.csv", lambda: b"%PDF-1.7\n%...", "a PDF file"),
    "bzip2": ("prompts", "p.csv", lambda: b"BZh91AY&SY", "compressed with bzip2"),
    "xz": ("prompts", "p.csv", lambda: b"\xfd7zXZ\0\0\0", "compressed with xz"),
    "zstd": ("prompts", "p.csv", lambda: b"\x28\xb5\x2f\xfd\x04", "compressed with zstd"),
    "a PDF file in gzip": ("prompts", "p.gz", lambda: gzip.compress(b"%PDF-1.7\n"), "a PDF file"),
    "gzip in gzip": (
        "prompts",
        "p.gz",
        lambda: gzip.compress(gzip.compress(GOOD)),
        "a gzip file in another one",
    ),
    "a picture": (
        "prompts",
        "p.csv",
        lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)),
        "no column prompt",
    ),
    "a web page": ("prompts", "p.csv", lambda: b"<!doctype html>\n<p>Hello\n", "no column prompt"),
    # Encodings
    "UTF-16 with a mark": ("prompts", "p.csv", lambda: "prompt\na\n".encode("utf-16"), "UTF-16"),
    "UTF-16 big-endian": (
        "prompts",
        "p.csv",
        lambda: b"\xfe\xff" + "prompt\na\n".encode("utf-16-be"),
        "UTF-16 text; save it as UTF-8",
    ),
    "UTF-16 without a mark": (
        "prompts",
        "p.csv",
        lambda: "prompt\na\n".encode("utf-16-le"),
        "line 1: holds a NUL byte (byte 1 of the text): is this a text file?",
    ),
    "UTF-32": ("prompts", "p.csv", lambda: "prompt\na\n".encode("utf-32"), "UTF-16 text"),
    "Latin-1": (
        "prompts",
        "p.csv",
        lambda: "prompt\nCafé?\n".encode("latin-1"),
        "line 2: is not UTF-8: byte 0xe9 at 10 of the text",
    ),
    "mixed encodings": (
        "prompts",
        "p.jsonl",
        lambda: '{"prompt": "Café"}\n'.encode() + '{"prompt": "Café"}\n'.encode("cp1252"),
        "line 2: is not UTF-8: byte 0xe9",
    ),
    "a character cut in half": (
        "prompts",
        "p.csv",
        lambda: b"prompt\nCaf\xc3\n",
        "line 2: is not UTF-8: byte 0xc3",
    ),
    "overlong UTF-8": (
        "prompts",
        "p.csv",
        lambda: b"prompt\na\xc0\xafb\n",
        "line 2: is not UTF-8: byte 0xc0",
    ),
    "a surrogate in UTF-8": (
        "prompts",
        "p.csv",
        lambda: b"prompt\n\xed\xa0\x80\n",
        "line 2: is not UTF-8: byte 0xed",
    ),
    "an unpaired surrogate": (
        "prompts",
        "p.jsonl",
        lambda: b'{"prompt": "Say \\ud83d 1."}\n',
        "line 1: prompt holds half of a character (\\ud83d alone)",
    ),
    "an unpaired surrogate in another column": (
        "prompts",
        "p.jsonl",
        lambda: b'{"prompt": "Say 1.", "note": {"\\udc00": 1}}\n',
        "line 1: note holds half of a character (\\udc00 alone)",
    ),
    "a NUL byte": ("prompts", "p.csv", lambda: b"prompt\na\0b\n", "line 2: holds a NUL byte"),
    "an escaped NUL": (
        "prompts",
        "p.jsonl",
        lambda: b'{"prompt": "a\\u0000b"}\n',
        "line 1: prompt holds a NUL character",
    ),
    "a NUL in Parquet": (
        "prompts",
        "p.parquet",
        lambda: table({"prompt": ["Say 1.", "a\0b"]}),
        "row 2: prompt holds a NUL character",
    ),
    "not UTF-8 in Parquet": (
        "prompts",
        "p.parquet",
        lambda: table({"prompt": pa.array([b"Say 1.", b"Caf\xe9"]).view(pa.string())}),
        "row 2: holds text that is not UTF-8: byte 0xe9",
    ),
    "a right-to-left override in an id": (
        "prompts",
        "p.jsonl",
        lambda: lines({"prompt": "Say 1.", "prompt_id": "abc\u202egpj.exe"}),
        "line 1: prompt_id holds a character that turns the direction of writing (\\u202e)",
    ),
    "a right-to-left override in a system's name": (
        "completions",
        "c.jsonl",
        lambda: lines({"prompt": "Here.", "model": "\u2066gpt", "completion": "One."}),
        "line 1: model holds a character that turns the direction of writing (\\u2066)",
    ),
    "a line feed in a name": (
        "prompts",
        "p.jsonl",
        lambda: lines({"prompt": "Say 1.", "user": "a\nb"}),
        "line 1: user holds a control character (\\u000a)",
    ),
    # JSON
    "broken JSON": (
        "prompts",
        "p.jsonl",
        lambda: GOOD + b'{"prompt": "Say 2."\n',
        "line 2: broken JSON: Expecting ',' delimiter",
    ),
    "two objects in a line": (
        "prompts",
        "p.jsonl",
        lambda: b'{"prompt": "a"} {"prompt": "b"}\n',
        "line 1: broken JSON: Extra data",
    ),
    "a JSON array": ("prompts", "p.json", lambda: b'[{"prompt": "a"}]', "begins a JSON array"),
    "one object over many lines": (
        "prompts",
        "p.json",
        lambda: b'{\n  "prompt": "a"\n}\n',
        "line 3: broken JSON",
    ),
    "a list in a line": (
        "prompts",
        "p.jsonl",
        lambda: GOOD + b'["Say 2."]\n',
        "line 2: a JSON object is expected, not a list",
    ),
    "NaN": ("prompts", "p.jsonl", lambda: b'{"prompt": "a", "x": NaN}\n', "NaN is not JSON"),
    "a name twice": (
        "prompts",
        "p.jsonl",
        lambda: GOOD + b'{"prompt": "a", "prompt": "b"}\n',
        "line 2: broken JSON: the name 'prompt' is there twice",
    ),
    "a name twice but for its case": (
        "prompts",
        "p.jsonl",
        lambda: b'{"prompt": "a", "Prompt ": "b"}\n',
        "line 1: two columns have the same name",
    ),
    "nested a hundred levels deep": (
        "prompts",
        "p.jsonl",
        lambda: nested(100),
        "line 1: x is nested more than 50 levels deep",
    ),
    "nested a million levels deep": (
        "prompts",
        "p.jsonl",
        lambda: nested(1_000_000),
        "line 1: broken JSON",
    ),
    "a number of 10,000 digits": (
        "prompts",
        "p.jsonl",
        lambda: b'{"prompt": "a", "x": ' + b"9" * 10_000 + b"}\n",
        "line 1: broken JSON: Exceeds the limit",
    ),
    "a number beyond floats": (
        "prompts",
        "p.jsonl",
        lambda: b'{"prompt": "a", "x": 1e999}\n',
        "line 1: x holds a number that is too large",
    ),
    "a score beyond floats": (
        "completions",
        "c.jsonl",
        lambda: b'{"prompt": "Here.", "model": "m", "completion": "a", "score": 1e999}\n',
        "line 1: score must be a finite number",
    ),
    "a prompt that is a number": (
        "prompts",
        "p.jsonl",
        lambda: lines({"prompt": 5}),
        "line 1: prompt must be text, not a number",
    ),
    "an id that is an object": (
        "prompts",
        "p.jsonl",
        lambda: lines({"prompt": "a", "prompt_id": {}}),
        "line 1: prompt_id must be text or a whole number, not an object",
    ),
    # CSV
    "a stray quotation mark": (
        "prompts",
        "p.csv",
        lambda: b'prompt\nSay 1.\n"Say "2".\n',
        "line 3: broken CSV: ',' expected after '\"'",
    ),
    "a quotation mark never closed": (
        "prompts",
        "p.csv",
        lambda: b'prompt\nSay 1.\n"Say 2.\nSay 3.\n',
        "line 3: broken CSV: a quotation mark that is opened here is never closed",
    ),
    "a cell too many": (
        "prompts",
        "p.csv",
        lambda: b"prompt,user\nSay 1.,a\nSay 2.,b,c\n",
        "line 3: has 3 cells, the header has 2",
    ),
    "a cell too few": (
        "prompts",
        "p.csv",
        lambda: b"prompt,user\nSay 1.\n",
        "line 2: has 1 cells, the header has 2",
    ),
    "a column twice": (
        "prompts",
        "p.csv",
        lambda: b"prompt,PROMPT\na,b\n",
        "line 1: two columns have the same name",
    ),
    "lines that end with a carriage return alone": (
        "prompts",
        "p.csv",
        lambda: b"prompt\rSay 1.\r",
        "line 1: broken CSV: a carriage return without a line feed; save it with other line ends",
    ),
    # Parquet
    "numbers for prompts": (
        "prompts",
        "p.parquet",
        lambda: table({"prompt": [1, 2]}),
        "row 2: prompt must be text, not a number",
    ),
    "bytes for prompts": (
        "prompts",
        "p.parquet",
        lambda: table({"prompt": pa.array([b"Say 1."])}),
        "the column prompt holds values of the type binary",
    ),
    "a length of time": (
        "prompts",
        "p.parquet",
        lambda: table({"prompt": ["a"], "x": pa.array([1], pa.duration("s"))}),
        "the column x holds values of the type duration[s]",
    ),
    "no column in Parquet": (
        "prompts",
        "p.parquet",
        lambda: table({"question": ["a"]}),
        "the columns are: question",
    ),
    "a column of Parquet twice": (
        "prompts",
        "p.parquet",
        lambda: table({"prompt": ["a"], "Prompt": ["b"]}),
        "two columns have the same name",
    ),
    "a missing prompt in Parquet": (
        "prompts",
        "p.parquet",
        lambda: table({"prompt": ["a", None]}),
        "row 2: the prompt is empty",
    ),
    # Labels
    "a message tree a thousand messages deep": (
        "rankings",
        "t.jsonl",
        lambda: deep_tree(250),
        "line 1: the message tree is more than 200 messages deep",
    ),
    "chosen that is an object": (
        "comparisons",
        "c.jsonl",
        lambda: lines({"prompt": "a", "chosen": {}, "rejected": "b"}),
        "line 1: chosen is missing or not text",
    ),
    "messages in broken JSON": (
        "demonstrations",
        "d.csv",
        lambda: b'messages\n"[{""role"""\n',
        "line 2: messages must be a list in JSON",
    ),
    "ranks that are text": (
        "rankings",
        "r.jsonl",
        lambda: lines({"prompt": "a", "completions": ["b", "c"], "ranks": ["1st", "2nd"]}),
        "line 1: ranks has '1st', which is no number",
    ),
    "more than a hundred rankings of one prompt": (
        "comparisons",
        "c.jsonl",
        lambda: lines(*({"prompt": "a", "chosen": str(n), "rejected": "no"} for n in range(101))),
        "line 101: more than 100 labels of one prompt",
    ),
}


def deep_tree(depth: int) -> bytes:
    """A message tree of so many turns, one below the other, made from its end."""
    tree = '{"role": "prompter", "text": "a", "replies": []}'
    for level in range(depth):
        role = ("assistant", "prompter")[level % 2]
        tree = f'{{"role": "{role}", "text": "a", "replies": [{tree}]}}'
    return f'{{"prompt": {tree}}}\n'.encode()


@pytest.fixture
def study(session: Session) -> Study:
    study = make.make_study(session)
    make.make_prompt(session, study, "Here.")
    return study


def stored(session: Session) -> list[int]:
    tables = (Import, SourceUser, Prompt, Policy, Completion, Ranking, User)
    return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


def peak() -> float:
    """The most that this process ever held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("case", CORPUS)
def test_it_is_refused_with_place_and_reason_and_nothing_is_stored(
    session: Session, study: Study, case: str
) -> None:
    kind, name, made, reason = CORPUS[case]
    data = made()
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    before, memory, began = stored(session), peak(), time.monotonic()
    with pytest.raises(ImportRefused) as refused:
        IMPORTERS[kind](session, study, file, file_name=name)
    assert any(reason in problem for problem in refused.value.problems), refused.value.problems
    assert stored(session) == before
    assert time.monotonic() - began < SECONDS
    assert peak() - memory < MEGABYTES
