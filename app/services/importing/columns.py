"""One record's values, checked: text, names, numbers, flags. Each raises RowProblem."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from app.models import UseCase
from app.services.few_shot import BrokenFewShot, FewShot, read_few_shot
from app.services.importing.problems import RowProblem
from app.services.importing.records import Names, json_kind

MAX_DEPTH = 50
MAX_NAME = 200  # names are in unique indexes, whose entries PostgreSQL bounds
# Embeddings, overrides and isolates; texts may hold them, as people type them.
TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def value_of(values: Mapping[str, Any], names: Names) -> tuple[str, Any]:
    """The first of the names that is there, with its value; None for an absent one."""
    for name in names:
        if name in values:
            return name, values[name]
    return names[0], None


def text(values: Mapping[str, Any], names: Names, *, limit: int) -> str | None:
    """Text as it stands, however empty; None if absent or null."""
    name, value = value_of(values, names)
    if value is None:
        return None
    if not isinstance(value, str):
        raise RowProblem(f"{name} must be text, not {json_kind(value)}")
    if len(value) > limit:
        raise RowProblem(f"{name} has {len(value):,} characters; at most {limit:,} are taken")
    return storable(name, value)


def short_name(values: Mapping[str, Any], names: Names) -> str | None:
    """A name or number as trimmed text; None if absent, null or blank."""
    name, value = value_of(values, names)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowProblem(f"{name} must be text or a whole number, not {json_kind(value)}")
    found = str(value).strip()
    if len(found) > MAX_NAME:
        raise RowProblem(f"{name} has {len(found):,} characters; at most {MAX_NAME} are taken")
    return _plain(name, storable(name, found)) or None


def _plain(name: str, value: str) -> str:
    """The name itself. Raises RowProblem for what would make it look like another on a page."""
    if value.isprintable():  # then it holds none of them
        return value
    for character in value:
        code = f"\\u{ord(character):04x}"
        if character in TURNS:
            raise RowProblem(
                f"{name} holds a character that turns the direction of writing ({code})"
            )
        if unicodedata.category(character) == "Cc":
            raise RowProblem(f"{name} holds a control character ({code})")
    return value


def plain_file_name(given: str) -> str:
    """A file's name as it is kept and shown: no folders, and nothing that short_name refuses.

    A name is no reason to refuse the file: what cannot stay is left out. One that is not UTF-8, as
    systems have them, gets question marks.
    """
    name = PurePath(given.replace("\0", "")).name.encode(errors="replace").decode()
    kept = (c for c in name if c not in TURNS and unicodedata.category(c) != "Cc")
    return "".join(kept).strip()[:MAX_NAME] or "file"


def number(values: Mapping[str, Any], names: Names) -> float | None:
    """A finite number; None if absent, null or blank."""
    name, value = value_of(values, names)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise RowProblem(f"{name} must be a number, not {json_kind(value)}")
    try:
        found = float(value)
    except (ValueError, OverflowError):
        raise RowProblem(f"{name} must be a number, not {str(value)[:40]!r}") from None
    if not math.isfinite(found):
        raise RowProblem(f"{name} must be a finite number, not {str(value)[:40]}")
    return found


def flag(values: Mapping[str, Any], names: Names) -> bool | None:
    """True or false, also as yes/no or 1/0; None if absent, null or blank."""
    name, value = value_of(values, names)
    if value is None or value == "" or isinstance(value, bool):
        return None if value == "" else value
    found = FLAGS.get(str(value).strip().lower())
    if found is None:
        raise RowProblem(f"{name} must be true or false, not {str(value)[:40]!r}")
    return found


def use_case(values: Mapping[str, Any], names: Names) -> UseCase | None:
    """One of the ten use cases, in any spelling of its words; None if absent, null or blank."""
    found = short_name(values, names)
    if found is None:
        return None
    word = "_".join(found.lower().replace("-", " ").replace("_", " ").split())
    if word not in set(UseCase):
        raise RowProblem(f"{names[0]} {found[:40]!r} is none of {', '.join(UseCase)}")
    return UseCase(word)


def few_shot(values: Mapping[str, Any], names: Names) -> FewShot | None:
    """The parts of a few-shot prompt, in a CSV cell as JSON; None if absent, null or blank."""
    name, value = value_of(values, names)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowProblem(f"{name} must be an object in JSON") from None
    try:
        found = read_few_shot(value)
    except BrokenFewShot as error:
        raise RowProblem(str(error)) from None
    storable(name, found.rendered())
    return found


def others(values: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    """The columns that have no meaning here, kept as they came."""
    found = {name: value for name, value in values.items() if name not in used and value != ""}
    for name, value in found.items():
        _check_json(name, value)
    return found


def _check_json(name: str, value: Any) -> None:
    """Raises RowProblem for what a jsonb column does not take."""
    parts = [(value, 0)]
    while parts:
        part, depth = parts.pop()
        if depth > MAX_DEPTH:
            raise RowProblem(f"{name} is nested more than {MAX_DEPTH} levels deep")
        if isinstance(part, str):
            storable(name, part)
        elif isinstance(part, float) and not math.isfinite(part):
            raise RowProblem(f"{name} holds a number that is too large")
        elif isinstance(part, list):
            parts += [(item, depth + 1) for item in part]
        elif isinstance(part, dict):
            parts += [(item, depth + 1) for pair in part.items() for item in pair]


def storable(name: str, value: str) -> str:
    """The text itself. Raises RowProblem for what PostgreSQL or UTF-8 cannot hold."""
    if value.isascii() and "\0" not in value:  # most often
        return value
    if "\0" in value:
        raise RowProblem(f"{name} holds a NUL character, which the database cannot keep")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        bad = f"\\u{ord(value[error.start]):04x}"
        raise RowProblem(f"{name} holds half of a character ({bad} alone)") from None
    return value
