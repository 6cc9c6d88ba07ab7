"""Near-duplicates by MinHash (Broder 1997), with the exact overlap to confirm each.

A text's shingles are its pairs of neighbouring words, hashed to points on a circle. A minimum is
the first point at or after a fixed place; two texts share it with the probability of their Jaccard
similarity s. BANDS bands of ROWS minima each: a pair agrees in some band, and so is looked at, with
about 1 - (1 - s**ROWS)**BANDS: 0.99 at s = 0.8, 0.15 at s = 0.3. Walking around the circle makes
all minima from one sort, so a sketch costs what hashing the words costs.

Sketches are stored: a change of the hash or of a constant here asks for new ones.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left
from collections.abc import Set
from zlib import crc32

BANDS = 6
ROWS = 3

# Words; scripts without spaces by the character; and signs, for `5 < 3` is not `5 > 3`. The marks
# of sentences are not compared.
_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s.,!?;:'\"“”‘’…]")
_ASCII_WORDS = re.compile(rb"\w+|[^\w\s.,!?;:'\"]", re.ASCII)

_CIRCLE = 2**32
_SPREAD = 0x9E3779B1  # odd: a permutation of the circle that undoes the order of CRCs
_PLACES = [(number * 0xC2B2AE35 + 0x27D4EB2F) % _CIRCLE for number in range(BANDS * ROWS)]
_PACK = struct.Struct(f"<{BANDS * ROWS}I").pack
_BAND = 4 * ROWS  # bytes


def shingles(form: str) -> Set[int]:
    """Hashes of each pair of neighbouring words of a comparison form, its ends counted as words."""
    if form.isascii():
        words = _ASCII_WORDS.findall(form.encode())
    else:
        words = [word.encode("utf-8", "surrogatepass") for word in _WORDS.findall(form)]
    words = words or [form.encode("utf-8", "surrogatepass")]
    # The CRC of a word, begun with the CRC of the one before it.
    return set(map(crc32, [*words, b"|"], [0, *map(crc32, words)]))


def bands(shingled: Set[int]) -> list[int]:
    """The sketch: BANDS signed 32-bit hashes. Two texts with one in common may be near."""
    points = sorted([point * _SPREAD & 0xFFFFFFFF for point in shingled])
    last = len(points)
    points.append(points[0])  # around the circle
    minima = _PACK(*[points[bisect_left(points, place, 0, last)] for place in _PLACES])
    return [
        crc32(minima[band * _BAND : (band + 1) * _BAND], band * ROWS) - 2**31
        for band in range(BANDS)
    ]


def jaccard(one: Set[int], other: Set[int]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)
