"""Files that grow by the chunk: JSONL and Parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from app.models import ExportFormat
from app.services.exporting.columns import Chunk, Fields, json_lines, schema, table


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    name: str  # within the export's folder
    split: str
    format: str
    rows: int
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Writer(Protocol):
    def write(self, chunk: Chunk) -> None: ...

    def close(self) -> str:
        """End the file; the SHA-256 of its bytes."""


class JsonlWriter:
    def __init__(self, path: Path, fields: Fields) -> None:
        self._names = list(fields)
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, chunk: Chunk) -> None:
        data = json_lines({name: chunk[name] for name in self._names})
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> str:
        self._file.close()
        return self._digest.hexdigest()


class ParquetWriter:
    """A row group a chunk. Readers see plain strings: dictionaries are the file's own affair."""

    def __init__(self, path: Path, fields: Fields) -> None:
        import pyarrow.parquet as pq

        self._path = path
        self._fields = fields
        self._writer = pq.ParquetWriter(
            path, schema(fields), compression="zstd", store_schema=False
        )

    def write(self, chunk: Chunk) -> None:
        self._writer.write_table(table(chunk, self._fields))

    def close(self) -> str:
        self._writer.close()
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


WRITERS: dict[ExportFormat, Callable[[Path, Fields], Writer]] = {
    ExportFormat.jsonl: JsonlWriter,
    ExportFormat.parquet: ParquetWriter,
}


def _name(split: str, form: ExportFormat) -> str:
    return f"{form.value}/{split}.{form.value}"


class SplitFiles:
    """A folder a format with a file a split; a split without rows has none.

    A chunk is written in threads of their own, one a format, while the next is read: hashing,
    packing and writing leave the interpreter to others.
    """

    def __init__(self, folder: Path, fields: Fields, formats: tuple[ExportFormat, ...]) -> None:
        self._folder = folder
        self._fields = fields
        self._formats = formats
        self._open: dict[tuple[str, ExportFormat], Writer] = {}
        self._rows: dict[str, int] = {}
        self._threads = ThreadPoolExecutor(max_workers=len(formats))
        self._under_way: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def _wait(self) -> None:
        """For the chunk that is being written. Raises what that raised."""
        for written in self._under_way:
            written.result()
        self._under_way = []

    def write(self, split: str, chunk: Chunk, rows: int) -> None:
        if rows == 0:
            return
        self._wait()
        self._rows[split] = self._rows.get(split, 0) + rows
        for form in self._formats:
            writer = self._open.get((split, form))
            if writer is None:
                path = self._folder / _name(split, form)
                path.parent.mkdir(exist_ok=True)
                writer = self._open[split, form] = WRITERS[form](path, self._fields)
            self._under_way.append(self._threads.submit(writer.write, chunk))

    def close(self) -> list[WrittenFile]:
        self._wait()
        files = []
        for (split, form), writer in self._open.items():
            name = _name(split, form)
            sha256 = writer.close()
            files.append(
                WrittenFile(
                    name=name,
                    split=split,
                    format=form.value,
                    rows=self._rows[split],
                    bytes=(self._folder / name).stat().st_size,
                    sha256=sha256,
                )
            )
        return sorted(files, key=lambda file: file.name)
