"""Rows by the column. What repeats, such as a prompt in its 36 comparisons, is kept once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain
from typing import Any


class Type(Enum):
    """What a column holds. Every one of them may be null, but for messages and lists' elements."""

    text = auto()
    integer = auto()
    number = auto()
    flag = auto()
    texts = auto()  # a list of text
    integers = auto()
    numbers = auto()
    groups = auto()  # a list of lists of integers
    messages = auto()  # a list of {"role", "content"}


Fields = Mapping[str, Type]


@dataclass(frozen=True, slots=True)
class Indexed:
    """The column `[values[i] for i in indices]`."""

    values: Sequence[Any]
    indices: Sequence[int]


@dataclass(frozen=True, slots=True)
class Messages:
    """A conversation a row: the roles are those of every row."""

    turns: Sequence[tuple[str, Indexed]]


Column = Sequence[Any] | Indexed | Messages
Chunk = Mapping[str, Column]


def everything(values: Sequence[Any]) -> Indexed:
    """The values one after the other, each in one row."""
    return Indexed(values, range(len(values)))


# Made once: json.dumps makes an encoder for each call that wants anything unusual.
encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False).encode


def json_lines(chunk: Chunk) -> bytes:
    """The chunk as JSON in UTF-8, one object a line.

    Columns beside each other that are indexed alike, such as all that is known of a ranking in each
    of its comparisons, are encoded together: a line is then a few pieces put side by side.
    """
    groups: list[list[tuple[str, Column]]] = []
    for name, column in chunk.items():
        if groups and _alike(groups[-1][0][1], column):
            groups[-1].append((name, column))
        else:
            groups.append([(name, column)])
    pieces = []
    for number, group in enumerate(groups):
        before = "{" if number == 0 else ", "
        after = "}\n" if number == len(groups) - 1 else ""
        pieces.append(_pieces(group, before, after))
    return b"".join(chain.from_iterable(zip(*pieces, strict=True)))


def _alike(one: Column, other: Column) -> bool:
    return isinstance(one, Indexed) and isinstance(other, Indexed) and one.indices is other.indices


def _pieces(columns: Sequence[tuple[str, Column]], before: str, after: str) -> Iterator[bytes]:
    """Each row's part of its line: these columns, which are one or indexed alike."""
    first = columns[0][1]
    values = [_encoded(column) for _, column in columns]
    template = before + ", ".join(f"{encode(name)}: %s" for name, _ in columns) + after
    encoded = [(template % row).encode() for row in zip(*values, strict=True)]
    return map(encoded.__getitem__, first.indices) if isinstance(first, Indexed) else iter(encoded)


def _encoded(column: Column) -> Iterator[str]:
    """The values in JSON: those of each row, or those that rows of an `Indexed` refer to."""
    if isinstance(column, Messages):
        turns = []
        for role, texts in column.turns:
            said = [encode({"role": role, "content": text}) for text in texts.values]
            turns.append(map(said.__getitem__, texts.indices))
        return (f"[{', '.join(turn)}]" for turn in zip(*turns, strict=True))
    return map(encode, column.values if isinstance(column, Indexed) else column)


def schema(fields: Fields) -> Any:
    """The Arrow schema of these fields. Text is dictionary-encoded on the way to the file."""
    import pyarrow as pa

    return pa.schema([pa.field(name, _arrow_type(kind)) for name, kind in fields.items()])


def table(chunk: Chunk, fields: Fields) -> Any:
    """The chunk as an Arrow table of `schema(fields)`."""
    import pyarrow as pa

    arrays = [_array(chunk[name], kind) for name, kind in fields.items()]
    return pa.Table.from_arrays(arrays, schema=schema(fields))


def _arrow_type(kind: Type) -> Any:
    import pyarrow as pa

    return {
        Type.text: lambda: pa.dictionary(pa.int32(), pa.string()),
        Type.integer: pa.int64,
        Type.number: pa.float64,
        Type.flag: pa.bool_,
        Type.texts: lambda: pa.list_(pa.string()),
        Type.integers: lambda: pa.list_(pa.int64()),
        Type.numbers: lambda: pa.list_(pa.float64()),
        Type.groups: lambda: pa.list_(pa.list_(pa.int64())),
        Type.messages: lambda: pa.list_(
            pa.struct([("role", pa.string()), ("content", pa.string())])
        ),
    }[kind]()


def _array(column: Column, kind: Type) -> Any:
    import pyarrow as pa

    if isinstance(column, Messages):
        return _message_array(column)
    if kind is not Type.text:
        if isinstance(column, Indexed):
            values = pa.array(column.values, type=_arrow_type(kind))
            return values.take(pa.array(column.indices, type=pa.int32()))
        return pa.array(column, type=_arrow_type(kind))
    if not isinstance(column, Indexed):
        return pa.array(column, type=pa.string()).dictionary_encode()
    values = pa.array(column.values, type=pa.string())
    indices = pa.array(column.indices, type=pa.int32())
    if values.null_count:  # Parquet knows no null inside a dictionary
        return values.take(indices).dictionary_encode()
    return pa.DictionaryArray.from_arrays(indices, values)


def _message_array(column: Messages) -> Any:
    """The turns of all rows interleaved, and where each row's begin."""
    import pyarrow as pa

    turns = len(column.turns)
    rows = len(column.turns[0][1].indices)
    texts: list[Any] = []
    places: list[int] = [0] * (rows * turns)
    for number, (_, turn) in enumerate(column.turns):
        places[number::turns] = [len(texts) + index for index in turn.indices]
        texts.extend(turn.values)
    contents = pa.array(texts, type=pa.string()).take(pa.array(places, type=pa.int32()))
    roles = pa.array([role for role, _ in column.turns] * rows, type=pa.string())
    offsets = pa.array(range(0, rows * turns + 1, turns), type=pa.int32())
    pairs = pa.StructArray.from_arrays([roles, contents], names=["role", "content"])
    return pa.ListArray.from_arrays(offsets, pairs)
