"""The records of a JSONL, CSV or Parquet file, each with the line it begins on."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, NoReturn

from app.services.importing.lines import Limits, Line, read_lines
from app.services.importing.parquet import is_parquet, parquet_rows
from app.services.importing.problems import Problems

# A column by any of its names; a tuple in `required` is satisfied by one of them.
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    line: int
    values: Mapping[str, Any]  # by column name in lower case


class StoredAtOnce:
    """A kind of file whose rows are stored when they come: what RecordFile asks for at the end."""

    def finish(self, import_id: int) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""


def read_records(
    file: BinaryIO,
    file_name: str,
    required: Sequence[Names],
    limits: Limits,
    problems: Problems,
    mapping: Mapping[str, str] | None = None,
) -> Iterator[Record]:
    """The file's records; lines that are none are noted. Raises ImportRefused at the end of sense.

    Parquet and gzip are known by their first bytes. The name may say JSONL; otherwise the first
    character does: `{` begins JSONL, all else is CSV. `mapping` gives columns other names.
    """
    mapping = mapping or {}
    if is_parquet(file):
        yield from _parquet_records(file, required, limits, problems, mapping)
        return
    lines = read_lines(file, limits, problems)
    first = next((line for line in lines if line.text.strip()), None)
    if first is None:
        problems.stop(None, "the file is empty")
    lines = chain([first], lines)
    start = first.text.lstrip()[0]
    name = file_name.lower().removesuffix(".gz")
    if start == "[":
        problems.stop(first.number, "begins a JSON array; one object a line is expected (JSONL)")
    if start == "{" or name.endswith((".jsonl", ".ndjson", ".json")):
        yield from _json_records(lines, required, problems, mapping)
    else:
        yield from _csv_records(first, lines, required, limits, problems, mapping)


def missing_column(required: Sequence[Names], found: Sequence[str]) -> str | None:
    """The reason if one of the required columns is not among those found."""
    for names in required:
        if not set(names) & set(found):
            others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
            there = ", ".join(found[:12]) or "none"
            return f"no column {names[0]}{others}; the columns are: {there}"[:500]
    return None


def _json_records(
    lines: Iterator[Line],
    required: Sequence[Names],
    problems: Problems,
    mapping: Mapping[str, str],
) -> Iterator[Record]:
    for line in lines:
        if not line.text.strip():
            continue
        try:
            value = _JSON.decode(line.text.rstrip())
        except json.JSONDecodeError as error:
            problems.add(line.number, f"broken JSON: {error.msg} (column {error.colno})")
            continue
        except (ValueError, RecursionError) as error:  # NaN, a number of 5,000 digits, [[[[[…
            problems.add(line.number, f"broken JSON: {str(error)[:200]}")
            continue
        if not isinstance(value, dict):
            problems.add(line.number, f"a JSON object is expected, not {json_kind(value)}")
            continue
        values = {_name(key, mapping): item for key, item in value.items()}
        if len(values) < len(value):
            problems.add(line.number, "two columns have the same name")
            continue
        if reason := missing_column(required, list(values)):
            problems.add(line.number, reason)
            continue
        yield Record(line.number, values)


def _parquet_records(
    file: BinaryIO,
    required: Sequence[Names],
    limits: Limits,
    problems: Problems,
    mapping: Mapping[str, str],
) -> Iterator[Record]:
    for number, row in parquet_rows(file, limits, problems):
        values = {_name(name, mapping): value for name, value in row.items()}
        if number == 1 and (reason := missing_column(required, list(values))):
            problems.stop(None, reason)
        yield Record(number, values)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError where a name is there twice: which is meant?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:60]!r} is there twice")
    return found


def _name(name: str, mapping: Mapping[str, str]) -> str:
    name = name.strip().lower()
    return mapping.get(name, name)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object)


def json_kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _csv_records(
    first: Line,
    lines: Iterator[Line],
    required: Sequence[Names],
    limits: Limits,
    problems: Problems,
    mapping: Mapping[str, str],
) -> Iterator[Record]:
    # The module's limit is one of the process: 131,072 characters, unless it is raised.
    csv.field_size_limit(limits.line_bytes)
    delimiter = max(",;\t", key=first.text.count)
    header: list[str] | None = None
    for line, row in _csv_rows(lines, delimiter, limits, problems):
        if header is None:
            header = [_name(name, mapping) for name in row]
            if len(set(header)) < len(header):
                problems.stop(line, "two columns have the same name")
            if reason := missing_column(required, header):
                problems.stop(line, reason)
        elif len(row) != len(header):
            problems.add(line, f"has {len(row)} cells, the header has {len(header)}")
        else:
            yield Record(line, dict(zip(header, row, strict=True)))


def _csv_rows(
    lines: Iterator[Line], delimiter: str, limits: Limits, problems: Problems
) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the line each begins on: a quoted cell may hold line feeds."""
    begins = held = 0  # of this row: its first line, and the characters so far

    def feed() -> Iterator[str]:
        nonlocal begins, held
        for line in lines:
            begins = begins or line.number
            held += len(line.text)
            if held > limits.line_bytes:
                problems.stop(begins, "a row that never ends: is a quotation mark missing?")
            yield line.text

    rows = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        begins = held = 0
        try:
            row = next(rows, None)
        except csv.Error as error:
            reason = str(error)
            if reason == "unexpected end of data":
                reason = "a quotation mark that is opened here is never closed"
            elif reason.startswith("new-line character"):
                reason = "a carriage return without a line feed; save it with other line ends"
            problems.stop(begins, f"broken CSV: {reason}")
        if row is None:
            return
        if row:
            yield begins, row
