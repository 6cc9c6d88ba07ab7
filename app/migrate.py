"""Bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from app.config import sqlalchemy_url

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"

_LOCK = 7_586_225_463  # an arbitrary key, the same in every Plumbline


def _config(url: str) -> Config:
    config = Config()
    # Alembic keeps options in a configparser, to which "%" is special.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", sqlalchemy_url(url).replace("%", "%%"))
    return config


def migrate(url: str) -> None:
    """Run the migrations that are pending. Of two at a time, one waits for the other."""
    if not pending_migrations(url):
        return  # without loading the models, which upgrade() does
    engine = create_engine(sqlalchemy_url(url))
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            command.upgrade(_config(url), "head")
    finally:
        engine.dispose()  # closes the connection, and with it gives the lock back


def pending_migrations(url: str) -> list[str]:
    """What `migrate` would run, oldest first, as `0001: what it does`."""
    script = ScriptDirectory.from_config(_config(url))
    engine = create_engine(sqlalchemy_url(url))
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    newer = (
        [] if current == script.get_current_head() else script.iterate_revisions("head", current)
    )
    return [f"{revision.revision}: {revision.doc}" for revision in newer][::-1]
