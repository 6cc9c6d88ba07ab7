"""Carrying out a run: export its inputs, start the trainer, follow it, register what it made.

The trainer is a subprocess that dies with its worker. Everything written here is fenced by the
claim; when the claim is lost the trainer is killed and nothing more is written.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from app import storage
from app.config import Settings, get_settings
from app.db import task_session
from app.models import Run, RunKindName, Study
from app.processes import Child
from app.services import outcomes, runs
from app.services.run_views import run_directory
from trainer import contract

log = structlog.get_logger()

POLL_SECONDS = 0.25
BEAT_SECONDS = 2.0
STOP_SECONDS = 30.0  # for a trainer to save after SIGTERM
PID = "trainer.pid"


def worker_name(settings: Settings) -> str:
    """Who claims runs: one host and home. Only one supervisor lives in a home at a time."""
    return f"{socket.gethostname()}:{settings.home_path}"


def release_orphans() -> None:
    """What a killed worker of this home had claimed is due at once, not when its lease ends.

    To be called when no other worker of this home can be alive.
    """
    with task_session() as session:
        runs.release_orphans(session, worker_name(get_settings()))


def execute(run_id: int, stopping: threading.Event) -> None:
    """Claim the run and see it through. Returns at once if it is not due.

    When `stopping` is set the trainer saves, and the run goes back to the queue.
    """
    with task_session() as session:
        claim = runs.claim(session, run_id, worker_name(get_settings()))
    if claim is None:
        return
    bound = log.bind(run=run_id, attempt=claim.attempt)
    bound.info("run claimed")
    try:
        _carry_out(claim, stopping)
    except runs.StaleClaim:
        bound.warning("run was taken over; nothing more is written")
    except Exception as error:
        # Whatever broke, the researcher reads why on the run's page; the worker logs the rest.
        with task_session() as session:
            runs.fail(session, claim, f"{type(error).__name__}: {error}")
        raise


def _carry_out(claim: runs.Claim, stopping: threading.Event) -> None:
    run_dir = run_directory(claim.run_id)
    run_dir.mkdir(parents=True, exist_ok=True)
    _end_leftover(run_dir)
    if not (run_dir / contract.SPEC).exists():
        with task_session() as session:
            _export(session, claim, run_dir)
    kind = contract.read_spec(run_dir).kind
    if contract.read_result(run_dir) is None:
        ending = _follow(claim, run_dir, kind, stopping)
        if ending is not None:
            with task_session() as session:
                ending(session)
            return
    _register(claim, run_dir)


def _end_leftover(run_dir: Path) -> None:
    """Kill a trainer that a stopped worker left in this directory: two must not write to it."""
    path = run_dir / PID
    if not path.exists():
        return
    pid = path.read_text(encoding="utf-8").strip()
    found = subprocess.run(
        ["ps", "-o", "command=", "-p", pid], capture_output=True, text=True, check=False
    )
    if str(run_dir) in found.stdout:
        log.warning("killing a trainer that was left over", pid=pid, run_dir=str(run_dir))
        os.kill(int(pid), signal.SIGKILL)
    path.unlink()


def _export(session: Session, claim: runs.Claim, run_dir: Path) -> None:
    """Write the data, and last the spec that names it: where it is, all is there."""
    study = session.get_one(Study, session.get_one(Run, claim.run_id).study_id)
    run = runs.get_run(session, study, claim.run_id)
    data_dir = run_dir / contract.DATA
    data_dir.mkdir(exist_ok=True)
    models: dict[str, str] = {}
    data: dict[str, str] = {}
    for item in run.inputs:
        if item.checkpoint is not None:
            uri = item.checkpoint.uri
            models[item.part] = str(storage.fetch(uri)) if "://" in uri else uri
        elif item.snapshot is not None:
            data[item.part] = f"{item.part}.jsonl"
            target = data_dir / data[item.part]
            target.unlink(missing_ok=True)
            shutil.copyfile(storage.fetch(item.snapshot.uri), target)
    if run.kind is RunKindName.sample:
        data = {"requests": _export_requests(run, data_dir, data)}
    spec = contract.RunSpec(
        kind=run.kind.value,
        seed=run.seed,
        preset=run.preset,
        config=run.config,
        models=models,
        data=data,
        prompt_template=outcomes.prompt_template(session, run),
        about=outcomes.about_run(session, study, run),
    )
    contract.write_json(run_dir / contract.SPEC, spec.to_json())


def _export_requests(run: Run, data_dir: Path, data: dict[str, str]) -> str:
    """The sample requests, one line a prompt and policy, from the prompts of each part."""
    name = "requests.jsonl"
    with (data_dir / name).open("w", encoding="utf-8") as file:
        for request in run.requests:
            records = contract.read_records(data_dir / data[request["part"]], contract.PromptRecord)
            for record in records:
                line = contract.SampleRequest(
                    prompt_id=record.prompt_id,
                    prompt=record.prompt,
                    policy=request["policy"],
                    n=request["n"],
                    best_of=request.get("best_of", 1),
                )
                file.write(json.dumps(line.to_json(), ensure_ascii=False) + "\n")
    return name


def trainer_command(settings: Settings, kind: str, run_dir: Path) -> list[str]:
    """`python -m trainer KIND DIR`, behind the launcher of the settings where there is one."""
    launch = shlex.split(settings.trainer_launch) or [sys.executable]
    return [*launch, "-m", "trainer", kind, str(run_dir)]


Ending = Callable[[Session], object]


def _follow(
    claim: runs.Claim, run_dir: Path, kind: str, stopping: threading.Event
) -> Ending | None:
    """Run the trainer to its end, its metrics becoming rows. None when it left a result."""
    root = Path(__file__).resolve().parent.parent
    child = Child(
        f"trainer-{claim.run_id}",
        trainer_command(get_settings(), kind, run_dir),
        log=run_dir / contract.LOG,
        cwd=root,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    (run_dir / PID).write_text(str(child.pid), encoding="utf-8")
    metrics = MetricsFile(run_dir / contract.METRICS)
    cancelled = False
    stop_at: float | None = None  # when patience with a trainer that should stop ends
    next_beat = 0.0
    try:
        while True:
            status = child.poll()
            lines = metrics.new_lines()
            if lines or time.monotonic() >= next_beat or status is not None:
                with task_session() as session:
                    cancelled = runs.beat(session, claim, lines)
                next_beat = time.monotonic() + BEAT_SECONDS
            if status is not None:
                break
            if (cancelled or stopping.is_set()) and stop_at is None:
                child.signal(signal.SIGTERM)
                stop_at = time.monotonic() + STOP_SECONDS
            if stop_at is not None and time.monotonic() > stop_at:
                child.signal(signal.SIGKILL)
            time.sleep(POLL_SECONDS)
    finally:
        child.stop(signal.SIGKILL, grace=0)
        (run_dir / PID).unlink(missing_ok=True)
    if status == 0 and contract.read_result(run_dir) is not None:
        return None
    if cancelled:
        return lambda session: runs.cancelled(session, claim)
    if stopping.is_set():
        return lambda session: runs.release(session, claim)
    message = _why(status, child.log_tail(40))
    return lambda session: runs.fail(session, claim, message)


def _why(status: int, tail: str) -> str:
    """The reason a trainer ended, for a researcher: its own last words."""
    if status == contract.EXIT_STOPPED:
        head = "The trainer was asked to stop by something other than Plumbline; retry goes on."
    elif status < 0:
        head = f"The trainer was killed by signal {-status} ({signal.Signals(-status).name})."
        if status == -signal.SIGKILL:
            head += " The machine may have run out of memory."
    else:
        head = f"The trainer ended with status {status}."
    return f"{head}\n\n{tail}".strip()


class MetricsFile:
    """The lines of a metrics.jsonl that is being written.

    A trainer that resumes shortens it, and may have written other lines in their place since.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._last = b""  # the line that ends there

    def new_lines(self) -> list[contract.MetricLine]:
        """The complete lines since the last call; a line that is half written waits.

        All of them, from the first on, where the one that was read last is no more there.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset - len(self._last))
            if file.read(len(self._last)) != self._last:
                self._offset, self._last = 0, b""
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        if whole:
            self._last = whole.splitlines(keepends=True)[-1]
        return [contract.MetricLine.from_json(json.loads(line)) for line in whole.splitlines()]


def _register(claim: runs.Claim, run_dir: Path) -> None:
    """Store what the run made and end it, in one transaction; the files first."""
    result = contract.read_result(run_dir)
    assert result is not None
    uri = None
    if result.model is not None:
        uri = storage.artifact_url("checkpoints", f"run-{claim.run_id:06d}")
        storage.put(run_dir / result.model, uri)
    with task_session() as session:
        run = runs.succeed(session, claim, result.to_json())
        if uri is not None:
            outcomes.register_checkpoint(session, run, result, uri)
        if result.completions is not None:
            records = contract.read_records(run_dir / result.completions, contract.CompletionRecord)
            outcomes.store_completions(session, run, records)
    shutil.rmtree(run_dir / contract.CHECKPOINTS, ignore_errors=True)
