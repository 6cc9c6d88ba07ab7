"""The lines of a plain or gzip file, with the memory and the work that it can cost bounded."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from app.services.importing.problems import Problems

GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"

NOT_TEXT = {
    b"PK\x03\x04": "an Excel workbook or another zip archive; save the sheet as CSV (UTF-8) first",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file; save the sheet as CSV (UTF-8) first",
    b"%PDF": "a PDF file",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"BZh": "compressed with bzip2; only gzip is read",
    b"\xfd7zXZ": "compressed with xz; only gzip is read",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; only gzip is read",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one file may cost."""

    file_bytes: int = 2_000_000_000  # as it comes, and again when decompressed
    line_bytes: int = 4_000_000  # all that is held of a file at a time
    blank_lines: int = 10_000  # in a row; they cost time and say nothing
    gzip_ratio: int = 200  # text compresses 3 to 30 times; beyond this it is made to burst
    gzip_allowance: int = 16_000_000  # bytes for which the ratio does not matter yet
    first_bytes: int | None = None  # of the text, where only its first records are wanted

    def unpacked(self, size: int) -> int:
        """How large a compressed file of `size` bytes may be when unpacked."""
        return min(self.file_bytes, max(self.gzip_allowance, self.gzip_ratio * size))


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    text: str  # with its line feed


def check_size(file: BinaryIO, limits: Limits, problems: Problems) -> None:
    """Raises ImportRefused for a file that is larger than the limit, before any of it is read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > limits.file_bytes:
        problems.stop(None, f"the file has {size:,} bytes; at most {limits.file_bytes:,} are taken")


def read_lines(file: BinaryIO, limits: Limits, problems: Problems) -> Iterator[Line]:
    """The file's lines. What is not UTF-8 or holds a NUL is noted and patched, so that the reading
    goes on to the next problem; raises ImportRefused where it cannot go on."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    if not head:
        problems.stop(None, "the file is empty")
    _check_text(head, problems)
    zipped = head.startswith(GZIP)
    allowed = limits.unpacked(size) if zipped else limits.file_bytes
    stream: BinaryIO = gzip.GzipFile(fileobj=file, mode="rb") if zipped else file  # type: ignore[assignment]
    offset = number = blank = 0
    while data := _read_line(stream, limits, problems, number + 1):
        number += 1
        if zipped and number == 1:
            _check_text(data, problems)
            if data.startswith(GZIP):
                problems.stop(None, "a gzip file in another one; unpack it once")
        blank = 0 if data.strip() else blank + 1
        if blank > limits.blank_lines:
            problems.stop(number, f"more than {limits.blank_lines:,} blank lines in a row")
        if len(data) > limits.line_bytes:
            problems.stop(number, f"is longer than {limits.line_bytes:,} bytes")
        if offset + len(data) > allowed:
            problems.stop(
                number,
                f"the file is far larger than it looks: {size:,} bytes decompress to more than "
                f"{allowed:,}",
            )
        if limits.first_bytes is not None and offset + len(data) > limits.first_bytes:
            problems.stop(
                number, f"no more than the first {limits.first_bytes:,} bytes are looked at"
            )
        yield Line(number, _decode(data, number, offset, problems))
        offset += len(data)


def _check_text(head: bytes, problems: Problems) -> None:
    for magic, what in NOT_TEXT.items():
        if head.startswith(magic):
            problems.stop(None, f"this is not JSONL, CSV or Parquet but {what}")


def _read_line(stream: BinaryIO, limits: Limits, problems: Problems, number: int) -> bytes:
    try:
        return stream.readline(limits.line_bytes + 1)
    except EOFError:
        problems.stop(number, "the gzip file ends here, in the middle: it was cut off")
    except (gzip.BadGzipFile, zlib.error) as error:
        problems.stop(number, f"the gzip file is damaged from here on ({error})")


def _decode(data: bytes, number: int, offset: int, problems: Problems) -> str:
    if number == 1 and data.startswith(BOM):
        return _decode(data[len(BOM) :], number, offset + len(BOM), problems)
    if b"\0" in data:
        at = offset + data.index(b"\0")
        problems.add(number, f"holds a NUL byte (byte {at:,} of the text): is this a text file?")
        data = data.replace(b"\0", b"")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        at = offset + error.start
        problems.add(number, f"is not UTF-8: byte 0x{data[error.start]:02x} at {at:,} of the text")
        return data.decode(errors="replace")
