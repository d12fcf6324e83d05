"""The standing questions to a catalog, each a named function, and `answer` for everybody else's.

Exercised by `pytest tests/catalogs/test_queries.py`.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from catalogs.predicates import Predicate, check_predicate, matching, wide_columns
from catalogs.progress import Stage, Status, status
from catalogs.statements import expression as parsed_expression
from catalogs.statements import first_line, question
from catalogs.store import Catalog
from catalogs.tables import TABLES
from catalogs.views import connect, filters
from catalogs.wide import NAMES, wide_sql
from vapdata.errors import CallError, CatalogDamaged, RunError

__all__ = [
    "Predicate",
    "Resolved",
    "Stage",
    "Status",
    "answer",
    "check_predicate",
    "columns_of",
    "conjuncts",
    "connect",
    "filters",
    "matching",
    "resolve",
    "selected",
    "status",
    "wide_columns",
    "wide_sql",
]

ATTEMPTS = 3
"""How often a question is begun anew when the files it reads are merged away under it."""

_T = TypeVar("_T")


def answer(catalog: Catalog, sql: str) -> pa.Table:
    """The rows that one SELECT (or EXPLAIN of one) gives over the catalog's views, for `vapdata query`.

    Nothing is written and no file can be named: the statement is checked (catalogs/statements.py), and it runs
    on a connection whose only files are those of the tables, with its configuration locked. Tensor bytes are not
    among them. Raises CallError for anything else, and when DuckDB finds the question wrong.
    """
    asked = question(sql, NAMES)
    only = None if asked.everything or not asked.columns <= _plain_columns(catalog) else asked.columns
    return _with_fresh_files(lambda: _run(catalog, asked.sql, only))


def columns_of(catalog: Catalog) -> dict[str, str]:
    """Names and DuckDB types of the columns of this catalog's `clips_wide`, for `check_predicate`."""
    with contextlib.closing(connect(catalog, ["scores"])) as connection:
        return wide_columns(*filters(connection))


def selected(catalog: Catalog, where: str | None) -> list[str]:
    """Ids of all clips for which a predicate is true (all clips for None), sorted. Subqueries see the whole catalog."""
    if where is None:
        sql = "select clip_id from clips order by clip_id"
    else:
        check_predicate(where, columns_of(catalog))
        sql = f"select clip_id from clips_wide where ({where}\n) order by clip_id"
    return [str(clip) for clip in answer(catalog, sql).column("clip_id").to_pylist()]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A predicate whose questions to the whole catalog were answered."""

    text: str
    """The predicate with each answer in the question's place: it can be applied to one clip."""
    constants: dict[str, Any]
    """Each question, as SQL, with its answer: a number, text, true, false or null."""


def resolve(catalog: Catalog, where: str) -> Resolved:
    """Answers the subqueries of a predicate, e.g. quantiles, over the catalog as it is now.

    Raises CallError for a subquery that has not one value (IN and EXISTS over a table, or one that looks at the
    outer clip): such a predicate can be used with `selected` only.
    """
    tree = parsed_expression(where, NAMES)
    constants: dict[str, Any] = {}
    replaced = _replaced(catalog, where, tree, constants)
    return Resolved(text=where if not constants else _as_sql(_select_of(replaced)).removeprefix("SELECT "), constants=constants)


def conjuncts(where: str) -> list[str]:
    """The conditions that a predicate joins by AND, as SQL, in its order; itself where it joins none."""
    return [_as_sql(_select_of(part)).removeprefix("SELECT ") for part in _joined_by_and(parsed_expression(where, NAMES))]


def _joined_by_and(tree: dict[str, Any]) -> list[dict[str, Any]]:
    if tree.get("type") != "CONJUNCTION_AND":
        return [tree]
    return [part for child in tree["children"] for part in _joined_by_and(child)]


def _replaced(catalog: Catalog, where: str, tree: Any, constants: dict[str, Any]) -> Any:
    if isinstance(tree, list):
        return [_replaced(catalog, where, part, constants) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.get("class") != "SUBQUERY":
        return {name: _replaced(catalog, where, part, constants) for name, part in tree.items()}
    if tree.get("subquery_type") != "SCALAR":
        raise CallError(f"--where {where!r}: IN and EXISTS over a table have no single value to write down. Ask for a number, such as (select avg(motion) from clips_wide).")
    sql = _as_sql(tree["subquery"]["node"])
    constants[sql] = _one_value(catalog, where, sql)
    with duckdb.connect() as connection:
        row = connection.execute("select json_serialize_sql(?::varchar)", [f"select {_literal(constants[sql])}"]).fetchone()
    return json.loads(row[0] if row else "{}")["statements"][0]["node"]["select_list"][0]


def _one_value(catalog: Catalog, where: str, sql: str) -> Any:
    rows = answer(catalog, sql)
    if rows.num_rows > 1 or rows.num_columns != 1:
        raise CallError(f"--where {where!r}: ({sql}) has {rows.num_rows} rows and {rows.num_columns} columns, wanted one value.")
    value = rows.column(0)[0].as_py() if rows.num_rows else None
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise CallError(f"--where {where!r}: ({sql}) is {value!r:.60}, wanted a number, text, true or false.")
    return value


def _literal(value: bool | int | float | str | None) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"{value!r}::double" if isinstance(value, float) else repr(value)


def _select_of(expression: dict[str, Any]) -> dict[str, Any]:
    with duckdb.connect() as connection:
        row = connection.execute("select json_serialize_sql('select 1')").fetchone()
    node = json.loads(row[0] if row else "{}")["statements"][0]["node"]
    return {**node, "select_list": [expression]}


def _as_sql(node: dict[str, Any]) -> str:
    tree = {"error": False, "statements": [{"node": node, "named_param_map": []}]}
    with duckdb.connect() as connection:
        row = connection.execute("select json_deserialize_sql(?::json)", [json.dumps(tree)]).fetchone()
    return str(row[0]) if row else ""


def _plain_columns(catalog: Catalog) -> set[str]:
    """Every column name of tables and `clips_wide`, lower case: a name outside may stand for a whole row."""
    return {column.name.lower() for table in TABLES.values() for column in table.columns} | {name.lower() for name in columns_of(catalog)}


def _run(catalog: Catalog, sql: str, only: frozenset[str] | None) -> pa.Table:
    with contextlib.closing(connect(catalog, only=only)) as connection:
        _confine(connection, catalog)
        return connection.sql(sql).to_arrow_table()


def _confine(connection: duckdb.DuckDBPyConnection, catalog: Catalog) -> None:
    """From here on the connection reads the tables' files, writes none, and cannot be told otherwise."""
    if catalog.files.local:
        paths = [catalog.files.address(f"{table}/{name}") for table in TABLES for name in catalog.table_files(table)]
        connection.execute("set allowed_paths = [" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + "]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def _with_fresh_files(ask: Callable[[], _T]) -> _T:
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except (duckdb.IOException, duckdb.PermissionException, FileNotFoundError) as error:
            if attempt == ATTEMPTS - 1:
                raise CatalogDamaged(f"query: {first_line(error)}. Look for what is wrong: vapdata verify") from error
        except duckdb.OutOfMemoryException as error:
            raise RunError(f"query: {first_line(error)}. Ask for fewer rows or columns, or add a limit.") from error
        except duckdb.Error as error:
            raise CallError(f"query: {_two_lines(error)}. Names of tables and columns: vapdata query \"show tables\", \"describe clips\".") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _two_lines(error: duckdb.Error) -> str:
    """DuckDB's message with its suggestion, if it makes one."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    hints = [line.strip() for line in lines[1:2] if line.startswith(("Candidate", "Did you mean"))]
    return " ".join([first_line(error).rstrip("."), *hints])
