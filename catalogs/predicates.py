"""Predicates: the condition on a clip that `--where` states, checked before anything starts and applied anywhere.

A predicate reads the columns of `clips_wide`. It is checked without a catalog's data, and applied by the same
SQL to a whole catalog or, in a worker, to the few clips and scores at hand.
Exercised by `pytest tests/catalogs/test_predicates.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from catalogs.newest import quoted, sql_type
from catalogs.statements import expression, first_line, meant, nodes
from catalogs.tables import TABLES
from catalogs.wide import CAUTIOUS, NAMES, wide_sql
from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class Predicate:
    """A condition that was checked."""

    text: str
    columns: frozenset[str]
    """The columns of `clips_wide` that it mentions."""
    catalog_wide: bool
    """True when it asks other clips too (a subquery), so that it can only be applied once all of them are there."""


def wide_columns(value_filters: Sequence[str], label_filters: Sequence[str]) -> dict[str, str]:
    """Names and DuckDB types of the columns that `clips_wide` has with these filters."""
    clips = {column.name: sql_type(column.type) for column in TABLES["clips"].columns}
    values = {f"{name}_score" if name in clips else name: "DOUBLE" for name in value_filters}
    labels = {f"{name}_score" if name in clips else name: "VARCHAR[]" for name in label_filters}
    return {**clips, "duplicate": "BOOLEAN", **values, **labels}


def check_predicate(where: str, columns: Mapping[str, str]) -> Predicate:
    """The predicate, when it is one condition on these columns (from `wide_columns`).

    Raises CallError for an unknown column (with "did you mean"), a second statement, anything that is not
    true-or-false, an aggregate outside a subquery, or a table or file that is not the catalog's.
    """
    tree = expression(where, NAMES)
    with _private() as connection:
        _empty_views(connection, columns)
        try:
            answers = connection.sql(f"select ({where}\n) as answer from clips_wide").types
            connection.sql(f"select clip_id from clips_wide where ({where}\n)").fetchall()  # WHERE allows less than SELECT
        except duckdb.Error as error:
            raise CallError(_explained(where, error, columns)) from error
    if str(answers[0]) != "BOOLEAN":
        raise CallError(f"--where {where!r} gives {answers[0]}, wanted true or false. Compare with something, such as \"{where.strip()} > 1\".")
    mentioned = {str(name).lower() for node in nodes(tree) if node.get("type") == "COLUMN_REF" for name in node["column_names"]}
    asks_others = any(node.get("class") == "SUBQUERY" for node in nodes(tree))
    return Predicate(text=where, columns=frozenset(name for name in columns if name.lower() in mentioned), catalog_wide=asks_others)


def matching(clips: pa.Table, scores: pa.Table, where: str | None, value_filters: Sequence[str], label_filters: Sequence[str]) -> list[str]:
    """The ids of those `clips` for which the predicate is true, in their order. None as predicate takes all.

    `clips` and `scores` are rows of these tables (scores of other clips do no harm, at most one row per key);
    the filters are those whose columns the predicate may mention. Raises CallError when the predicate cannot
    be applied.
    """
    ids = clips.column("clip_id").to_pylist()
    if where is None or not ids:
        return ids
    expression(where, ("clips_wide", "clips", "scores", "duplicates"))
    with _private() as connection:
        connection.register("clips", clips)
        connection.register("scores", scores)
        connection.register("duplicates", TABLES["duplicates"].schema.empty_table())  # what was scanned just now was compared with nothing yet
        connection.execute(f"create view clips_wide as {wide_sql(value_filters, label_filters)}")
        try:
            kept = connection.sql(f"select clip_id from clips_wide where ({where}\n)").fetchall()
        except duckdb.Error as error:
            raise CallError(_explained(where, error, wide_columns(value_filters, label_filters))) from error
    chosen = {row[0] for row in kept}
    return [clip for clip in ids if clip in chosen]


def _private() -> duckdb.DuckDBPyConnection:
    """A small connection that can reach no file."""
    return duckdb.connect(config={**CAUTIOUS, "threads": "1", "enable_external_access": "false", "lock_configuration": "true"})


def _empty_views(connection: duckdb.DuckDBPyConnection, columns: Mapping[str, str]) -> None:
    for name in NAMES:
        types = columns if name == "clips_wide" else {column.name: sql_type(column.type) for column in TABLES.get(name, TABLES["failures"]).columns}
        empty = ", ".join(f"null::{type} as {quoted(column)}" for column, type in types.items())
        connection.execute(f"create view {quoted(name)} as select {empty} where false")


def _explained(where: str, error: duckdb.Error, columns: Mapping[str, str]) -> str:
    said = first_line(error)
    unknown = re.search(r'[Cc]olumn "([^"]+)" not found|column named "([^"]+)"', said)
    if unknown:
        name = unknown[1] or unknown[2]
        return f"--where {where!r}: no column is called {name!r}{meant(name, columns)}. Columns: {', '.join(columns)}."
    hint = "Type one condition on a clip, such as \"motion > 1\"."
    if "aggregate" in said or "window" in said.lower():
        hint = 'Ask the whole catalog in brackets, such as "motion > (select quantile_cont(motion, 0.5) from clips_wide)".'
    return f"--where {where!r}: {said}. {hint}"
