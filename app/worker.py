"""The Celery object and its queues. Imports config only; tasks are registered by name.

Two queues: `light` for what takes moments (advance a round, sweep, an export, a webhook), `train`
for what holds a machine for hours. Messages only say "look at row N", are acknowledged early and
may be lost: rows are the queue, and the sweep sends again what is due.
"""

from __future__ import annotations

import threading

from celery import Celery
from celery.signals import worker_ready, worker_shutdown, worker_shutting_down
from kombu.exceptions import OperationalError

from app.config import get_settings
from app.logs import configure_logging, get_logger

LIGHT = "light"
TRAIN = "train"
EXPIRES_SECONDS = 60.0


def make_celery() -> Celery:
    settings = get_settings()
    celery = Celery("plumbline", broker=settings.redis_url, include=["app.tasks"])
    celery.conf.update(
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        task_default_queue=LIGHT,
        task_routes={"app.tasks.execute_run": {"queue": TRAIN}},
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        beat_schedule={
            "sweep": {
                "task": "app.tasks.sweep",
                "schedule": settings.sweep_seconds,
                "options": {"expires": settings.sweep_seconds * 2},
            }
        },
    )
    return celery


celery = make_celery()


def send(task: str, args: tuple[int, ...]) -> None:
    """Tell a worker to look at a row. A broker that does not answer loses a hint: it is logged."""
    try:
        # It expires: what is still due then, the sweep has sent again.
        celery.send_task(f"app.tasks.{task}", args=args, retry=False, expires=EXPIRES_SECONDS)
    except OperationalError as error:
        get_logger().warning("broker unreachable", task=task, args=args, error=str(error))


# Set when this worker is asked to stop: a task that holds a machine saves its work and returns.
stopping = threading.Event()
worker_shutting_down.connect(lambda **_: stopping.set(), weak=False)


def run_worker(queues: list[str], *, beat: bool) -> None:
    """Work on these queues until SIGTERM; with `beat`, also send the periodic sweep.

    Tasks run in a thread: they start at once, nothing is left behind when the worker is killed,
    and `stopping` reaches them. What needs a process of its own is the trainer, which has one.
    """
    configure_logging()
    if beat:
        from celery.beat import EmbeddedService, Scheduler

        # In memory: a sweep that is missed while nothing runs need not be made up for.
        clock = EmbeddedService(celery, thread=True, scheduler_cls=Scheduler)
        worker_ready.connect(lambda **_: clock.start(), weak=False)
        worker_shutdown.connect(lambda **_: clock.stop(), weak=False)
    # One run at a time trains; an export or a slow webhook holds up no round.
    threads = 1 if TRAIN in queues else 4
    options = ["--pool=threads", f"--concurrency={threads}", "--loglevel=INFO"]
    options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    names = ",".join(queues)
    celery.worker_main(
        ["worker", f"--queues={names}", f"--hostname={names.replace(',', '-')}@%h", *options]
    )
