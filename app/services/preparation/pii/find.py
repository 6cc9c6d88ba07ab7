"""All kinds in one pass over a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from app.services.preparation.pii import names, numbers, places, secrets
from app.services.preparation.pii.span import Span

# Where two overlap, the earlier kind in this order stands.
KINDS = ("key", "email", "iban", "card", "ssn", "ip", "phone", "address", "name")
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


def find_pii(text: str) -> list[Span]:
    """What the rules find, in the order of the text, none overlapping another.

    What the rules are good and bad at is measured: see docs/data.md.
    """
    found: list[Span] = []
    for span in sorted(_all(text), key=lambda span: (_RANK[span.kind], span.start)):
        if all(span.end <= other.start or span.start >= other.end for other in found):
            found.append(span)
    return sorted(found, key=lambda span: span.start)


def _all(text: str) -> Iterator[Span]:
    rules = [secrets.find_keys(text), names.find_names(text)]
    if "@" in text:
        rules.append(secrets.find_emails(text))
    if any(digit in text for digit in "0123456789"):
        rules += [
            numbers.find_ibans(text),
            numbers.find_long_numbers(text),
            numbers.find_ips(text),
            places.find_addresses(text),
        ]
    elif "::" in text:
        rules.append(numbers.find_ips(text))
    return chain.from_iterable(rules)


def redact(text: str, spans: Iterable[Span]) -> str:
    """The text with each span replaced by its kind in brackets: [email], or [email 2] for a second
    one that says something else, so that two people stay two."""
    said: dict[str, list[str]] = {}
    pieces: list[str] = []
    at = 0
    for span in _ordered(spans):
        different = said.setdefault(span.kind, [])
        value = text[span.start : span.end].casefold()
        if value not in different:
            different.append(value)
        number = different.index(value) + 1
        pieces += [text[at : span.start], f"[{span.kind}{f' {number}' if number > 1 else ''}]"]
        at = span.end
    return "".join([*pieces, text[at:]])


def _ordered(spans: Iterable[Span]) -> Sequence[Span]:
    return sorted(spans, key=lambda span: span.start)
