"""Alembic's environment. The URL comes from the caller or PLUMBLINE_DATABASE_URL."""

from __future__ import annotations

from alembic import context

import app.models  # registers every table
from app.config import get_settings
from app.db import Base, make_engine

assert app.models  # imported for its side effect


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or get_settings().database_url
    if not url:
        raise SystemExit("Set PLUMBLINE_DATABASE_URL, or use `plumbline up`, which sets it.")
    engine = make_engine(url)
    with engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=Base.metadata, compare_server_default=False
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    raise SystemExit("Offline migrations are not supported: they could not check what is there.")
run()
