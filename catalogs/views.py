"""A catalog's tables in DuckDB: views of the newest rows, `failures` that still stand, `clips_wide`.

`connect` is for this project's own code; what a user types goes through `catalogs.queries.answer`, which lets
nothing but a question through. Exercised by `pytest tests/catalogs/test_views.py`.
"""

import os
import tempfile
from collections.abc import Collection, Sequence

import duckdb
import pyarrow.dataset as pads

from catalogs.newest import newest_sql, parquet_sql, quoted, sql_type, told_sql
from catalogs.store import Catalog
from catalogs.tables import TABLES, TEXT_TABLES
from catalogs.wide import ALL_FAILURES, CAUTIOUS, failures_sql, wide_sql

MEMORY = "1GB"
"""What DuckDB may hold before it spills to the machine's temporary folder."""


def connect(catalog: Catalog, tables: Sequence[str] | None = None, only: Collection[str] | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with every table as a view of its newest rows, `failures` and `clips_wide` as described below.

    `tables` restricts it to some plain tables (`failures` then has all newest rows, hidden ones too, and there is
    no `clips_wide`). Without: `failures` hides what has succeeded since, `all_failures` does not. `only` leaves
    all columns but these (lower case) of the filters out of `clips_wide`, which makes it faster. The views name the files of this moment:
    connect anew to see later commits.
    """
    connection = duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": spill_folder(), **CAUTIOUS})
    connection.execute("set timezone = 'UTC'")
    wanted = TABLES if tables is None else tables
    newest = {name: _newest(connection, catalog, name) for name in {*wanted, *(["captions"] if {*wanted} & {*TEXT_TABLES} else [])}}
    for name in wanted:
        select = told_sql(newest[name], newest["captions"]) if name in TEXT_TABLES else newest[name]
        shown = ALL_FAILURES if name == "failures" and tables is None else name
        connection.execute(f"create view {quoted(shown)} as {select}")
    if tables is None:
        connection.execute(f"create view failures as {failures_sql(catalog.products())}")
        values, labels = ([name for name in names if only is None or {name.lower(), f"{name.lower()}_score"} & set(only)] for names in filters(connection))
        connection.execute(f"create view clips_wide as {wide_sql(values, labels, copies=only is None or 'duplicate' in only)}")
    return connection


def filters(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], list[str]]:
    """Names of the filters that have written numbers, and of those that have written labels. Sorted."""
    rows = connection.execute("select filter, bool_or(label is not null) from scores group by filter order by filter").fetchall()
    return [name for name, labelled in rows if not labelled], [name for name, labelled in rows if labelled]


def _newest(connection: duckdb.DuckDBPyConnection, catalog: Catalog, table: str) -> str:
    names = catalog.table_files(table)
    if not names:  # a catalog that was last written before there was such a table
        return "select " + ", ".join(f"null::{sql_type(column.type)} as {quoted(column.name)}" for column in TABLES[table].columns) + " where false"
    if catalog.files.local:
        paths = [catalog.files.address(f"{table}/{name}") for name in names]
        return newest_sql(connection, table, parquet_sql(paths), parquet_sql(paths[1:]) if len(paths) > 1 else None)
    every, later = f"__{table}", f"__{table}_later"
    connection.register(every, _dataset(catalog, table, names))
    if len(names) > 1:
        connection.register(later, _dataset(catalog, table, names[1:]))
    return newest_sql(connection, table, quoted(every), quoted(later) if len(names) > 1 else None)


def _dataset(catalog: Catalog, table: str, names: Sequence[str]) -> pads.Dataset:
    paths = [catalog.files.address(f"{table}/{name}") for name in names]
    return pads.dataset(paths, schema=TABLES[table].schema, filesystem=catalog.files.system, format="parquet")


def spill_folder() -> str:
    """Where this process's DuckDB connections spill to; DuckDB makes and removes it."""
    return os.path.join(tempfile.gettempdir(), f"vapdata-duckdb-{os.getpid()}")
