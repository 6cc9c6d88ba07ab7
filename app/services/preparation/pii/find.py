"""All kinds in one pass over a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from app.services.preparation.pii import names, numbers, places, secrets
from app.services.preparation.pii.span import Span

# Where two overlap, the earlier kind in this order stands.
KINDS = ("key", "email", "iban", "card", "ssn", "ip", "phone", "address", "name")
_DIGIT = re.compile(r"\d")
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
    words = text.split()
    if not words:
        return iter(())
    rules = [secrets.find_keys(text, max(map(len, words))), names.find_names(text, words)]
    if "@" in text:
        rules.append(secrets.find_emails(text))
    if _DIGIT.search(text):
        rules += [
            numbers.find_ibans(text),
            numbers.find_long_numbers(text),
            numbers.find_ips(text),
            places.find_addresses(text),
        ]
    elif "::" in text:
        rules.append(numbers.find_ips(text))
    return chain.from_iterable(rules)


def placeholders(text: str, spans: Iterable[Span]) -> dict[str, str]:
    """What each found value becomes: [email], and [email 2] for a second one that says something
    else, so that two people stay two."""
    said: dict[str, list[str]] = {}
    made: dict[str, str] = {}
    for span in sorted(spans, key=lambda span: span.start):
        different = said.setdefault(span.kind, [])
        value = text[span.start : span.end]
        if value.casefold() not in different:
            different.append(value.casefold())
        number = different.index(value.casefold()) + 1
        made[value] = f"[{span.kind}]" if number == 1 else f"[{span.kind} {number}]"
    return made


def redact(text: str, values: Mapping[str, str]) -> str:
    """The text with each of the values (see `placeholders`) replaced, wherever it stands alone."""
    if not values:
        return text
    longest_first = sorted(values, key=len, reverse=True)
    found = "|".join(rf"(?<!\w){re.escape(value)}(?!\w)" for value in longest_first)
    return re.sub(found, lambda match: values[match[0]], text)
