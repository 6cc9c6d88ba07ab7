"""Postal addresses: a street with its number, as English, German, French and Spanish write them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from app.services.preparation.pii.span import Span, before, holds, of

_UPPER = "A-ZÀ-ÖØ-Þ"
_WORD = rf"[{_UPPER}][\w'’.-]*"
_ENGLISH = re.compile(
    rf"(?<![\w$€£.,-])\d{{1,5}}[A-Za-z]?\s+(?:[NSEW]\.?\s+|(?:North|South|East|West)\s+)?"
    rf"(?:(?:{_WORD}|\d{{1,3}}(?:st|nd|rd|th))\s+){{1,4}}?"
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Way|Place|Pl"
    r"|Terrace|Parkway|Pkwy|Circle|Cir|Square|Sq|Highway|Hwy|Crescent|Close|Gardens|Mews|Trail)\b\.?"
    rf"(?:,?\s+(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|#)\.?\s*#?\w+)?"
    rf"(?:,\s*{_WORD}(?:\s+{_WORD}){{0,2}})?"
    r"(?:,?\s+[A-Z]{2})?(?:,?\s+(?:\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}))?(?!\w)"
)
_GERMAN = re.compile(
    rf"\b(?:[{_UPPER}][\wäöüß-]*(?:straße|strasse|str\.|weg|platz|allee|gasse|ring|damm|ufer|straat|laan|plein|gracht|kade)"
    rf"|(?!(?:Der|Die|Das|Dem|Den|Ein|Kein)\s)(?:{_WORD}\s+){{1,2}}(?:Straße|Strasse|Str\.|Weg|Platz|Allee|Gasse|Ring|Damm|Ufer))"
    rf"\s+\d{{1,4}}\s?[a-z]?(?!\w)(?:,?\s+(?:[A-Z]{{1,2}}-)?\d{{4,5}}\s+{_WORD})?"
)
_FRENCH = re.compile(
    r"(?<![\w.,-])\d{1,4}(?:\s?(?:bis|ter))?,?\s+(?:rue|avenue|boulevard|place|chemin|impasse|allée"
    rf"|quai|cours|route)\s+(?:de\s+la\s+|de\s+l['’]|du\s+|des\s+|de\s+|la\s+|l['’]|d['’])?{_WORD}"
    rf"(?:[\s-]+{_WORD}){{0,3}}(?:,?\s+\d{{5}}\s+{_WORD})?"
)
_SPANISH = re.compile(
    r"\b(?:Calle|C/|Avenida|Avda\.|Av\.|Plaza|Paseo|Carrer|Via|Viale|Piazza|Rua|Travessa)\s+"
    rf"(?:de\s+(?:la\s+|los\s+|las\s+)?|del\s+|da\s+|do\s+|dei\s+|della\s+)?{_WORD}"
    rf"(?:\s+(?:de\s+|y\s+|la\s+)?{_WORD}){{0,3}},?\s+(?:n\.?º?\s?)?\d{{1,4}}(?!\w)"
    rf"(?:,?\s+\d{{4,5}}\s+{_WORD})?"
)
_BOX = re.compile(r"(?i)\bP\.?\s?O\.?\s?Box\s+\d{1,6}\b")
# Sights and addresses of stories.
_FAMOUS = re.compile(
    r"(?i)^(?:1600 Pennsylvania|221B? Baker|10 Downing|11 Downing|350 Fifth|742 Evergreen"
    r"|4 Privet|12 Grimmauld|124 Conch|42 Wallaby|1 Infinite|30 Rockefeller|11 Wall|1 Hacker"
    r"|1313 Webfoot|1313 Mockingbird|55 rue du Faubourg)"
)
# `In 2019 Main Street …`, `the 50 Best Way …`: no house number.
_NO_NUMBER = re.compile(
    r"\b(?:the|top|best|of|every|level|chapter|step|page|these|first|last|next|version)\s+$"
)
_YEAR = re.compile(r"\b(?:in|since|by|from|until|of|after|before)\s+(?:1[89]|20)\d\d\s$")


# Each rule with words of which a text must hold one.
_RULES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (_ENGLISH, (
        "Street", "St", "Av", "Road", "Rd", "Lane", "Ln", "Dr", "Boul", "Bl", "Court", "Ct", "Way",
        "Pl", "Terrace", "Parkway", "Pkwy", "Cir", "Sq", "Highway", "Hwy", "Cre", "Close", "Gard",
        "Mews", "Trail",
    )),
    (_GERMAN, (
        "str", "Str", "weg", "Weg", "platz", "Platz", "allee", "Allee", "gasse", "Gasse", "ring",
        "Ring", "damm", "Damm", "ufer", "Ufer", "laan", "plein", "gracht", "kade",
    )),
    (_FRENCH, (
        "rue", "avenue", "boulevard", "place", "chemin", "impasse", "allée", "quai", "cours",
        "route",
    )),
    (_SPANISH, (
        "Calle", "C/", "Aven", "Avda.", "Av.", "Plaza", "Paseo", "Carrer", "Via", "Piazza", "Rua",
        "Travessa",
    )),
    (_BOX, ("ox", "OX")),
)  # fmt: skip
# A house number before the street, or after it.
_BEFORE = re.compile(r"\d(?:[A-Za-z]|st|nd|rd|th|\s?bis|\s?ter)?,?\s+[^\s\d]|\d\s+\d")
_AFTER = re.compile(r"\s\d")


def find_addresses(text: str) -> Iterator[Span]:
    if _AFTER.search(text) is None and _BEFORE.search(text) is None:
        return
    for rule, cues in _RULES:
        for match in rule.finditer(text) if holds(text, cues) else ():
            counted = rule is _ENGLISH and _counted(text, match.start())
            if not counted and not _FAMOUS.match(match[0]):
                yield of("address", match)


def _counted(text: str, start: int) -> bool:
    """Whether the number that an English address begins with counts something, or is a year."""
    year = before(text, start + 5, 20)
    return bool(_NO_NUMBER.search(before(text, start, 20)) or _YEAR.search(year))
