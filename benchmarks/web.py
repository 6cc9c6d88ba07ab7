"""The web process: how fast it starts, and what a label costs. On a bundled PostgreSQL of its own.

`python -m benchmarks.web start [--times N]` starts the web server's command N times and prints the
seconds, and the CPU seconds, from the command to the first sign-in page, and the memory then.

`python -m benchmarks.web labels [--tasks N]` has simulated labelers do N rankings of 4 or 5
completions and N blind evaluations of 2 over HTTP, and prints labels a second and the CPU
milliseconds a label of the web server, the labelers and PostgreSQL. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import make_engine, task_session
from app.embedded import Services, embedded_services
from app.migrate import migrate
from app.models import Completion, Policy, PolicyKind, Pool, Prompt, Purpose, Role, Study
from app.services import people, rehearsal
from app.services.batches import create_ranking_batch
from app.simulation.accounts import Account
from app.simulation.labeler import reference_completions
from app.simulation.workforce import Workforce

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, reaped: bool = False) -> float:
    """What a process has used; `reaped`: with its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if reaped else 13])) / TICKS


def server_seconds(postmaster: int) -> float:
    """What PostgreSQL has used: the postmaster, its children that ended, and those that live."""
    used = cpu_seconds(postmaster, reaped=True)
    for task in Path(f"/proc/{postmaster}/task").iterdir():
        for child in (task / "children").read_text().split():
            used += cpu_seconds(int(child))
    return used


def megabytes(pid: int) -> float:
    """The memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


@contextmanager
def web_server(home: Path, urls: Services) -> Iterator[tuple[int, int]]:
    """The web server's process and port, once it shows its sign-in page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {
        "PLUMBLINE_HOME": str(home),
        "PLUMBLINE_PORT": str(port),
        "PLUMBLINE_DATABASE_URL": urls.urls.database_url,
        "PLUMBLINE_REDIS_URL": urls.urls.redis_url,
    }
    command = [sys.executable, "-m", "app.web"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            while not answers(port):
                if process.poll() is not None:
                    raise SystemExit("The web server does not start.")
                time.sleep(0.005)
            yield process.pid, port
        finally:
            process.send_signal(signal.SIGTERM)


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/login")
        return connection.getresponse().status == 200
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


def time_starts(home: Path, services: Services, times: int) -> None:
    engine = make_engine(services.urls.database_url)
    with task_session(engine) as session:  # without an account there is no sign-in page yet
        people.create_user(session, username="researcher", password="researcher")
    engine.dispose()
    wall, cpu, memory = [], [], []
    for _ in range(times):
        began = time.monotonic()
        with web_server(home, services) as (pid, _port):
            wall.append(time.monotonic() - began)
            cpu.append(cpu_seconds(pid))
            memory.append(megabytes(pid))
    for what, found in (("seconds", wall), ("CPU seconds", cpu), ("MB", memory)):
        print(
            f"{what:<12}{statistics.median(found):7.2f}  [{min(found):.2f}, {max(found):.2f}]",
            f"n={times}",
        )


def make_batch(session: Session, study: Study, tasks: int, *, evaluation: bool) -> None:
    """Rankings of completions like an SFT policy's, rated too; 2 completions to evaluate."""
    pool, purpose = Pool.training, Purpose.training
    if evaluation:
        pool, purpose = Pool.heldout, Purpose.evaluation
    draw = random.Random(f"tasks {pool}")
    policies = session.scalars(select(Policy).where(Policy.study_id == study.id)).all()
    prompts = session.scalars(select(Prompt).order_by(Prompt.id).limit(tasks)).all()
    completions: dict[int, list[int]] = {}
    for prompt in prompts:
        texts = reference_completions(prompt.text, draw, 2 if evaluation else draw.choice((4, 5)))
        rows = [
            Completion(study_id=study.id, prompt_id=prompt.id, policy_id=policy.id, text=text)
            for policy, text in zip(policies, texts, strict=False)
        ]
        session.add_all(rows)
        session.flush()
        completions[prompt.id] = [row.id for row in rows]
    create_ranking_batch(
        session, study, name=pool.value, completions=completions, pool=pool, purpose=purpose
    )


def make_study(url: str, tasks: int, labelers: int) -> dict[str, list[Account]]:
    """The demo study with its batches; the accounts of each pool's labelers."""
    engine = make_engine(url)
    with task_session(engine) as session:
        user = people.create_user(session, username="researcher", password="researcher")
        study = rehearsal.create_demo_study(session, slug="bench", seed=0, created_by=user)
        session.add_all(
            Policy(study_id=study.id, name=f"p{i}", label=f"p{i}", kind=PolicyKind.external)
            for i in range(5)
        )
        session.flush()
        accounts = {}
        for name, role in (("ranking", Role.labeler), ("evaluation", Role.heldout_labeler)):
            make_batch(session, study, tasks, evaluation=name == "evaluation")
            accounts[name] = rehearsal.simulated_accounts(
                session, study, labelers=labelers, role=role
            )
    engine.dispose()
    return accounts


def time_labels(home: Path, services: Services, tasks: int, labelers: int) -> None:
    accounts = make_study(services.urls.database_url, tasks, labelers)
    postmaster = services.servers[-1].child
    assert postmaster is not None
    print(f"{'':<12}{'labels/s':>10}{'web':>8}{'labelers':>10}{'database':>10}{'all':>8}  CPU ms")
    with web_server(home, services) as (pid, port):
        for name, people_ in accounts.items():
            time_labeling(name, f"http://127.0.0.1:{port}", people_, pid, postmaster.pid)


def time_labeling(
    name: str, url: str, accounts: Sequence[Account], web: int, postmaster: int
) -> None:
    workforce = Workforce(url, "bench", accounts)
    before = cpu_seconds(web), time.process_time(), server_seconds(postmaster)
    began = time.monotonic()
    workforce.work(threading.Event(), until_idle=True)
    seconds = time.monotonic() - began
    after = cpu_seconds(web), time.process_time(), server_seconds(postmaster)
    each = [1000 * (b - a) / workforce.labels for a, b in zip(before, after, strict=True)]
    print(
        f"{name:<12}{workforce.labels / seconds:>10.1f}{each[0]:>8.1f}{each[1]:>10.1f}"
        f"{each[2]:>10.1f}{sum(each):>8.1f}  n={workforce.labels}, load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("start", "labels"))
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--labelers", type=int, default=6)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with embedded_services(Settings(home=home, database_url=None, redis_url=None)) as services:
            migrate(services.urls.database_url)
            if given.what == "start":
                time_starts(home, services, given.times)
            else:
                time_labels(home, services, given.tasks, given.labelers)


if __name__ == "__main__":
    main()
