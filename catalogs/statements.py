"""What a user may ask: one SELECT, or EXPLAIN of one, that reads the catalog's views and nothing else.

DuckDB's own parser turns the text into a tree, and the tree is checked against lists of what is allowed: kinds
of query, tables by name, table functions. So a file cannot be named, and nothing that writes gets through
(EXPLAIN ANALYZE runs what it explains, and a WITH item may write: both are looked into).
Exercised by `pytest tests/catalogs/test_queries.py`.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from vapdata.errors import CallError

QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree"})
SHOWN = frozenset({"tables", "databases", "schemas", "variables", "__show_tables_expanded"})
SCHEMAS = frozenset({"", "main", "memory"})

_EXPLAIN = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*explain\b(?P<analyze>\s+analyze\b)?", re.IGNORECASE | re.DOTALL)
_WANTED = "Type one SELECT statement, or EXPLAIN before one."


@dataclass(frozen=True)
class Question:
    """A statement that was checked."""

    sql: str
    """What to run: the text that was checked, with EXPLAIN before it where it was asked for."""
    columns: frozenset[str]
    """Names of all columns that it mentions, lower case."""
    everything: bool
    """True when it may mean columns that it does not mention (`*`, DESCRIBE, NATURAL JOIN)."""


def question(sql: str, tables: Collection[str]) -> Question:
    """The statement, when it is one question to these tables. Raises CallError, saying what else it is."""
    statement = _single(sql)
    kind = statement.type.name
    if kind == "MULTI":
        raise CallError("query: PIVOT without its values is several statements. Name them: PIVOT scores ON filter IN ('motion', 'clarity') USING first(value).")
    if kind not in ("SELECT", "EXPLAIN"):
        raise CallError(f"query: {kind} is not accepted, a catalog is only read. {_WANTED}")
    prefix, inner = ("", statement.query) if kind == "SELECT" else _explained(statement.query)
    tree = _tree(inner)
    _check(tree, {name.lower() for name in tables})
    return Question(prefix + inner, frozenset(_columns(tree)), _means_everything(tree))


def expression(where: str, tables: Collection[str]) -> dict[str, Any]:
    """The tree of one expression, e.g. a predicate. Raises CallError when it is none, or reads other tables."""
    if not where.strip():
        raise CallError("--where is empty. Type a condition such as \"motion > 1\", or leave --where out.")
    try:
        tree = _tree(f"select ({where}\n)")
        node = tree["node"]
        if not _is_one_expression(node):
            raise CallError("it is not one expression.")
        _check(tree, {name.lower() for name in tables})
    except CallError as error:
        raise CallError(f"--where {where!r} is not a condition: {str(error).removeprefix('query: ')} Type one condition on a clip, such as \"motion > 1\".") from error
    return dict(node["select_list"][0])


def nodes(tree: object) -> Iterator[dict[str, Any]]:
    """Every mapping of a tree, outermost first."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from nodes(part)


def meant(name: str, known: Collection[str]) -> str:
    """` (did you mean 'x'?)` when a known name is close, else nothing."""
    close = difflib.get_close_matches(name.lower(), [each.lower() for each in known], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def first_line(error: Exception) -> str:
    """The first line of DuckDB's message, without its class."""
    return str(error).strip().partition("\n")[0].partition(": ")[2] or str(error)


def _is_one_expression(node: Mapping[str, Any]) -> bool:
    if node["type"] != "SELECT_NODE" or node["from_table"]["type"] != "EMPTY" or len(node["select_list"]) != 1:
        return False
    parts = ("where_clause", "having", "qualify", "sample", "group_expressions", "modifiers")
    return not any(node[part] for part in parts) and not node["cte_map"]["map"]


def _single(sql: str) -> duckdb.Statement:
    try:
        with duckdb.connect() as connection:
            statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise CallError(f"query: {first_line(error)}. {_WANTED}") from error
    if len(statements) != 1:
        raise CallError(f"query: {len(statements)} statements, wanted one. {_WANTED}")
    return statements[0]


def _explained(sql: str) -> tuple[str, str]:
    match = _EXPLAIN.match(sql)
    if match is None:
        raise CallError(f"query: this form of EXPLAIN is not accepted. {_WANTED}")
    inner = sql[match.end() :]
    if _single(inner).type.name != "SELECT":
        raise CallError(f"query: EXPLAIN of anything but a SELECT is not accepted, got {inner.strip():.60}. {_WANTED}")
    return ("EXPLAIN ANALYZE " if match["analyze"] else "EXPLAIN "), inner


def _tree(sql: str) -> dict[str, Any]:
    with duckdb.connect() as connection:
        row = connection.execute("select json_serialize_sql(?::varchar)", [sql]).fetchone()
    answer = json.loads(row[0]) if row else {"error": True, "error_message": "nothing to parse"}
    if answer["error"]:
        raise CallError(f"query: {str(answer['error_message']).partition(chr(10))[0]}. {_WANTED}")
    if len(answer["statements"]) != 1:
        raise CallError(f"query: {len(answer['statements'])} statements, wanted one. {_WANTED}")
    return dict(answer["statements"][0])


def _check(tree: Mapping[str, Any], tables: Collection[str]) -> None:
    named = {entry["key"].lower() for node in nodes(tree) if "cte_map" in node for entry in node["cte_map"]["map"]}
    for node in nodes(tree):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in QUERY_NODES:
            raise CallError(f"query: {kind.removesuffix('_NODE').removesuffix('_QUERY')} changes something, and a catalog is only read. {_WANTED}")
        if kind == "BASE_TABLE":
            _check_table(node, {*tables, *named}, tables)
        if kind == "TABLE_FUNCTION":
            _check_function(str(node["function"].get("function_name")), tables)
        if kind == "SHOW_REF" and node["table_name"]:
            _check_shown(str(node["table_name"]).strip('"').lower(), tables)


def _check_table(node: Mapping[str, Any], known: Collection[str], tables: Collection[str]) -> None:
    name = str(node["table_name"])
    if name.lower() not in known or node["schema_name"].lower() not in SCHEMAS or node["catalog_name"].lower() not in SCHEMAS:
        raise CallError(f"query: no table is called {name!r}{meant(name, tables)}; files cannot be read. Tables: {', '.join(sorted(tables))}.")


def _check_function(name: str, tables: Collection[str]) -> None:
    if name.lower() not in TABLE_FUNCTIONS:
        raise CallError(f"query: {name}() is not accepted: a query reads the catalog's tables and no file. Tables: {', '.join(sorted(tables))}.")


def _check_shown(name: str, tables: Collection[str]) -> None:
    if name not in SHOWN and name not in tables:
        raise CallError(f"query: no table is called {name!r}{meant(name, tables)}. Tables: {', '.join(sorted(tables))}.")


def _columns(tree: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes(tree):
        for name in node.get("column_names", []) if node.get("type") == "COLUMN_REF" else node.get("using_columns", []):
            yield str(name).lower()


def _means_everything(tree: Mapping[str, Any]) -> bool:
    return any(node.get("type") in ("STAR", "SHOW_REF", "PIVOT") or node.get("ref_type") == "NATURAL" for node in nodes(tree))
