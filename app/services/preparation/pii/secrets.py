"""E-mail addresses, and keys, tokens and passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator

from app.services.preparation.pii.span import Span, holds, of
from app.services.preparation.pii.words import ROLES

_EMAIL = re.compile(
    r"(?<![\w.+-])(?P<user>[\w.+%-]{1,64})@(?P<host>(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w@])"
)
# Reserved for examples (RFC 2606, RFC 6761), and endings of file names such as icon@2x.png.
_NO_HOST = re.compile(
    r"(?i)(?:^|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local"
    r"|png|jpe?g|gif|svg|webp|js|css|py|rs|go)$"
)
_TOKENS = re.compile(
    r"(?<![\w-])(?:"
    r"sk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{20,}"
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,}|dop_v1_[a-f0-9]{64}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|EAA[A-Za-z0-9]{60,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
    r"|\d{8,10}:AA[A-Za-z0-9_-]{33}(?![\w-])"
    r")"
)
_MAKERS = (
    "sk-", "_live_", "_test_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-",
    "AKIA", "ASIA", "AIza", "ya29.", "xox", "xapp-", "hf_", "npm_", "pypi-", "dop_v1_", "SG.",
    "EAA", "eyJ", ":AA",
)  # fmt: skip
_SHORTEST = 15  # of them: xoxb- and ten more
_PRIVATE = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----.*?(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_NAMED = re.compile(
    r"(?i)\b(?:api[ _-]?key|secret(?:[ _-]?(?:key|access[ _-]?key))?|access[ _-]?(?:key|token)"
    r"|auth[ _-]?token|token|client[ _-]?secret|pass(?:word|wd|phrase|code)|pwd|kennwort|passwort"
    r"|mot de passe|contraseña)[\"']?\s*(?::|=|\bis\b|\blautet\b|\best\b|\bes\b|\bist\b)\s*[\"'`]?"
    r"(?P<value>[^\s\"'`,;]{6,200})"
)
_BEARER = re.compile(r"(?i)\bbearer\s+(?P<value>[A-Za-z0-9._~+/-]{20,}=*)")
_LOGIN = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@]{1,64}:(?P<value>[^\s/@]{3,128})@[^\s/]")
_SAID = (
    (_NAMED, ("key", "secret", "token", "pass", "pwd", "kennwort", "contraseña")),
    (_BEARER, ("bearer",)),
    (_LOGIN, ("://",)),
)
_PLACEHOLDER = re.compile(
    r"(?i)example|placeholder|your|my[_-]?(?:secret|password|key|token)|change[_-]?me|dummy|sample"
    r"|x{4,}|\*{3,}|\.{3}|^[<{$%\[(]|[>}\])]$|environ|getenv|process\.|config|^(?:none|null|true"
    r"|false|undefined|string|required|incorrect|invalid|expired|missing|password|secret)\b"
)


def find_emails(text: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text):
        user = match["user"].lower()
        if not _NO_HOST.search(match["host"]) and user not in ROLES and not user.endswith("."):
            yield of("email", match)


def find_keys(text: str, longest: int) -> Iterator[Span]:
    """`longest` is the length of the longest word of the text, between white space.

    Tokens by their makers' prefixes, private keys, and what is said to be a key or password.

    A value that is said to be one counts if it is no placeholder and holds a digit, or letters of
    both cases or a sign within: `the password is wrong` holds none.
    """
    long = longest >= _SHORTEST and holds(text, _MAKERS)
    for match in _TOKENS.finditer(text) if long else ():
        if not _PLACEHOLDER.search(match[0]) and _mixed(match[0]):
            yield of("key", match)
    if "PRIVATE KEY" in text:
        for match in _PRIVATE.finditer(text):
            yield of("key", match)
    lower = text.lower()
    for rule, cues in _SAID:
        for match in rule.finditer(text) if holds(lower, cues) else ():
            value = match["value"].rstrip(".!?)]}>")
            if not _PLACEHOLDER.search(match["value"]) and len(value) >= 3 and _mixed(value):
                start = match.start("value")
                yield Span("key", start, start + len(value))


def _mixed(value: str) -> bool:
    """Whether a value looks chosen or drawn rather than a word of a sentence."""
    if any(c.isdigit() for c in value):
        return not value.isdigit() or len(value) >= 6
    if re.search(r"[a-z][A-Z]", value):
        return True
    return any(not c.isalnum() and c not in "-_/'().:" for c in value[1:])
