"""Queries over many values, and many rows, at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from psycopg import Connection
from psycopg.sql import SQL, Identifier
from sqlalchemy import ColumnElement, any_, bindparam, cast, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.types import NullType

from app.db import Base


def among(column: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """`column = ANY(values)`, one parameter however many values there are, of numbers or texts.

    `IN` sends one parameter a value, and PostgreSQL takes 65,535 at most. The array is written out
    here: several times faster than the driver's way, which looks at each value.
    """
    items = ",".join([_quoted(value) if isinstance(value, str) else str(value) for value in values])
    array = bindparam(None, f"{{{items}}}", type_=NullType(), unique=True)  # cast to what it is
    return column == any_(cast(array, ARRAY(column.type)))


def _quoted(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def plan_for_growth(session: Session) -> None:
    """Until this transaction ends, plan for tables that grow by a million rows in it.

    Foreign keys are checked by plans that the connection keeps. One that was made while a table
    was small reads all of it for every row that is stored later; made anew for each row, planning
    costs more than storing. So those that are kept are dropped, and new ones go by the indexes.
    """
    session.execute(text("DISCARD PLANS"))
    session.execute(text("SET LOCAL enable_seqscan = off"))


def analyze(session: Session, *tables: type[Base]) -> None:
    """Look at what the tables hold now, this transaction's own rows among it.

    Nothing else can look at them before the commit, and without it a look-up of 2,000 values in a
    table that has grown from empty is planned as a scan of all of it. A table that another
    transaction is looking at is left out.
    """
    names = ", ".join(table.__tablename__ for table in tables)
    session.execute(text(f"ANALYZE (SKIP_LOCKED) {names}"))


def next_ids(session: Session, table: type[Base], count: int) -> list[int]:
    """Ids for so many new rows of a table, ascending."""
    sequence = func.pg_get_serial_sequence(table.__tablename__, "id")
    drawn = select(func.nextval(sequence)).select_from(func.generate_series(1, count))
    return sorted(session.scalars(drawn))


def copy_rows(
    session: Session, table: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Store rows by COPY, several times faster than INSERT. What is for jsonb comes as JSON text.

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
