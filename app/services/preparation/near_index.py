"""The sketches of a study's prompts in memory, for an import that compares each with all of them.

8 bytes an entry in open addressing, a table a band: 1,000,000 prompts take 60 to 96 MB, however
long their texts are. A bucket holds at most BUCKET entries, so that a million prompts of one
template cost no more than a million others.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from app.services.preparation.sketches import BANDS

BUCKET = 4  # prompts of one band hash that are kept; the exact check needs one that is near
FULL = 0.8  # the load at which a table grows
GROWTH = 1.6


class NearIndex:
    """Numbers of prompts by sketch. Numbers count from 0 in the order of `add`, below 2**32."""

    def __init__(self) -> None:
        self._tables = [_Table() for _ in range(BANDS)]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, bands: Sequence[int]) -> int:
        """Take a prompt in; its number."""
        number = self._size
        for table, band in zip(self._tables, bands, strict=True):
            table.add(band & 0xFFFFFFFF, number)
        self._size += 1
        return number

    def near(self, bands: Sequence[int]) -> list[int]:
        """Numbers of prompts with a band in common, the most common bands first."""
        votes: dict[int, int] = {}
        for table, band in zip(self._tables, bands, strict=True):
            for number in table.find(band & 0xFFFFFFFF):
                votes[number] = votes.get(number, 0) + 1
        return sorted(votes, key=lambda number: (-votes[number], number))


class _Table:
    """Numbers by 32-bit key. An entry is (key << 32 | number) + 1; 0 is a free place."""

    def __init__(self, capacity: int = 1 << 10) -> None:
        self._entries = array("Q", bytes(8 * capacity))
        self._used = 0

    def add(self, key: int, number: int) -> None:
        if self._used >= FULL * len(self._entries):
            self._grow()
        self._used += self._put(self._entries, key, key << 32 | number)

    @staticmethod
    def _put(entries: array[int], key: int, entry: int) -> bool:
        capacity = len(entries)
        place = key * capacity >> 32
        seen = 0
        while found := entries[place]:
            if (found - 1) >> 32 == key:
                seen += 1
                if seen == BUCKET:
                    return False
            place += 1
            if place == capacity:
                place = 0
        entries[place] = entry + 1
        return True

    def _grow(self) -> None:
        """Into a larger array: the key's high bits choose the place, so entries stay in order."""
        entries = array("Q", bytes(8 * int(GROWTH * len(self._entries))))
        for found in self._entries:
            if found:
                self._put(entries, (found - 1) >> 32, found - 1)
        self._entries = entries

    def find(self, key: int) -> list[int]:
        entries = self._entries
        place = key * len(entries) >> 32
        found = entries[place]
        if not found:  # most often
            return []
        numbers = []
        while found:
            if (found - 1) >> 32 == key:
                numbers.append((found - 1) & 0xFFFFFFFF)
            place = place + 1 if place + 1 < len(entries) else 0
            found = entries[place]
        return numbers
