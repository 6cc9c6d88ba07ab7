"""The home folder: one process holds it, and says in its lock file where the services are."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.config import Settings


class ServiceError(RuntimeError):
    """A part of the installation cannot start. The message says what to do about it."""


class AlreadyRunningError(ServiceError):
    """Another process holds this home."""


@dataclass(frozen=True, kw_only=True)
class Urls:
    """Where the database and the broker are, in the words of the two settings."""

    database_url: str
    redis_url: str


@dataclass(frozen=True, kw_only=True)
class Instance:
    """What the process that holds a home says about itself in the lock file."""

    pid: int
    address: str | None  # of its web server; None for a command that only uses the services
    urls: Urls | None = None  # None while it starts


def running_instance(settings: Settings) -> Instance | None:
    """The process that holds this home now, or None."""
    path = _lock_path(settings)
    try:
        with path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read_instance(file.read())
    except FileNotFoundError:
        pass
    return None


class HomeLock:
    def __init__(self, file: int) -> None:
        self._file = file

    def write(self, instance: Instance) -> None:
        data = json.dumps(asdict(instance)).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))


@contextmanager
def home_lock(settings: Settings, address: str | None) -> Iterator[HomeLock]:
    """Hold the home. The lock is the kernel's: it ends with this process, however that ends."""
    path = _lock_path(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServiceError(
            f"{path.parent} cannot be written ({error.strerror}). Choose another folder with "
            "PLUMBLINE_HOME."
        ) from error
    try:
        # A reader of running_instance() holds it for an instant; a running Plumbline for good.
        for pause in (0.05, 0.2, 0.5, None):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if pause is None:
                    holder = _read_instance(os.pread(file, 65536, 0).decode())
                    raise AlreadyRunningError(already_running(settings, holder)) from None
                time.sleep(pause)
        lock = HomeLock(file)
        lock.write(Instance(pid=os.getpid(), address=address))
        try:
            yield lock
        finally:
            os.ftruncate(file, 0)
    finally:
        os.close(file)


def already_running(settings: Settings, holder: Instance | None) -> str:
    about = [] if holder is None else [f"pid {holder.pid}", *filter(None, [holder.address])]
    about_text = f" ({', '.join(about)})" if about else ""
    return f"Plumbline is already running in {settings.home}/{about_text}"


def _read_instance(text: str) -> Instance | None:
    if not text:
        return None
    data = json.loads(text)
    urls = data["urls"] and Urls(**data["urls"])
    return Instance(pid=data["pid"], address=data["address"], urls=urls)


def _lock_path(settings: Settings) -> Path:
    return settings.home_path / "plumbline.lock"


def masked(url: str) -> str:
    """The URL without its password."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url
