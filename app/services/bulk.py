"""Queries over many values at once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, any_, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute


def among(column: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """`column = ANY(values)`, one parameter however many values there are.

    `IN` sends one parameter a value, and PostgreSQL takes 65,535 at most.
    """
    array = bindparam(None, list(values), type_=ARRAY(column.type), unique=True)
    return column == any_(array)
