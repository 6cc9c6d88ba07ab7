"""The artifact store: snapshots and checkpoints, by URL (file:// by default, others by fsspec)."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from urllib.parse import unquote, urlparse

import fsspec

from app.config import get_settings

SCRATCH_SECONDS = 24 * 3600.0  # no export or upload pauses for so long


def artifact_url(*parts: str) -> str:
    """The URL of an artifact under the store's root."""
    return "/".join([get_settings().artifacts.rstrip("/"), *parts])


def local_path(url: str) -> Path | None:
    """The path of a file:// URL, None for any other."""
    parsed = urlparse(url)
    return Path(unquote(parsed.path)) if parsed.scheme == "file" else None


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def put(source: Path, url: str) -> None:
    """Store a file or a folder at `url`. Stored whole or not at all; what is there is replaced.

    On one file system the files are linked, not copied: a 7B checkpoint is there at once.
    """
    target = local_path(url)
    if target is None:
        filesystem, path = fsspec.core.url_to_fs(url)
        filesystem.put(str(source), path, recursive=source.is_dir())
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if source.is_dir():
        shutil.copytree(source, beside, copy_function=_link_or_copy)
        if target.exists():
            shutil.rmtree(target)
    else:
        _link_or_copy(str(source), str(beside))
    beside.replace(target)


def remove(url: str) -> None:
    """Take away what is stored at `url`; nothing there is fine."""
    path = local_path(url)
    if path is None:
        filesystem, remote = fsspec.core.url_to_fs(url)
        if filesystem.exists(remote):
            filesystem.rm(remote, recursive=True)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def scratch() -> Path:
    """A folder for what is being made: on the home's disk, where `put` can link it."""
    folder = get_settings().home_path / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sweep_scratch() -> list[Path]:
    """Remove what a killed process left there: folders in which nothing was written for
    SCRATCH_SECONDS. What was removed."""
    removed = []
    for folder in scratch().iterdir():
        newest = max(_written(path) for path in (folder, *folder.rglob("*")))
        if time.time() - newest > SCRATCH_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)  # its process may be removing it now
            removed.append(folder)
    return removed


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def fetch(url: str) -> Path:
    """A local path to what is stored at `url`; downloaded once into the home when it is remote."""
    path = local_path(url)
    if path is not None:
        return path
    cached = get_settings().home_path / "cache" / url.replace("://", "/")
    if not cached.exists():
        filesystem, remote = fsspec.core.url_to_fs(url)
        beside = cached.with_name(f".{cached.name}.{os.getpid()}.tmp")
        beside.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get(remote, str(beside), recursive=filesystem.isdir(remote))
        beside.replace(cached)
    return cached
