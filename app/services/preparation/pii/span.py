"""Where something stands in a text, and what it is."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    kind: str
    start: int  # in characters, as Python counts them
    end: int


def of(kind: str, match: re.Match[str], group: int | str = 0) -> Span:
    return Span(kind, match.start(group), match.end(group))


def before(text: str, start: int, characters: int) -> str:
    """What stands before a place, in small letters."""
    return text[max(0, start - characters) : start].lower()
