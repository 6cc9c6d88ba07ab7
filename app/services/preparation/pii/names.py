"""Names of people where a cue stands before them. Without a cue none is found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from app.services.preparation.pii.span import Span, before, holds
from app.services.preparation.pii.words import COMPANIES, KNOWN, NO_NAMES, word_set

_UPPER = "A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĘĚĞĢĪİĶŁĻŃŅŇŌŐŒŔŘŚŠŞŢŤŪŮŰŹŻŽ"
_ONE = rf"[{_UPPER}](?:[\w'’-]*\w)?(?<!['’]s)"
_LINK = "(?:van|von|de|del|della|da|di|der|den|la|le|bin|al|ter|ten|dos|y)"
_MORE = rf"(?:[ \t]+(?:{_LINK}[ \t]+){{0,2}}{_ONE}|[ \t]+[{_UPPER}]\.)"
_FULL = rf"{_ONE}{_MORE}{{1,3}}"
_ANY = rf"{_ONE}{_MORE}{{0,3}}"

# Somebody says who they are, or a form does: one word is enough.
_SELF = re.compile(
    r"(?:\b[Mm]y (?:full |real |first |last |maiden )?name(?: is|['’]s|:)|\b[Mm]y friends call me"
    r"|\b(?:I am|I['’]m|[Ww]e are|[Tt]hey) called|\b[Ii]ch hei(?:ß|ss)e|\b[Mm]ein Name ist"
    r"|\b[Jj]e m['’]appelle|\b[Mm]on nom est|\b[Mm]e llamo|\b[Mm]i nombre es|\b[Mm]i chiamo"
    r"|\b[Mm]eu nome é|\b[Mm]e chamo|\b[Ii]k heet|\b[Mm]ijn naam is|\b[Jj]ag heter"
    r"|\b[Nn]ame ?:)"
    rf"[ \t]+(?P<name>{_ANY})"
)
# A letter is signed: the name stands on its own, at the end of a line.
_SIGNED = re.compile(
    r"(?:^|[\n.!?][ \t]*)(?:[Ss]incerely(?: yours)?|[Yy]ours (?:truly|sincerely|faithfully)"
    r"|(?:(?:[Bb]est|[Kk]ind(?:est)?|[Ww]arm(?:est)?) )?[Rr]egards|[Bb]est(?: wishes)?|[Cc]heers"
    r"|[Mm]any thanks|[Tt]hanks|[Ll]ove|[Ss]igned|[Mm]it freundlichen Grüßen|[Cc]ordialement"
    r"|[Ss]aludos|[Aa]tentamente),?[ \t]*(?:\n[ \t]*|[ \t])"
    rf"(?P<name>{_ANY})[ \t]*(?:$|[\n,.(])",
    re.MULTILINE,
)
_TITLE = re.compile(
    r"\b(?:Mr|Mrs|Ms|Mx|Dr|Prof)(?:\.[ \t]?|[ \t]+)"
    rf"(?P<name>{_ANY})"
    rf"|\b(?:Miss|Doctor|Professor|Herrn?|Frau|Monsieur|Madame|Señora?|Signora?|Senhora?)[ \t]+"
    rf"(?P<called>{_ANY})"
)
_DEAR = re.compile(
    rf"(?:^|[\n.!?:\"“][ \t]*)(?:Dear|Hi|Hello|Hey)[ \t]+(?P<name>{_ANY})(?=[,:!\n])"
)
# Weaker cues want a first and a last name.
_ABOUT = re.compile(
    r"(?:\b(?:I am|I['’]m|[Tt]his is|[Ii]t is|[Ii]ch bin|[Jj]e suis|[Ss]oy|[Ss]ono)"
    r"|\b(?:[Pp]atient|[Ee]mployee|[Cc]ustomer|[Cc]lient|[Tt]enant|[Cc]andidate|[Aa]pplicant"
    r"|[Ss]tudent|[Dd]efendant|[Pp]laintiff|[Cc]ontact|[Aa]ttn|[Rr]ecipient|[Ss]ender|[Cc]ardholder"
    r"|[Aa]ccount holder)(?: is| was|:|,)?"
    r"|\b(?:[Mm]y|[Oo]ur) (?:best )?(?:friend|boss|manager|wife|husband|brother|sister|son|daughter"
    r"|mother|father|neighbou?r|colleague|coworker|co-worker|teacher|landlord|partner|girlfriend"
    r"|boyfriend|doctor|lawyer|roommate|cousin|uncle|aunt|niece|nephew|client|student|fiancée?)"
    r"(?:,| is| named| called)?)"
    rf"[ \t]+(?P<name>{_FULL})"
)
# Of somebody near, a first name is one already.
_NEAR = re.compile(
    r"\b(?:[Mm]y|[Oo]ur) (?:best )?(?:friend|boss|manager|wife|husband|brother|sister|son|daughter"
    r"|mother|father|neighbou?r|colleague|coworker|co-worker|landlord|girlfriend|boyfriend|roommate"
    r"|cousin|uncle|aunt|niece|nephew|fiancée?),?(?: is)?(?: named| called)?[ \t]+"
    rf"(?P<name>{_ANY})"
)
# Each rule with the words that a name of its own comes after, and what else a text must hold for
# it. Looking for these is many times as fast as the rule.
_KIN_WORDS = word_set(
    """
    friend boss manager wife husband brother sister son daughter mother father neighbor neighbour
    colleague coworker worker landlord girlfriend boyfriend roommate cousin uncle aunt niece nephew
    fiancé fiancée is named called
"""
)
_KIN: tuple[str, ...] = (
    "y friend", "y best friend", "ur friend", "ur best friend", "y best", "ur best", "y boss",
    "ur boss", "anager", "wife", "husband", "brother", "sister", "y son", "ur son", "daughter",
    "mother", "father", "eighbo", "colleague", "worker", "fianc", "landlord", "girlfriend",
    "boyfriend", "roommate", "cousin", "uncle", "aunt", "niece", "nephew",
)  # fmt: skip
_RULES: tuple[tuple[re.Pattern[str], frozenset[str], tuple[str, ...]], ...] = (
    (
        _SELF,
        word_set(
            "name s is me called heiße heisse ist appelle est llamo es chiamo é chamo heet heter"
        ) | {""},  # a colon that stands alone
        ("ame is", "ame's", "ame’s", "ame:", "ame :", "all me", "alled", "ch hei", "Name ist",
         "appelle", "om est", "llamo", "ombre es", "hiamo", "ome é", "hamo", "heet", "naam is",
         "heter"),
    ),
    (
        _SIGNED,
        word_set(
            "sincerely yours truly faithfully regards best wishes cheers thanks love signed grüßen"
            " cordialement saludos atentamente"
        ),
        ("",),
    ),
    (
        _TITLE,
        word_set(
            "mr mrs ms mx dr prof miss doctor professor herr herrn frau monsieur madame señor"
            " señora signor signora senhor senhora"
        ),
        ("",),
    ),
    (_DEAR, frozenset({"dear", "hi", "hello", "hey"}), ("",)),
    (
        _ABOUT,
        _KIN_WORDS | word_set(
            "am m bin suis soy sono patient employee customer client tenant candidate applicant"
            " student defendant plaintiff contact attn recipient sender cardholder holder was"
            " teacher partner doctor lawyer"
        ),
        ("I am", "I'm", "I’m", "his is", "t is", "ch bin", "e suis", "oy ", "ono ", "oy\t", "ono\t",
         "atient", "mployee", "ustomer", "lient", "enant", "andidate", "pplicant", "tudent",
         "efendant", "laintiff", "ontact", "ttn", "ecipient", "ender", "ardholder",
         "ccount holder", "eacher", "artner", "octor", "awyer", *_KIN),
    ),
    (_NEAR, _KIN_WORDS, _KIN),
)  # fmt: skip
_UPPERS = frozenset(c for c in map(chr, range(0x180)) if re.match(f"[{_UPPER}]", c))
_WORD = re.compile(r"\w+")
_TITLED = re.compile(r"(?:Mr|Mrs|Ms|Mx|Dr|Prof)\.[^\W\d_a-z]")  # no space between

# `Product name: …`, and names in a story that is told or asked for.
_NOT_ASKED = re.compile(
    r"(?:\b(?:product|company|file|brand|project|course|class|column|variable|table|domain|host|event"
    r"|book|recipe|game|team|band|app|restaurant|pet|business|function|store|city|display|code)\s*"
    r"|\b(?:character|protagonist|hero|heroine|villain|story|novel|song|poem|movie|film|dog|cat)\b"
    r"[^.!?\n]{0,25})$"
)


def find_names(text: str, words: Sequence[str]) -> Iterator[Span]:
    """`words` is the text split at white space."""
    after = _before_capitals(words)
    titled = _TITLED.search(text) is not None
    if not after and not titled:
        return
    for rule, lead, cues in _RULES:
        if lead.isdisjoint(after) and not (titled and rule is _TITLE):
            continue
        if not holds(text, cues):
            continue
        for match in rule.finditer(text):
            group = "name" if match["name"] else "called"
            start, end = match.span(group)
            kept = _trim(text[start:end])
            if kept and not _NOT_ASKED.search(before(text, match.start(), 45)):
                yield Span("name", start, start + len(kept))


def _before_capitals(words: Sequence[str]) -> set[str]:
    """The last word, in small letters, of what stands before each word with a capital; empty for
    signs alone."""
    lead = {first for first, second in pairwise(words) if second[0] in _UPPERS}
    found = set()
    for word in lead:
        plain = _WORD.findall(word)
        found.add(plain[-1].lower() if plain else "")
    return found


def _trim(found: str) -> str:
    """The name without what is none; empty if nothing is left."""
    words = found.split()
    if words[0].lower() in NO_NAMES or (len(words) == 1 and found.isupper() and len(found) > 1):
        return ""
    if any(word.lower().strip(".,") in KNOWN | COMPANIES for word in words):
        return ""
    for place, word in enumerate(words):
        if word.lower() in NO_NAMES:
            last = found.index(word, len(" ".join(words[:place])))
            return found[:last].rstrip()
    return found
