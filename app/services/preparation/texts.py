"""What is known of a text by itself: its comparison form, its language, its length in tokens."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

LANGUAGE_CHARACTERS = 200  # enough to tell; the rest costs time only


def comparison_form(text: str) -> str:
    """What two prompts are compared by: compatible characters, case and white space made equal.

    Only compared, never stored: what labelers and models see is the text as it was typed.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def prefix_hash(form: str, characters: int) -> int | None:
    """A signed 64-bit hash of a comparison form's beginning; None if it is no longer than that."""
    if characters == 0 or len(form) <= characters:
        return None
    digest = blake2b(form[:characters].encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def language_of(text: str) -> str | None:
    """The main language as an ISO 639-1 code; None where the text is too little to tell."""
    import pycld2

    piece = text[:LANGUAGE_CHARACTERS]
    try:
        sure, _, found = pycld2.detect(piece)
    except pycld2.error:  # it takes no control characters, nor code points that are none
        clean = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in piece)
        sure, _, found = pycld2.detect(clean.encode("utf-8", "ignore"))
    code = found[0][1]
    return str(code) if sure and code != "un" else None


def count_tokens(text: str, tokenizer: str | None = None) -> int:
    """`token_counts` of one text."""
    return token_counts([text], tokenizer)[0]


def token_counts(texts: Sequence[str], tokenizer: str | None = None) -> list[int]:
    """Each text's length in tokens of the tokenizer.json at that path, or an estimate of it.

    The estimate is that of byte-pair encodings of English: a token for 4 characters, at least 1.3
    a word, and one for each character that is not ASCII. Raises ValueError for a file that is no
    tokenizer, and RuntimeError where the library of the extra `train` is missing.
    """
    if tokenizer is None:
        return [_estimate(text) for text in texts]
    encoded = load_tokenizer(tokenizer).encode_batch_fast(texts, add_special_tokens=False)
    return [len(encoding.ids) for encoding in encoded]


def _estimate(text: str) -> int:
    if text.isascii():
        plain, other = len(text), 0
    else:
        plain = len(text.encode("ascii", "ignore"))
        other = len(text) - plain
    return math.ceil(max(plain / 4 + other, 1.3 * len(text.split())))


@lru_cache(maxsize=2)
def load_tokenizer(path: str) -> Any:
    """Raises as `token_counts` does."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise RuntimeError("Counting with a tokenizer needs the extra `train`.") from error
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} is no tokenizer.json: {error}") from error
    tokenizer.no_truncation()  # what the file says of batches would make all of one length
    tokenizer.no_padding()
    return tokenizer
