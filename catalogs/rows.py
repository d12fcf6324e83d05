"""Rows on their way into a table: checked against tables.py, given their lineage, one per key.

Exercised by `pytest tests/catalogs/test_rows.py`.
"""

import datetime
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalogs.tables import TABLES, Column, Table
from vapdata.errors import CallError

LINEAGE = ("run_id", "commit", "created_at")


def row_key(table: Table) -> tuple[str, ...]:
    """The columns that name a row, for telling which of two rows is newer.

    As tables.py says, but a failure that names no video (a malformed row of a dataset's table) is told from
    the next one by its message: the key column `message` stands for "the message, when there is no video".
    """
    return (*table.key, "message") if table.name == "failures" else table.key


def checked(name: str, rows: Sequence[Mapping[str, Any]] | pa.Table, *, run_id: str | None, commit: int) -> pa.Table:
    """The rows as the table's files hold them: all columns in order, lineage filled in, the last of each key.

    A `run_id` or `created_at` in the rows is kept. Raises CallError naming table, row and column for an unknown
    table or column, a wrong type, or a null where tables.py refuses one.
    """
    table = _table(name)
    arrow = rows if isinstance(rows, pa.Table) else _from_rows(table, rows)
    _refuse_unknown(table, arrow.column_names)
    now = datetime.datetime.now(datetime.UTC)
    filled = {"run_id": run_id, "commit": commit, "created_at": now}
    columns = []
    for column in table.columns:
        if column.name in LINEAGE and (column.name == "commit" or column.name not in arrow.column_names):
            columns.append(pa.repeat(pa.scalar(filled[column.name], column.type), len(arrow)))
        elif column.name in arrow.column_names:
            columns.append(_cast(table, column, arrow.column(column.name)))
        else:
            columns.append(pa.nulls(len(arrow), column.type))
        _refuse_null(table, column, columns[-1])
    return _last_of_each_key(pa.Table.from_arrays(columns, schema=table.schema), row_key(table))


def _table(name: str) -> Table:
    if name not in TABLES:
        raise CallError(f"append: no table is called {name!r}{_meant(name, list(TABLES))}. Tables: {', '.join(TABLES)}.")
    return TABLES[name]


def _from_rows(table: Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    types = {column.name: column.type for column in table.columns}
    present = dict.fromkeys(key for row in rows for key in row)
    _refuse_unknown(table, list(present))
    columns = {name: _column(table, name, types[name], [row.get(name) for row in rows]) for name in present}
    if not columns:
        return pa.table({table.key[0]: pa.nulls(len(rows), types[table.key[0]])})
    return pa.table(columns)


def _column(table: Table, name: str, type: pa.DataType, values: list[Any]) -> pa.Array:
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    try:
        return pa.array(plain, type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        for number, value in enumerate(plain):
            _refuse_value(table, name, type, number, value)
        raise CallError(f"append: table {table.name}, column {name}: {error}. Give values of type {type}.") from error


def _refuse_value(table: Table, name: str, type: pa.DataType, number: int, value: object) -> None:
    try:
        pa.array([value], type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise CallError(
            f"append: table {table.name}, row {number}, column {name}: got {value!r:.200} ({value.__class__.__name__}), wanted {type}. "
            "Correct the step that made the row."
        ) from error


def _cast(table: Table, column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return values.cast(column.type)
    except pa.ArrowException as error:
        raise CallError(
            f"append: table {table.name}, column {column.name}: got {values.type}, wanted {column.type} ({error}). Correct the step that made the rows."
        ) from error


def _refuse_unknown(table: Table, names: Sequence[str]) -> None:
    known = [column.name for column in table.columns]
    for name in names:
        if name not in known:
            raise CallError(
                f"append: table {table.name} has no column {name!r}{_meant(name, known)}. Columns: {', '.join(known)}. "
                "A new one is a line in catalogs/tables.py."
            )


def _refuse_null(table: Table, column: Column, values: pa.Array | pa.ChunkedArray) -> None:
    if column.required and values.null_count:
        number = pc.index(pc.is_null(values), True).as_py()
        raise CallError(f"append: table {table.name}, row {number}, column {column.name}: got null, wanted {column.doc}. Correct the step that made the row.")


def _last_of_each_key(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    if len(rows) < 2:
        return rows
    keys = {name: rows.column(name) for name in key}
    if "message" in keys:
        keys["message"] = pc.if_else(pc.is_null(rows.column("video_id")), rows.column("message"), None)
    numbered = pa.table({**keys, "row": pa.array(np.arange(len(rows)))})
    last = numbered.group_by(list(key)).aggregate([("row", "max")]).column("row_max")
    return rows if len(last) == len(rows) else rows.take(np.sort(last.to_numpy()))


def _meant(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
