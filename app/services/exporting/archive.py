"""All files of an export as one ZIP, made while it is sent."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

READ: Final = 1 << 20


class _Pipe(io.RawIOBase):
    """What is written, until it is taken: ZipFile writes to it as to a socket."""

    def __init__(self) -> None:
        super().__init__()
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._held += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._held)
        self._held.clear()
        return data


def zipped(files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """The bytes of a ZIP of these files by their names, stored as they are, a megabyte at a time.

    Not packed: Parquet is already, and packing a gigabyte of JSONL would hold up the download.
    """
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", compression=zipfile.ZIP_STORED) as archive:
        for name, path in files:
            with path.open("rb") as source, archive.open(name, "w", force_zip64=True) as target:
                while data := source.read(READ):
                    target.write(data)
                    yield pipe.take()
    yield pipe.take()
