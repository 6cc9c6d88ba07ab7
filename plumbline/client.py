"""A typed client of the API: prompts in, labels waited for, datasets out.

    from plumbline.client import Plumbline

    with Plumbline("http://127.0.0.1:8000", token="plumb_…", study="my-study") as plumbline:
        plumbline.import_prompts([{"prompt": "Name three colors.", "user": "ann"}])
        train = [p.id for p in plumbline.prompts(split="train", usable=True)]
        batch = plumbline.ask_for_demonstrations("first prompts", prompts=train)
        plumbline.wait_for_labels(batch.id)
        export = plumbline.export("sft", freeze=True)
        plumbline.download(export.id, "data/sft")

It needs httpx, and nothing of the server.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import httpx

Kind = Literal[
    "sft",
    "rankings",
    "comparisons",
    "preferences",
    "ratings",
    "prompts",
    "labeler",
    "prompt",
]
POLL_SECONDS = 2.0
Source = str | Path | Iterable[Mapping[str, Any]]  # a file by its path, or rows
Columns = Mapping[str, str]  # what a column is taken for, by its name in the file


class PlumblineError(Exception):
    """The server refused, and why; `status` is the HTTP status, 0 where it did not answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class _Answer:
    """A frozen dataclass made of an answer; what a newer server adds is ignored."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{f.name: data[f.name] for f in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ImportReport(_Answer):
    id: int  # what undo_import takes
    kind: str
    read: int
    stored: int
    duplicates: int
    sentences: list[str]
    report: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Prompt(_Answer):
    id: int
    text: str
    split: str
    external_id: str | None
    use_case: str | None
    usable: bool  # neither withdrawn nor held back for personal data


@dataclass(frozen=True, kw_only=True)
class Batch(_Answer):
    id: int
    name: str
    kind: str
    labels_wanted: int
    labels_done: int
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Snapshot(_Answer):
    id: int
    kind: str
    sha256: str
    records: int
    counts: dict[str, Any]
    query: dict[str, Any]
    withdrawn_since: int


@dataclass(frozen=True, kw_only=True)
class Export(_Answer):
    id: int
    kind: str
    state: str  # queued, running, ready or failed
    rows: int
    error: str | None
    snapshot_id: int | None
    sha256: str | None
    files: list[str]
    manifest: dict[str, Any] | None


class Plumbline:
    """One study of a server, by a token of its API page. Every refusal raises PlumblineError."""

    def __init__(self, url: str, *, token: str, study: str, timeout: float = 60.0) -> None:
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1/studies/{study}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def import_prompts(
        self, prompts: Source, *, name: str | None = None, columns: Columns | None = None
    ) -> ImportReport:
        """Import a file by its path, or rows: all of it, or nothing. Repeating it is harmless.

        A worker does it; this waits for the end. Columns are read as their names say, but for
        those that `columns` gives a meaning, such as {"context": "prompt"}, or "" for none.
        """
        return self.import_file("prompts", prompts, name=name, columns=columns)

    def import_completions(
        self, completions: Source, *, name: str | None = None, columns: Columns | None = None
    ) -> ImportReport:
        """Import completions of other systems for prompts that are there, as above."""
        return self.import_file("completions", completions, name=name, columns=columns)

    def import_demonstrations(
        self, labels: Source, *, name: str | None = None, columns: Columns | None = None
    ) -> ImportReport:
        """Import prompts with their answers, as above."""
        return self.import_file("demonstrations", labels, name=name, columns=columns)

    def import_comparisons(
        self, labels: Source, *, name: str | None = None, columns: Columns | None = None
    ) -> ImportReport:
        """Import pairs of which one is preferred, as above."""
        return self.import_file("comparisons", labels, name=name, columns=columns)

    def import_rankings(
        self, labels: Source, *, name: str | None = None, columns: Columns | None = None
    ) -> ImportReport:
        """Import ranked completions, as above."""
        return self.import_file("rankings", labels, name=name, columns=columns)

    def import_file(
        self,
        kind: str,
        source: Source,
        *,
        name: str | None = None,
        columns: Columns | None = None,
        timeout: float | None = None,
    ) -> ImportReport:
        """Import a file of a kind and wait. Raises TimeoutError after `timeout` seconds."""
        deadline = _deadline(timeout)
        path = f"/imports/{kind}"
        params: dict[str, Any] = {
            "column": [f"{column}={meaning}" for column, meaning in (columns or {}).items()]
        }
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                params["name"] = name or Path(source).name
                found = self._send("POST", path, content=file, params=params)
        else:
            lines = (json.dumps(dict(row), ensure_ascii=False).encode() + b"\n" for row in source)
            params["name"] = name or "rows.jsonl"
            found = self._send("POST", path, content=lines, params=params)
        seconds = 0.1
        while found["state"] not in {"imported", "refused"}:
            so_far = f"{found['rows_done']} rows of {found['file_name']} are read."
            _pause(deadline, so_far, seconds)
            seconds = min(2 * seconds, POLL_SECONDS)
            found = self._send("GET", f"/imports/{found['id']}")
        if found["state"] == "refused":
            more = [f"and {found['more_problems']} more"] if found["more_problems"] else []
            raise PlumblineError(422, "\n".join([*found["problems"], *more]))
        return ImportReport.of({**found["report"], **found})

    def undo_import(self, import_id: int) -> None:
        """Delete what an import stored. PlumblineError says what depends on it by now."""
        self._send("DELETE", f"/imports/{import_id}")

    def prompts(self, *, split: str | None = None, usable: bool = False) -> Iterator[Prompt]:
        """All prompts, or those that may be worked on, fetched a page at a time."""
        params: dict[str, Any] = {"limit": 1_000, "usable": usable}
        if split is not None:
            params["split"] = split
        while True:
            page = self._send("GET", "/prompts", params=params)
            yield from map(Prompt.of, page["items"])
            if page["next"] is None:
                return
            params["after"] = page["next"]

    def batches(self) -> list[Batch]:
        return [Batch.of(batch) for batch in self._send("GET", "/batches")]

    def batch(self, batch_id: int) -> Batch:
        return Batch.of(self._send("GET", f"/batches/{batch_id}"))

    def ask_for_demonstrations(
        self,
        name: str,
        *,
        count: int | None = None,
        prompts: Sequence[int] | None = None,
        labels_per_prompt: int = 1,
    ) -> Batch:
        """Put prompts before labelers: these, or so many that have no demonstration task yet."""
        asked = {
            "name": name,
            "count": count,
            "prompts": None if prompts is None else list(prompts),
            "labels_per_prompt": labels_per_prompt,
        }
        return Batch.of(self._send("POST", "/batches", json=asked))

    def wait_for_labels(self, batch_id: int, *, timeout: float | None = None) -> Batch:
        """The batch once it has all its labels. Raises TimeoutError."""
        deadline = _deadline(timeout)
        while not (batch := self.batch(batch_id)).finished:
            _pause(deadline, f"batch {batch_id} has {batch.labels_done} of {batch.labels_wanted}")
        return batch

    def snapshots(self) -> list[Snapshot]:
        return [Snapshot.of(snapshot) for snapshot in self._send("GET", "/snapshots")]

    def snapshot(self, snapshot_id: int) -> Snapshot:
        return Snapshot.of(self._send("GET", f"/snapshots/{snapshot_id}"))

    def export(self, kind: Kind, *, freeze: bool = False, **options: Any) -> Export:
        """Ask for an export, with `freeze` for a snapshot; `options` are the fields of ExportIn."""
        asked = {"kind": kind, "freeze": freeze, **options}
        return Export.of(self._send("POST", "/exports", json=asked))

    def exports(self) -> list[Export]:
        return [Export.of(export) for export in self._send("GET", "/exports")]

    def wait_for_export(self, export_id: int, *, timeout: float | None = None) -> Export:
        """The export once it is ready. Raises TimeoutError, and PlumblineError if it failed."""
        deadline = _deadline(timeout)
        while True:
            export = Export.of(self._send("GET", f"/exports/{export_id}"))
            if export.state == "ready":
                return export
            if export.error is not None:
                raise PlumblineError(409, export.error)
            _pause(deadline, f"export {export_id} is {export.state}")

    def download(
        self, export_id: int, folder: str | Path, *, timeout: float | None = None
    ) -> Export:
        """Wait for an export and write its files below `folder`, each checked by its SHA-256."""
        export = self.wait_for_export(export_id, timeout=timeout)
        manifest = export.manifest or {"files": []}
        expected = {file["name"]: file["sha256"] for file in manifest["files"]}
        for name in export.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise PlumblineError(0, f"The server names a file outside the folder: {name}")
            sha256 = self._fetch(f"/exports/{export_id}/files/{name}", Path(folder) / name)
            if sha256 != expected.get(name, sha256):
                raise PlumblineError(0, f"{name} did not arrive as it was made.")
        return export

    def _fetch(self, address: str, path: Path) -> str:
        """Stream a file to its place; its SHA-256."""
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        beside = path.with_name(f".{path.name}.part")
        try:
            with self._http.stream("GET", address) as response, beside.open("wb") as file:
                if not response.is_success:
                    response.read()
                    raise _refusal(response)
                for part in response.iter_bytes():
                    digest.update(part)
                    file.write(part)
        except httpx.HTTPError as error:
            raise PlumblineError(0, f"The server did not answer: {error}") from error
        beside.replace(path)
        return digest.hexdigest()

    def _send(self, method: str, address: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, address, **options)
        except httpx.HTTPError as error:
            raise PlumblineError(0, f"The server did not answer: {error}") from error
        if not response.is_success:
            raise _refusal(response)
        return response.json() if response.content else None


def _refusal(response: httpx.Response) -> PlumblineError:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.text[:500]
    return PlumblineError(response.status_code, str(detail))


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _pause(deadline: float | None, state: str, seconds: float | None = None) -> None:
    seconds = POLL_SECONDS if seconds is None else seconds
    if deadline is not None and time.monotonic() + seconds > deadline:
        raise TimeoutError(state)
    time.sleep(seconds)
