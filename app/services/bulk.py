"""Queries over many values, and many rows, at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from psycopg import Connection
from psycopg.sql import SQL, Identifier
from sqlalchemy import ColumnElement, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db import Base


def among(column: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """`column = ANY(values)`, one parameter however many values there are.

    `IN` sends one parameter a value, and PostgreSQL takes 65,535 at most.
    """
    array = bindparam(None, list(values), type_=ARRAY(column.type), unique=True)
    return column == any_(array)


def next_ids(session: Session, table: type[Base], count: int) -> list[int]:
    """Ids for so many new rows of a table, ascending."""
    sequence = func.pg_get_serial_sequence(table.__tablename__, "id")
    drawn = select(func.nextval(sequence)).select_from(func.generate_series(1, count))
    return sorted(session.scalars(drawn))


def copy_rows(
    session: Session, table: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Store rows by COPY, several times faster than INSERT. Objects for jsonb come as Jsonb.

    The session does not know of them, and defaults that SQLAlchemy fills in stay empty.
    """
    session.flush()
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, Connection)
    names = SQL(", ").join(Identifier(name) for name in columns)
    command = SQL("COPY {} ({}) FROM STDIN").format(Identifier(table.__tablename__), names)
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        for row in rows:
            copy.write_row(row)
