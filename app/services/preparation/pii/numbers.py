"""Numbers that stand for somebody: bank accounts, cards, telephones, social security, hosts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from app.services.preparation.pii.span import Span, before, of
from app.services.preparation.pii.words import TEST_CARDS

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_IBAN_START = re.compile(r"[A-Z][A-Z]\d\d")
# Lengths by country (ISO 13616 registry).
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20,
    "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18,
    "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27,
    "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27,
    "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24,
    "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19,
    "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip

_LONG = re.compile(
    r"(?<![\w.,/=#$€£-])(?:\+|\(?)\d(?:[ \u00a0().\-/]{0,3}\d){6,22}(?![\w]|[.,-]?\d)"
)
# Numbers of all of these kinds hold so many digits, so near: nearly all texts hold none.
_SEVEN = re.compile(r"\d(?:[ \u00a0().\-/]{0,3}\d){6}")
_CARD = re.compile(
    r"(?:4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d|2\d\d)\d{12}|35\d{14})"
)
_CALL = re.compile(
    r"\b(?:phone|tel|telephone|mobile|cell(?:phone)?|landline|call|fax|whatsapp|text|sms|ring|reach|dial"
    r"|handy|telefon|mobil|festnetz|rufen|bel|telefoon|téléphone|portable|appel\w*|teléfono|móvil"
    r"|llám\w*|telefono|cellulare|chiam\w*|telefone|celular|lig\w*|ph|mob|t)\b[^\d\n]{0,30}$"
)
# Also said of what is no telephone, so that the word before decides.
_MAYBE = re.compile(r"\b(?:contact|number|nummer|numero|número|numéro)\b[^\d\n]{0,20}$")
_NO_CALL = re.compile(
    r"(?:isbn|issn|order|invoice|ticket|serial|model|part|version|tracking|case|sku|item|ref"
    r"|reference|account|product|code|patent|doi|id|lot|batch|parcel|shipment|upc|ean|barcode"
    r"|article|form|no\.|nr\.|#|population|score|seed|timestamp|coordinates|flight|claim|policy)"
    r"[^\w\n]*(?:number|no|is|was|num|id|nr)?[^\w\n]*(?:is|was)?[^\w\n]*$"
)
_NORTH_AMERICA = re.compile(r"(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}")
_LOCAL = re.compile(r"[2-9]\d\d[ .-]\d{4}")
_FICTION = re.compile(r"555[ .-]?01\d\d$|^555[ .-]?\d{4}$")
_DOTTED_START = re.compile(r"\d\.\d")
_DOTTED = re.compile(r"^\d{1,3}(?:\.\d{1,3}){3}$")  # of the internet
_NINE = re.compile(r"^\d{3}-\d\d-\d{4}$")  # of social security, valid or not
_REGIONS = (
    "US",
    "GB",
    "DE",
    "FR",
    "ES",
    "IT",
    "NL",
    "IN",
    "AU",
    "BR",
    "MX",
    "JP",
    "CH",
    "AT",
    "SE",
)

_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])")
_NO_SSN = frozenset({"078-05-1120", "219-09-9999", "123-45-6789"})  # printed as examples

_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w/]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:./])")
_NO_IP = re.compile(
    r"(?:version|v|ver\.|section|chapter|clause|release|firmware|build|paragraph|§|rev\.?|revision"
    r"|driver|update|patch|item|step|kernel|java|chrome)\s*$"
)
_RESOLVERS = frozenset({"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "208.67.222.222"})


def find_ibans(text: str) -> Iterator[Span]:
    if _IBAN_START.search(text) is None:
        return
    for match in _IBAN.finditer(text):
        # The pattern may have run on into the words after it: the country says how long it is.
        length = _IBAN_LENGTHS.get(match[0][:2])
        places = [place for place, character in enumerate(match[0], 1) if character.isalnum()]
        if length is not None and length <= len(places):
            end = places[length - 1]
            if valid_iban(match[0][:end]):
                yield Span("iban", match.start(), match.start() + end)


def valid_iban(text: str) -> bool:
    """ISO 13616: the check digits leave 1 modulo 97."""
    plain = re.sub(r"[ -]", "", text)
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def luhn(digits: str) -> bool:
    """ISO/IEC 7812: every second digit from the right doubled, the digits' sum a multiple of 10."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def find_long_numbers(text: str) -> Iterator[Span]:
    """Cards by issuer, length and Luhn; social security numbers; telephones that are valid.

    A telephone has its country's +, is written as North Americans write one, or stands after a
    word that says so.
    """
    if _SEVEN.search(text) is None:
        return
    for match in _SSN.finditer(text):
        if match[0] not in _NO_SSN and not _NO_CALL.search(before(text, match.start(), 30)):
            yield of("ssn", match)
    for match in _LONG.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if len(digits) >= 13 and _CARD.fullmatch(digits):
            if luhn(digits) and digits not in TEST_CARDS:
                yield of("card", match)
        elif len(digits) <= 15 and _is_phone(match[0], before(text, match.start(), 40)):
            yield of("phone", match)


def _is_phone(written: str, context: str) -> bool:
    if any(rule.search(written) for rule in (_FICTION, _DOTTED, _NINE)):
        return False
    called = _CALL.search(context) is not None
    if not called:
        if _NO_CALL.search(context):
            return False
        called = _MAYBE.search(context) is not None
    if written.startswith("+") or (written.startswith("00") and called):
        return _valid("+" + written.lstrip("+0"), None)
    if _NORTH_AMERICA.fullmatch(written):
        return _valid(written, "US")
    if not called or _is_date(written):
        return False
    return _LOCAL.fullmatch(written) is not None or any(_valid(written, r) for r in _REGIONS)


def _is_date(written: str) -> bool:
    return (
        re.match(r"(?:\d{4}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.]\d{4})(?!\d)", written)
        is not None
    )


def _valid(written: str, region: str | None) -> bool:
    import phonenumbers

    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number)


def find_ips(text: str) -> Iterator[Span]:
    """Addresses of the public internet: private, reserved and documentation ones are nobody's."""
    rules = [_IPV4] if _DOTTED_START.search(text) else []
    rules += [_IPV6] if text.count(":") > 1 else []
    for rule in rules:
        for match in rule.finditer(text):
            if _NO_IP.search(before(text, match.start(), 20)):
                continue
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if address.is_global and match[0] not in _RESOLVERS and len(match[0]) > 6:
                yield of("ip", match)
