"""Thin tasks: ids in, delegate. The sweep sends again what is due, so that no message matters."""

from __future__ import annotations

import structlog

from app import background, execution, sampling
from app.db import enqueue, task_session
from app.services import assignments, exports, rounds, runs, uploads, webhooks
from app.services.external import queue
from app.worker import celery, stopping

log = structlog.get_logger()


@celery.task(name="app.tasks.execute_run")  # type: ignore[untyped-decorator]
def execute_run(run_id: int) -> None:
    """Carry out run N if it is due."""
    execution.execute(run_id, stopping)


@celery.task(name="app.tasks.advance_round")  # type: ignore[untyped-decorator]
def advance_round(round_id: int) -> None:
    """Start what can start in round N."""
    with task_session() as session:
        rounds.advance(session, round_id)


@celery.task(name="app.tasks.make_export")  # type: ignore[untyped-decorator]
def make_export(export_id: int) -> None:
    """Make export N if it is due."""
    background.make_export(export_id)


@celery.task(name="app.tasks.import_upload")  # type: ignore[untyped-decorator]
def import_upload(upload_id: int) -> None:
    """Import upload N if it is due."""
    background.import_upload(upload_id)


@celery.task(name="app.tasks.sample_system")  # type: ignore[untyped-decorator]
def sample_system(sampling_id: int) -> None:
    """Go on with sampling N if it is due."""
    sampling.sample_system(sampling_id, stopping)


@celery.task(name="app.tasks.deliver_webhook")  # type: ignore[untyped-decorator]
def deliver_webhook(delivery_id: int) -> None:
    """Send message N if it is due."""
    background.deliver_webhook(delivery_id)


@celery.task(name="app.tasks.sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Return leases that ran out, look again at all that is due, remove what is forgotten."""
    with task_session() as session:
        assignments.return_expired(session)
        runs.end_silent_cancelled(session)
        for run_id in runs.due(session):
            enqueue(session, "execute_run", run_id)
        for export_id in exports.due(session):
            enqueue(session, "make_export", export_id)
        for upload_id in uploads.due(session):
            enqueue(session, "import_upload", upload_id)
        for sampling_id in queue.due(session):
            enqueue(session, "sample_system", sampling_id)
        for delivery_id in webhooks.due(session):
            enqueue(session, "deliver_webhook", delivery_id)
    background.tidy()
    with task_session() as session:
        active = rounds.active_rounds(session)
    for round_id in active:
        with task_session() as session:
            rounds.advance(session, round_id)
