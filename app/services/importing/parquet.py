"""The rows of a Parquet file, plain or in gzip, one at a time and in bounded memory."""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO

from app.services.importing.lines import GZIP, Limits
from app.services.importing.problems import Problems, RowProblem

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = b"PAR1"
ROWS = 32  # that are decoded at a time: a file may say one long text for millions of rows
COPIED = 1 << 20


def is_parquet(file: BinaryIO) -> bool:
    """Whether a seekable file begins like one, also within gzip."""
    file.seek(0)
    head = file.read(len(MAGIC))
    file.seek(0)
    if head.startswith(GZIP):
        try:
            head = gzip.GzipFile(fileobj=file, mode="rb").read(len(MAGIC))
        except (OSError, EOFError, zlib.error):
            return False  # the reader of lines says what is wrong with it
        finally:
            file.seek(0)
    return head == MAGIC


def parquet_rows(
    file: BinaryIO, limits: Limits, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row's number from 1, and its values by column. Raises ImportRefused where there is no
    going on; a row that cannot be taken is noted."""
    # It is heavy: the web process has it when the first such file comes.
    import pyarrow as pa
    from pyarrow import parquet

    problems.place = "row"
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    allowed = limits.unpacked(size)
    number = characters = 0
    with _plain(file, size, limits, problems) as plain:
        try:
            opened = parquet.ParquetFile(plain, buffer_size=COPIED, pre_buffer=False)
            _check_size(opened.metadata, size, limits, problems)
            _check_schema(opened.schema_arrow, problems)
            names = opened.schema_arrow.names
            for batch in opened.iter_batches(batch_size=ROWS, use_threads=False):
                columns = [batch.column(place) for place in range(len(names))]
                for place in range(batch.num_rows):
                    number += 1
                    try:
                        values = {
                            name: _value(name, column[place].as_py(), limits)
                            for name, column in zip(names, columns, strict=True)
                        }
                    except RowProblem as problem:
                        problems.add(number, str(problem))
                        continue
                    except UnicodeDecodeError as error:
                        byte = error.object[error.start]
                        problems.add(number, f"holds text that is not UTF-8: byte 0x{byte:02x}")
                        continue
                    characters += _characters(values)
                    if characters > allowed:
                        problems.stop(
                            number,
                            f"the file is far larger than it looks: {size:,} bytes hold more than "
                            f"{allowed:,} characters",
                        )
                    yield number, values
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())[:200]
            problems.stop(number + 1, f"the Parquet file is damaged from here on ({reason})")


@contextmanager
def _plain(file: BinaryIO, size: int, limits: Limits, problems: Problems) -> Iterator[BinaryIO]:
    """The file itself, or its unpacked copy on disk: Parquet is read from its end."""
    zipped = file.read(len(GZIP)) == GZIP
    file.seek(0)
    if not zipped:
        yield file
        return
    allowed = limits.unpacked(size)
    with tempfile.TemporaryFile() as copy:
        source = gzip.GzipFile(fileobj=file, mode="rb")
        try:
            while data := source.read(COPIED):
                if copy.tell() + len(data) > allowed:
                    problems.stop(
                        None,
                        f"the file is far larger than it looks: {size:,} bytes decompress to more "
                        f"than {allowed:,}",
                    )
                copy.write(data)
        except EOFError:
            problems.stop(None, "the gzip file was cut off")
        except (gzip.BadGzipFile, zlib.error) as error:
            problems.stop(None, f"the gzip file is damaged ({error})")
        copy.seek(0)
        yield copy


def _check_size(metadata: Any, size: int, limits: Limits, problems: Problems) -> None:
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    allowed = limits.unpacked(size)
    if unpacked > allowed or any(group.total_byte_size < 0 for group in groups):
        problems.stop(
            None,
            f"the file is far larger than it looks: {size:,} bytes decompress to {unpacked:,}, "
            f"more than {allowed:,}",
        )


def _check_schema(schema: pa.Schema, problems: Problems) -> None:
    import pyarrow as pa

    names = [name.strip().lower() for name in schema.names]
    if len(set(names)) < len(names):
        problems.stop(None, "two columns have the same name")
    for field in schema:
        if reason := _unreadable(field.type, pa):
            problems.stop(None, f"the column {field.name} holds {reason}")


def _unreadable(kind: Any, pa: Any) -> str | None:
    """Why values of a type have no place here; None if they have."""
    types = pa.types
    if types.is_dictionary(kind):
        return _unreadable(kind.value_type, pa)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _unreadable(kind.value_type, pa)
    if types.is_struct(kind):
        inner = (_unreadable(kind.field(place).type, pa) for place in range(kind.num_fields))
        return next((reason for reason in inner if reason), None)
    known: Sequence[Any] = (
        types.is_string,
        types.is_large_string,
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_null,
        types.is_decimal,
        types.is_date,
        types.is_timestamp,
    )
    if any(is_kind(kind) for is_kind in known):
        return None
    return f"values of the type {kind}, which is neither text, number, list nor object"


def _value(name: str, value: Any, limits: Limits) -> Any:
    """The value as JSON has it. Raises RowProblem for one that is too long."""
    if isinstance(value, str):
        if len(value) > limits.line_bytes:
            raise RowProblem(f"{name} is longer than {limits.line_bytes:,} characters")
        return value
    if isinstance(value, dict):
        return {key: _value(name, item, limits) for key, item in value.items()}
    if isinstance(value, list):
        return [_value(name, item, limits) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value


def _characters(value: Any) -> int:
    """How much text there is in a row."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(item) for item in value.values())
    return sum(_characters(item) for item in value) if isinstance(value, list) else 0
