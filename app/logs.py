"""Logging: one line an event, tracebacks without local variables.

Local variables would bring what labelers typed, and passwords, into the log.
"""

from __future__ import annotations

import structlog


def configure_logging() -> None:
    """Set structlog up for this process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
