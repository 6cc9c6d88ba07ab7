"""What both bundled servers need: their packages, a private folder for sockets, waiting."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from app.home import ServiceError
from app.processes import Child

# A unix socket's path fits in 104 bytes on macOS and 108 on Linux, its final zero included.
MAX_SOCKET_PATH = 103
START_SECONDS = 60.0  # a crash recovery is included


class Sockets:
    """The private folder of both sockets: in home, or a short one elsewhere that home links to."""

    def __init__(self, home: Path) -> None:
        self._place = home / "sockets"

    @property
    def path(self) -> Path:
        return self._place.resolve()

    def prepare(self) -> None:
        longest = os.fsencode(self._place / ".s.PGSQL.5432")
        if len(longest) <= MAX_SOCKET_PATH and b"," not in longest:  # libpq splits hosts at commas
            private(self._place)
            return
        if self._place.is_symlink() and not _is_private(self.path):
            self._place.unlink()  # cleaned away, or taken by another user: never trusted
        if not self._place.exists():
            self._place.symlink_to(tempfile.mkdtemp(prefix="plumbline-"))

    def remove(self) -> None:
        if self._place.is_symlink():
            shutil.rmtree(self.path, ignore_errors=True)
            self._place.unlink()


def wait_for(child: Child, ready: Callable[[], bool]) -> None:
    """Wait until `ready()`. Raises ServiceError with the log's end if the child stops instead."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            happened = "stopped at once" if child.poll() is not None else "does not answer"
            raise ServiceError(
                f"The bundled {child.name} {happened}; see {child.log}:\n{child.log_tail()}"
            )
        time.sleep(0.01)


def package(name: str, setting: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServiceError(f"The package {name} is not installed; install it or set {setting}.")
    return Path(spec.submodule_search_locations[0])


def private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _is_private(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    status = folder.stat()
    return status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700
