"""Child processes that never outlive the process that started them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM

_PR_SET_PDEATHSIG = 1
_LOG_BYTES = 10_000_000

# Loaded before any fork: between fork and exec only the plain call is left to do.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: int = SIGTERM, *, parent: int | None = None) -> None:
    """Make this process receive signal `number` when its parent dies, however it dies.

    Linux does it in the kernel; elsewhere a thread watches for the parent to change. `parent` is
    the expected parent's pid: a parent that died before this call counts as dead.
    """
    expected = parent if parent is not None else os.getppid()
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != expected:
            os.kill(os.getpid(), number)
        return

    def watch() -> None:
        while os.getppid() == expected:
            time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


class Child:
    """A process in its own session (the terminal's Ctrl-C does not reach it), tied to this one.

    On Linux it gets `death_signal` from the kernel when the thread that started it dies, so start
    children from a thread that lives as long as they do. Elsewhere a shell that holds a pipe to
    this process sees it close and sends the signal.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        death_signal: int = SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_name(log.name + ".1"))
        self.log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_tie(death_signal) if _libc is not None else None,
            )
        self.started = time.monotonic()
        self._watchdog = None if _libc is not None else _watch(self.process.pid, death_signal)

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        status = self.process.poll()
        if status is not None:
            self._release()
        return status

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        self.process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether the process ended within `seconds`."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._release()
        return True

    def stop(self, number: int = SIGTERM, *, grace: float = 10.0) -> None:
        """Send `number`, wait `grace` seconds for the end, then kill what is left."""
        self.signal(number)
        if not self.wait(grace):
            self.process.kill()
            self.process.wait()
            self._release()

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that this process wrote to its log."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(self.log_start, self.log.stat().st_size - 20_000))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def _release(self) -> None:
        # Killed, not closed: a closed pipe would make it signal a pid that may be another's now.
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
            self._watchdog = None


def _tie(number: int) -> Callable[[], None]:
    assert _libc is not None
    prctl, parent = _libc.prctl, os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _watch(pid: int, number: int) -> subprocess.Popen[bytes]:
    """A shell that signals `pid` when the pipe to this process closes: where PDEATHSIG is not."""
    return subprocess.Popen(
        ["/bin/sh", "-c", f"read -r _; kill -{int(number)} {pid}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
