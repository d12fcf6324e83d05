"""Commits: how files come into the tables' folders so that no kill leaves half a commit.

A commit writes its files under `.staging/<number>/`, then a journal entry that names them, then renames them
into place, then marks the entry done. Killed before the entry, nothing has happened; killed after it, `finish`
renames the rest. A merge goes the same way and swaps the whole folder of a table in one instant where the file
system can, so that a glob sees the old files or the new one, never both.

A table's files are named by the entry that added them: `00000007.parquet`, or `00000009-merged.parquet` for a
merge, which replaces every lower number. `00000000.parquet` holds no rows.
Exercised by `pytest tests/catalogs/test_killing.py`.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from catalogs.files import Files
from vapdata.errors import CatalogDamaged

FOLDER = "journal"
STAGING = ".staging"
EMPTY = "00000000.parquet"
"""The zero-row file that every table starts with."""

_ENTRY = re.compile(r"(\d{8})\.json")
_TABLE_FILE = re.compile(r"(\d{8})(-merged)?\.parquet")

Fill = Callable[[BinaryIO], object]


def entries(files: Files) -> dict[int, dict[str, Any]]:
    """Every journal entry by its number."""
    found = {}
    for number in entry_numbers(files):
        path = _entry_path(number)
        data = files.read(path)
        try:
            found[number] = json.loads(data or b"")
        except ValueError as error:
            raise CatalogDamaged(f"{files.address(path)} is not a journal entry: {error}. Restore it from a copy, or build into a new --catalog.") from error
    return found


def entry_numbers(files: Files) -> list[int]:
    """The numbers of all entries, in order."""
    return sorted(int(match[1]) for name in files.names(FOLDER) if (match := _ENTRY.fullmatch(name)))


def table_files(files: Files, table: str) -> list[str]:
    """Names of the table's files that count, oldest first: what a merge has replaced is left out."""
    return current(files.names(table))


def current(names: list[str]) -> list[str]:
    """Of a table folder's file names, those that count, oldest first."""
    numbered = sorted((int(match[1]), bool(match[2]), name) for name in names if (match := _TABLE_FILE.fullmatch(name)))
    merged = max((number for number, is_merged, _ in numbered if is_merged), default=0)
    return [name for number, _, name in numbered if number >= merged]


def accounted(journal: Mapping[int, Mapping[str, Any]]) -> dict[str, set[str]]:
    """The files that the journal says each table has, zero-row files left out."""
    state: dict[str, set[str]] = {}
    for _, entry in sorted(journal.items()):
        if entry["kind"] == "merge":
            state = {table: set(names) for table, names in entry["kept"].items()}
        for table, name in entry["files"].items():
            state.setdefault(table, set()).add(name)
    return state


def append(files: Files, number: int, tables: Mapping[str, Fill], note: Mapping[str, Any]) -> None:
    """Adds one file to each of the tables as entry `number`. `note` goes into the entry (its run, its row counts)."""
    entry = {**note, "kind": "append", "done": False, "files": dict.fromkeys(tables, f"{number:08d}.parquet")}
    _commit(files, number, tables, entry)


def merge(files: Files, number: int, tables: Mapping[str, Fill], note: Mapping[str, Any]) -> None:
    """Replaces all files of each of the tables by one, as entry `number`; earlier entries are folded into it."""
    entry = {
        **note,
        "kind": "merge",
        "done": False,
        "files": dict.fromkeys(tables, f"{number:08d}-merged.parquet"),
        "replaces": {table: files.names(table) for table in tables},
        "kept": {table: sorted(names) for table, names in accounted(entries(files)).items() if table not in tables},
    }
    _commit(files, number, tables, entry)


def finish(files: Files) -> list[int]:
    """Completes every unfinished entry and removes what was staged without one. Returns the entries it completed."""
    unfinished = [(number, entry) for number, entry in entries(files).items() if not entry["done"]]
    for number, entry in unfinished:
        _apply(files, number, entry)
    files.remove_folder(STAGING)
    return [number for number, _ in unfinished]


def _commit(files: Files, number: int, tables: Mapping[str, Fill], entry: dict[str, Any]) -> None:
    try:
        for table, fill in tables.items():
            files.write(_staged(number, table, entry), fill)
        _write_entry(files, number, entry)
    except BaseException:
        if not files.exists(_entry_path(number)):
            files.remove_folder(f"{STAGING}/{number:08d}")
        raise
    _apply(files, number, entry)
    files.remove_folder(f"{STAGING}/{number:08d}")


def _apply(files: Files, number: int, entry: dict[str, Any]) -> None:
    for table, name in entry["files"].items():
        if not files.exists(f"{table}/{name}"):
            _place(files, _staged(number, table, entry), table, name, entry.get("replaces", {}).get(table))
        if entry["kind"] == "merge":
            for old in entry["replaces"][table]:
                files.remove(f"{table}/{old}")
        files.settle(table)
    _write_entry(files, number, {**entry, "done": True})
    _forget_folded(files, number, entry)


def _place(files: Files, staged: str, table: str, name: str, replaces: list[str] | None) -> None:
    if not files.exists(staged):
        raise CatalogDamaged(
            f"{files.address(table)}/{name} is gone: the journal says it was being committed, and neither it nor {files.address(staged)} exists. "
            "Restore the catalog from a copy, or build into a new --catalog."
        )
    folder = staged.rpartition("/")[0]
    if replaces is not None and files.names(table) == replaces and files.exchange(folder, table):
        return
    files.move(staged, f"{table}/{name}")


def _forget_folded(files: Files, number: int, entry: dict[str, Any]) -> None:
    if entry["kind"] == "merge":
        for earlier in entry_numbers(files):
            if earlier < number:
                files.remove(_entry_path(earlier))


def _staged(number: int, table: str, entry: dict[str, Any]) -> str:
    return f"{STAGING}/{number:08d}/{table}/{entry['files'][table]}"


def _entry_path(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def _write_entry(files: Files, number: int, entry: dict[str, Any]) -> None:
    text = json.dumps(entry, indent=1, sort_keys=True).encode()
    files.write_bytes(_entry_path(number), text)
