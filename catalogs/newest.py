"""The newest row of every key, as SQL over a table's files.

Every file holds a key once at most, so a table of one file needs no work at all. Of several, rows of the oldest
file replace nothing: only the later, usually small, files are looked up.
Exercised by `pytest tests/catalogs/test_views.py`.
"""

import hashlib
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from catalogs.tables import TABLES

NO_TEXT_SHA256 = hashlib.sha256(b"").hexdigest()
"""Hash of the text of a clip without caption, and of a caption that was taken away."""


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def parquet_sql(paths: Sequence[str]) -> str:
    """A FROM item that reads these files of this machine, older formats included."""
    listed = ", ".join(literal(_no_pattern(path)) for path in paths)
    return f"read_parquet([{listed}], union_by_name = true)"


def newest_sql(connection: duckdb.DuckDBPyConnection, table: str, every: str, later: str | None) -> str:
    """A SELECT of all columns of a table's newest rows.

    `every` is a FROM item with all its files, `later` one with all but the oldest (None when there is only one
    file). Columns that no file has are null.
    """
    present = {str(row[0]) for row in connection.execute(f"describe select * from {every}").fetchall()}
    rows = f"select {_columns(table, present)} from {every}"
    if later is None:
        return rows
    key = _keys(table)
    same = " and ".join(f"old.{name} is not distinct from new.{name}" for name in key)
    named = ", ".join(f"{expression} as {name}" for name, expression in key.items())
    columns = ", ".join(f"old.{quoted(column.name)}" for column in TABLES[table].columns)
    return (
        f"select {columns} from (select *, {named} from ({rows})) as old anti join "
        f"(select {named}, commit from {later}) as new on {same} and new.commit > old.commit"
    )


def told_sql(made: str, captions: str) -> str:
    """A SELECT of the rows of `made`, one of a table of TEXT_TABLES, without those whose caption was taken away.

    A step that makes nothing of an empty text writes no newer row that could replace them. `captions` is a SELECT of the
    newest captions; a row that was made from the empty text stays.
    """
    gone = f"select clip_id, captioner, role from ({captions}) where text_sha256 = {literal(NO_TEXT_SHA256)}"
    same = " and ".join(f"made.{name} = gone.{name}" for name in ("clip_id", "captioner", "role"))
    return f"select made.* from ({made}) as made anti join ({gone}) as gone on {same} and made.text_sha256 <> {literal(NO_TEXT_SHA256)}"


def sql_type(type: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that tables.py uses."""
    if pa.types.is_list(type):
        return sql_type(type.value_type) + "[]"
    names = {pa.string(): "VARCHAR", pa.float64(): "DOUBLE", pa.int64(): "BIGINT", pa.bool_(): "BOOLEAN"}
    return names.get(type, "TIMESTAMP WITH TIME ZONE")


def _columns(table: str, present: set[str]) -> str:
    columns = TABLES[table].columns
    return ", ".join(
        quoted(column.name) if column.name in present else f"null::{sql_type(column.type)} as {quoted(column.name)}" for column in columns
    )


def _keys(table: str) -> dict[str, str]:
    """What a newer row replaces, as names that no column has and what they stand for; see `catalogs.rows.row_key`.

    A filter that answers anew replaces all its labels for the clip, not only those that it gives again.
    """
    columns = ("clip_id", "filter") if table == "scores" else TABLES[table].key
    keys = {f"__key{number}": quoted(name) for number, name in enumerate(columns)}
    if table == "failures":
        keys["__key_row"] = "case when video_id is null then message end"
    return keys


def _no_pattern(path: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)
