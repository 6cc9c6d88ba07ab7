"""Logging: one line an event, tracebacks without local variables.

Local variables would bring what labelers typed, and passwords, into the log.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any


def configure_logging() -> None:
    """Set structlog up for this process."""
    import structlog

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


@lru_cache(maxsize=1)
def get_logger() -> Any:
    """The web process's logger, set up by its first event: most processes have none to tell."""
    import structlog

    configure_logging()
    return structlog.get_logger()
