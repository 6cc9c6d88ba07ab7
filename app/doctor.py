"""`plumbline doctor`: what is in use, which versions, whether it answers. Starts nothing."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import httpx
import psycopg
import redis
from celery import Celery
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from app.bundled import postgres, valkey
from app.config import Settings, sqlalchemy_url
from app.embedded import redis_client_url
from app.home import Instance, ServiceError, masked, running_instance
from app.migrate import pending_migrations

LOW_DISK_BYTES = 5_000_000_000
State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One row of the report. Only `wrong` makes the command fail."""

    what: str
    found: str
    state: State = "ok"


def run_doctor(settings: Settings, console: Console) -> bool:
    """Print the report; False if something is wrong."""
    findings = list(examine(settings))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    style = {"ok": "green", "note": "dim", "wrong": "bold red"}
    mark = {"ok": "ok", "note": "–", "wrong": "wrong"}
    for finding in findings:
        state = f"[{style[finding.state]}]{mark[finding.state]}[/]"
        table.add_row(finding.what, state, finding.found.replace("[", r"\["))
    console.print(table)
    wrong = sum(finding.state == "wrong" for finding in findings)
    if wrong:
        console.print(f"\n{wrong} of {len(findings)} need attention.")
    return not wrong


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, in the order of the report."""
    running = running_instance(settings)
    yield Finding("Plumbline", f"{version('plumbline')} in {settings.home_path}")
    yield Finding("Python", f"{platform.python_version()} ({sys.executable})")
    yield _web(running)
    yield from _database(settings, running)
    yield from _broker(settings, running)
    yield _disk(settings.home_path)
    yield Finding("Artifacts", masked(settings.artifacts))
    yield from _trainer()
    yield _base_model(settings)


def _web(running: Instance | None) -> Finding:
    if running is None:
        return Finding("Running", "no; `make up` or `plumbline up` starts it", "note")
    if running.address is None:
        return Finding("Running", f"pid {running.pid}, without a web server", "note")
    try:
        status = httpx.get(f"{running.address}/healthz", timeout=5).status_code
    except httpx.HTTPError as error:
        return Finding("Running", f"pid {running.pid}; {running.address}: {error}", "wrong")
    state: State = "ok" if status == 200 else "wrong"
    return Finding("Running", f"pid {running.pid}, {running.address} answers {status}", state)


def _database(settings: Settings, running: Instance | None) -> Iterator[Finding]:
    url = settings.database_url or (running.urls.database_url if running and running.urls else None)
    if url is None:
        yield _bundled("PostgreSQL", postgres.server_version)
        return
    name = masked(url) if settings.database_url else "bundled"
    try:
        plain = sqlalchemy_url(url).replace("+psycopg", "", 1)
        with psycopg.connect(plain, connect_timeout=5) as found:
            yield Finding("PostgreSQL", f"{found.info.parameter_status('server_version')}, {name}")
        pending = pending_migrations(url)
    except (psycopg.Error, SQLAlchemyError, ValueError) as error:
        yield Finding("PostgreSQL", f"{name}: {_first_line(error)}", "wrong")
        return
    if pending:
        what = f"{len(pending)} pending ({'; '.join(pending)}): run `plumbline migrate`"
        yield Finding("Migrations", what, "wrong")
    else:
        yield Finding("Migrations", "none pending")


def _broker(settings: Settings, running: Instance | None) -> Iterator[Finding]:
    url = settings.redis_url or (running.urls.redis_url if running and running.urls else None)
    if url is None:
        yield _bundled("Valkey", valkey.server_version)
        return
    name = masked(url) if settings.redis_url else "bundled"
    try:
        with redis.Redis.from_url(redis_client_url(url), socket_connect_timeout=5) as client:
            about = client.info("server")
    except (redis.RedisError, ValueError) as error:
        yield Finding("Redis", f"{name}: {_first_line(error)}", "wrong")
        return
    kind = "Valkey" if "valkey_version" in about else "Redis"
    yield Finding(kind, f"{about.get('valkey_version', about['redis_version'])}, {name}")
    answers = Celery(broker=url).control.ping(timeout=1.0)
    workers = sorted(worker.split("@")[0] for answer in answers for worker in answer)
    if workers:
        yield Finding("Workers", ", ".join(workers))
    else:
        yield Finding("Workers", "none answers", "wrong" if running else "note")


def _disk(home: Path) -> Finding:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    low = free < LOW_DISK_BYTES
    text = f"{free / 1e9:.0f} GB free" + (", which a few checkpoints fill" if low else "")
    return Finding("Disk", text, "wrong" if low else "ok")


def _trainer() -> Iterator[Finding]:
    found = {name: _version(name) for name in ("torch", "transformers", "accelerate")}
    missing = [name for name, number in found.items() if number is None]
    if missing:
        text = f"{', '.join(missing)} not installed: no training here (pip install -e '.[train]')"
        yield Finding("Trainer", text, "note")
        return
    yield Finding("Trainer", ", ".join(f"{name} {number}" for name, number in found.items()))
    yield _gpu(found["torch"] or "")


def _gpu(torch_version: str) -> Finding:
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        seen = "; ".join(done.stdout.split("\n")).strip("; ")
        if done.returncode == 0 and seen:
            usable = "+cpu" not in torch_version
            note = "" if usable else f", which torch {torch_version} cannot use"
            return Finding("GPU", seen + note, "ok" if usable else "wrong")
    if "+cpu" in torch_version:
        return Finding("GPU", "none; torch is the CPU build", "note")
    # In a process of its own: torch takes seconds and hundreds of megabytes.
    script = (
        "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() "
        "else 'Apple GPU' if torch.backends.mps.is_available() else '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return Finding("GPU", f"torch does not load: {done.stderr.strip()[-200:]}", "wrong")
    return Finding("GPU", done.stdout.strip() or "none", "ok" if done.stdout.strip() else "note")


def _base_model(settings: Settings) -> Finding:
    name = settings.base_model
    if name is None:
        return Finding("Base model", "the starter model, built here")
    path = Path(name).expanduser()
    if (path / "config.json").exists():
        return Finding("Base model", str(path))
    if path.exists() or name.startswith((".", "/", "~")):
        return Finding("Base model", f"{path} is no model directory (no config.json)", "wrong")
    return Finding("Base model", f"{name}, by its Hugging Face name")


def _bundled(name: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(name, f"{ask()}, bundled, not running", "note")
    except ServiceError as error:
        return Finding(name, str(error), "wrong")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
