"""Processes that look at texts while this one decides about those looked at before.

Each is a plain Python process that reads pickles from its standard input and answers each in turn.
It ends with its input, so it outlives nobody, and whoever may start a process may have one: a
command, a thread of a worker, a test.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import BinaryIO, cast

from app.services.preparation.findings import Asked, Examiner, Findings


class HelperGone(RuntimeError):
    """A process ended that should have answered; the message says how."""


class Helpers:
    """So many processes. They are to be closed in the end."""

    def __init__(self, examiner: Examiner, count: int) -> None:
        self.count = count
        self._processes = [_start(examiner) for _ in range(count)]
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="helper")

    def look(self, asked: Sequence[Asked]) -> Future[list[Findings]]:
        """The findings of each when they are there; HelperGone if they never will be."""
        return self._threads.submit(self._ask, asked)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown()
        for process in self._processes:
            with process:
                pass  # waits, and closes the pipes

    def _ask(self, asked: Sequence[Asked]) -> list[Findings]:
        process = self._idle.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(asked, process.stdin)
            return cast(list[Findings], pickle.load(process.stdout))
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise HelperGone(_end_of(process)) from error
        finally:
            self._idle.put(process)


def _start(examiner: Examiner) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(entry or "." for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
    )
    assert process.stdin is not None
    _send(examiner, process.stdin)
    return process


def _send(value: object, pipe: BinaryIO | object) -> None:
    stream = cast(BinaryIO, pipe)
    pickle.dump(value, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _end_of(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    how = f"with status {status}"
    if status < 0:
        how = f"by signal {-status} ({signal.strsignal(-status)})"
    return f"a process that looked at prompts for this import ended {how}"


def main() -> None:
    """Answer until the input ends. Ctrl-C is for the process that asks: it ends the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    examiner = cast(Examiner, pickle.load(sys.stdin.buffer))
    try:
        while True:
            _send(examiner(pickle.load(sys.stdin.buffer)), answers)
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    main()
