"""A catalog: its tables, tensor files, product settings and notes, in a folder or an object store.

One command at a time appends rows, under `lock`; reading, writing tensor files and noting what is being worked
on need no lock, so workers open a catalog by its address alone (nothing is read until it is asked for).

    catalog.json                    format version
    <table>/*.parquet               committed rows; see catalogs/journal.py
    tensors/<product>/<shard>.<k>.parquet, settings.json
    journal/  lock.json  .staging/  .running/

Exercised by `pytest tests/catalogs/test_store.py`.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalogs import journal, notes, tensors
from catalogs.files import TEMPORARY, Files, files_at
from catalogs.lock import LOCK, Lock
from catalogs.rows import checked
from catalogs.tables import FORMAT_VERSION, TABLES, TENSOR_TABLES, TEXT_TABLES
from vapdata.errors import CallError, CatalogDamaged, CatalogLocked, RunError, SettingsRefused

MARKER = "catalog.json"
OURS = frozenset({MARKER, LOCK, journal.FOLDER, journal.STAGING, notes.FOLDER, "tensors", "media", *TABLES})
"""What may lie directly in a catalog."""

MERGED_ORDER = {"scores": ("filter", "clip_id", "label")}
"""How a merged file is sorted, where not by key: a question about one filter then reads that filter's rows only."""

MERGED_ROWS = 122_880
"""Rows per row group of a merged file: DuckDB's own size."""

_TENSOR_FILE = re.compile(r"(.+)\.(\d+)\.parquet")


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What `Catalog.recover` did."""

    completed: tuple[int, ...]
    """Numbers of the commits that a killed command left unfinished."""
    removed: tuple[str, ...]
    """Tensor files that no row pointed to, and unfinished files."""


class Catalog:
    """One catalog. Cheap to open and to pickle; see the module's docstring."""

    def __init__(self, uri: str) -> None:
        """For `open`; looks at nothing."""
        self.uri = uri
        self.files: Files
        self.files, self.shown = files_at(uri)
        self._lock: Lock | None = None
        self._next: int | None = None

    def __reduce__(self) -> tuple[type["Catalog"], tuple[str]]:
        """A copy in another process knows the address, and never holds the lock."""
        return Catalog, (self.uri,)

    @classmethod
    def open(cls, uri: str | os.PathLike[str], create: bool = False) -> "Catalog":
        """The catalog at `uri` (a folder, or `s3://bucket/folder` and the like).

        With `create`, a place that is empty or absent becomes a catalog with a zero-row file for every table.
        Raises CallError when there is no catalog (or, with `create`, something else), RunError when the place
        cannot be read or written.
        """
        catalog = cls(os.fspath(uri))
        marker = catalog.files.read(MARKER)
        if marker is not None:
            catalog._check_version(marker)
        elif create:
            catalog._create()
        else:
            raise CallError(
                f"no catalog at {catalog.shown}: {catalog.files.address(MARKER)} does not exist. "
                f"Make one: vapdata build --source synthetic --catalog {catalog.shown}"
            )
        return catalog

    # Locking and recovering

    @contextlib.contextmanager
    def lock(self, command: str) -> Iterator[None]:
        """Holds the catalog for `command` (shown to whoever comes second). Raises CatalogLocked when it is held."""
        if self._lock is not None:
            raise CatalogLocked(f"the catalog {self.shown} is already locked by this very object, for {self._lock.me.command!r}. Take the lock once.")
        lock = Lock(self.files, command)
        lock.take()
        self._lock = lock
        self._next = None
        try:
            yield
        finally:
            self._lock = None
            lock.release()

    def recover(self) -> Recovered:
        """Brings the catalog to a committed state, whenever and however the last command ended. Needs the lock.

        Completes unfinished commits; removes unfinished files and tensor files that no row points to; forgets
        the notes on clips that were being worked on; adds what a newer version's tables need.
        """
        self._held()
        completed = journal.finish(self.files)
        self._next = None
        self._add_empty_files()
        removed = self._remove_strays()
        notes.clear_all(self.files)
        return Recovered(completed=tuple(completed), removed=tuple(removed))

    # Tables

    def append(self, rows: Mapping[str, Sequence[Mapping[str, Any]] | pa.Table], run_id: str | None = None) -> int:
        """Adds rows to several tables at once: all of them or none, whatever happens. Needs the lock.

        Gives each row `run_id`, `commit` and `created_at`; of rows with one key the last counts. Tables without
        rows are left out. Returns the commit's number (of the last commit, when there was nothing to add).
        Raises CallError for rows that do not fit tables.py, RunError when the place cannot be written.
        """
        number = self._ready()
        arrow = {name: checked(name, table, run_id=run_id, commit=number) for name, table in rows.items() if len(table)}
        if not arrow:
            return number - 1
        note = {"run_id": run_id, "rows": {name: len(table) for name, table in arrow.items()}}
        ordered = [name for name in TABLES if name in arrow]  # what others refer to comes first
        self._next = None
        journal.append(self.files, number, {name: _table_writer(arrow[name]) for name in ordered}, note)
        self._next = number + 1
        return number

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The newest row of every key, all columns or those named."""
        from catalogs.views import connect  # DuckDB takes a while to import, and workers do not need it

        wanted = list(columns) if columns is not None else [column.name for column in TABLES[table].columns]
        with contextlib.closing(connect(self, [table])) as connection:
            return connection.sql("select " + ", ".join(f'"{name}"' for name in wanted) + f' from "{table}"').to_arrow_table()

    def table_files(self, table: str) -> list[str]:
        """Names of a table's files that count, oldest first; the zero-row file only when there is no other."""
        names = journal.table_files(self.files, table)
        filled = [name for name in names if name != journal.EMPTY]
        return filled or names

    def merge(self) -> list[str]:
        """Makes one file of each table that has several, or rows that its view hides; these are left out. Needs the lock.

        Returns the tables that were merged. A plain glob sees the old files or the new one on a Linux disk; on
        an object store it may see both for a moment.
        """
        number = self._ready()
        loose = [name for name in TABLES if len(self.table_files(name)) > 1 or (name in TEXT_TABLES and self._hides_rows(name))]
        if loose:
            self._next = None
            journal.merge(self.files, number, {name: _merger(self, name) for name in loose}, {"run_id": None})
            self._next = number + 1
        return loose

    def replace(self, rows: Mapping[str, Iterable[pa.Table]], keep: str, run_id: str | None = None) -> int:
        """Makes of each of these tables one file: its newest rows for which `keep` (SQL) is true, and the new ones. Needs the lock.

        New rows come in pieces, so that millions need not be held at once; no key may come twice. All tables change
        or none, whatever happens. Returns the commit's number. Raises as `append` does.
        """
        number = self._ready()
        self._next = None
        journal.merge(self.files, number, {name: _merger(self, name, keep, _checked(name, new, run_id, number)) for name, new in rows.items()}, {"run_id": run_id})
        self._next = number + 1
        return number

    # Products and tensors

    def claim(self, product: str, settings: Mapping[str, Any], step: str | None = None) -> str:
        """Writes down what decides a product's bytes, or checks that it is the same as before. Returns its hash.

        `step` names the plug-in, so that its failures can be told from others'; the last one counts. Raises SettingsRefused,
        showing both, when the product was made with other settings.
        """
        path = f"{_tensor_folder(product)}/settings.json"
        digest = settings_sha256(settings)
        record = self._settings_record(product)
        if record is not None and settings_sha256(record["settings"]) != digest:
            raise SettingsRefused(
                f"product {product!r} in {self.shown} was made with other settings ({self.files.address(path)}):\n{_differences(record['settings'], _plain(settings))}\n"
                "Give the product another name or build into another --catalog; to make it anew, remove that folder and build again."
            )
        if record is None or step not in (None, record["step"]):
            text = json.dumps({"product": product, "step": step, "settings_sha256": digest, "settings": _plain(settings)}, indent=1, sort_keys=True)
            self.files.write_bytes(path, text.encode())
        return digest

    def settings(self, product: str) -> dict[str, Any] | None:
        """The settings a product was made with; None when nothing has claimed it."""
        record = self._settings_record(product)
        return None if record is None else record["settings"]

    def products(self) -> dict[str, str | None]:
        """Every product that was claimed, with the step that makes it."""
        found = {}
        for path in self.files.walk("tensors"):
            folder, _, name = path.rpartition("/")
            if name == "settings.json":
                product = unquote(folder.removeprefix("tensors/"))
                record = self._settings_record(product)
                found[product] = record["step"] if record else None
        return found

    def write_tensors(self, product: str, shard: str, part: int, cells: Iterable[tuple[str | None, bytes]]) -> str:
        """Writes a tensor file whole or not at all, over an earlier attempt; row group k holds the k-th cell.

        Returns its path relative to the catalog, for the rows' `file`. Needs no lock.
        """
        path = f"{_tensor_folder(product)}/{quote(shard, safe=' ')}.{part}.parquet"

        def fill(file: BinaryIO) -> None:
            tensors.write_cells(file, cells)

        self.files.write(path, fill)
        return path

    def parts(self, product: str) -> dict[str, int]:
        """The next free part of every shard that has tensor files of a product; others start at 0."""
        free: dict[str, int] = {}
        for name in self.files.names(_tensor_folder(product)):
            if match := _TENSOR_FILE.fullmatch(name):
                shard = unquote(match[1])
                free[shard] = max(free.get(shard, 0), int(match[2]) + 1)
        return free

    def next_part(self, product: str, shard: str) -> int:
        """The next free part of one shard. For many shards ask `parts` once."""
        return self.parts(product).get(shard, 0)

    def read_tensor(self, row: Mapping[str, Any], *, check: bool = False) -> np.ndarray:
        """The tensor that a row of a tensor table points to (see `tensors.unpack` for dtypes).

        `row` needs file, row_group, dtype, shape and clip_id. `check` verifies the page checksums. Raises
        CatalogDamaged when file, row group, clip or number of bytes are not as the row says.
        """
        where = f"{row['file']} row group {row['row_group']} (clip {row['clip_id']})"
        try:
            with self.files.open(str(row["file"])) as source:
                clip, data = tensors.read_cell(source, int(row["row_group"]), check=check)
        except (OSError, RunError, IndexError, pa.ArrowException) as error:
            raise CatalogDamaged(f"{where} in {self.shown} cannot be read: {error}. Look for what else is wrong: vapdata verify --catalog {self.shown}") from error
        if clip != row["clip_id"]:
            raise CatalogDamaged(f"{where} in {self.shown} holds clip {clip}. Look for what else is wrong: vapdata verify --catalog {self.shown}")
        try:
            return tensors.unpack(data, str(row["dtype"]), row["shape"])
        except CatalogDamaged as error:
            raise CatalogDamaged(f"{where} in {self.shown}: {error}") from error

    # Notes on what is being worked on

    def note(self, shard: str, step: str, clip_id: str) -> int:
        """Notes that a step is about to work on a clip. Returns how often it was noted, this time included."""
        return notes.note(self.files, shard, step, clip_id)

    def attempts(self, shard: str, step: str, clip_id: str) -> int:
        """How often a step began on a clip without coming to an end (0: never, or it was cleared)."""
        return notes.attempts(self.files, shard, step, clip_id)

    def clear(self, shard: str, step: str, clip_id: str) -> None:
        """Forgets the note: the step came to an end on this clip, well or not."""
        notes.clear(self.files, shard, step, clip_id)

    def _held(self) -> Lock:
        if self._lock is None:
            raise CallError(f"writing to the catalog {self.shown} needs its lock. Wrap the call: with catalog.lock(command): ...")
        return self._lock

    def _ready(self) -> int:
        """The next commit's number, after making sure that this process still holds the catalog."""
        self._held().check()
        if self._next is None:
            journal.finish(self.files)
            self._next = max(journal.entry_numbers(self.files), default=0) + 1
        return self._next

    def _create(self) -> None:
        foreign = sorted({path.partition("/")[0] for path in self.files.walk("") if not path.endswith(TEMPORARY)} - OURS)
        if foreign:
            raise CallError(f"{self.shown} is not a catalog and not empty: it holds {', '.join(foreign[:3])}. Choose a --catalog that is empty or does not exist yet.")
        self._add_empty_files()
        text = json.dumps({"format_version": FORMAT_VERSION}).encode()
        self.files.write_bytes(MARKER, text)

    def _check_version(self, marker: bytes) -> None:
        try:
            version = int(json.loads(marker)["format_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise CatalogDamaged(f"{self.files.address(MARKER)} is not a catalog's marker: {error!r}. Restore it from a copy, or build into a new --catalog.") from error
        if version > FORMAT_VERSION:
            raise CallError(f"{self.shown} has format version {version}, this vapdata reads up to {FORMAT_VERSION}. Install a newer vapdata.")

    def _add_empty_files(self) -> None:
        for name, table in TABLES.items():
            if not journal.table_files(self.files, name):
                self.files.write(f"{name}/{journal.EMPTY}", _table_writer(table.schema.empty_table()))

    def _remove_strays(self) -> list[str]:
        present = self.files.walk("tensors")
        tables = [path for name in TABLES for path in self.files.walk(name)]
        unfinished = [path for path in (*present, *tables, *self.files.walk(journal.FOLDER)) if path.endswith(TEMPORARY)]
        unfinished += [name for name in self.files.names("") if name.endswith(TEMPORARY) and not name.startswith(f".{LOCK}.")]
        files = [path for path in present if path.endswith(".parquet")]
        strays = sorted(set(files) - self.pointed_to()) if files else []
        for path in (*unfinished, *strays):
            self.files.remove(path)
        return [*unfinished, *strays]

    def pointed_to(self) -> set[str]:
        """Every tensor file that a row points to, superseded rows included: merging drops those."""
        found: set[str] = set()
        for table in TENSOR_TABLES:
            for name in self.table_files(table):
                with self.files.open(f"{table}/{name}") as source:
                    column = pq.ParquetFile(source, read_dictionary=["file"]).read(columns=["file"]).column("file")
                found.update(column.unique().to_pylist())
        return found

    def _hides_rows(self, table: str) -> bool:
        """Whether the view of a table of one file shows fewer rows than the file has."""
        (name,) = self.table_files(table)
        with self.files.open(f"{table}/{name}") as source:
            return self.read(table, ["commit"]).num_rows < pq.ParquetFile(source).metadata.num_rows

    def _settings_record(self, product: str) -> dict[str, Any] | None:
        path = f"{_tensor_folder(product)}/settings.json"
        data = self.files.read(path)
        if data is None:
            return None
        try:
            record = json.loads(data)
            return {"step": record.get("step"), "settings": dict(record["settings"])}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CatalogDamaged(f"{self.files.address(path)} does not hold a product's settings: {error!r}. Remove that folder and build again.") from error


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """Hash of settings, equal for equal settings whatever their order. Raises CallError for what JSON cannot say."""
    return hashlib.sha256(_canonical(_plain(settings)).encode()).hexdigest()


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back: tuples as lists, keys as text."""
    try:
        return dict(json.loads(json.dumps(dict(settings), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise CallError(f"product settings {settings!r:.300} cannot be written as JSON: {error}. Use text, numbers, lists and mappings.") from error


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    lines = []
    for name in sorted({*old, *new}):
        before, now = (json.dumps(side[name], sort_keys=True) if name in side else "absent" for side in (old, new))
        if before != now:
            lines.append(f"  {name}: was {before}, now {now}")
    return "\n".join(lines)


def _tensor_folder(product: str) -> str:
    return f"tensors/{quote(product, safe=' ')}"


def _table_writer(rows: pa.Table) -> journal.Fill:
    def fill(file: BinaryIO) -> None:
        pq.write_table(rows, file, compression="zstd", write_page_checksum=True, row_group_size=MERGED_ROWS)

    return fill


def _merger(catalog: Catalog, table: str, keep: str = "true", added: Iterable[pa.Table] = ()) -> journal.Fill:
    from catalogs.views import connect  # as in Catalog.read

    def fill(file: BinaryIO) -> None:
        order = ", ".join(f'"{name}"' for name in MERGED_ORDER.get(table, TABLES[table].key))
        with contextlib.closing(connect(catalog, [table])) as connection, _table_stream(file, table) as writer:
            for batch in connection.sql(f'select * from "{table}" where {keep} order by {order}').to_arrow_reader(MERGED_ROWS):
                writer.write_table(pa.Table.from_batches([batch]).cast(TABLES[table].schema))
            for rows in added:
                writer.write_table(rows, row_group_size=MERGED_ROWS)

    return fill


def _checked(table: str, added: Iterable[pa.Table], run_id: str | None, commit: int) -> Iterator[pa.Table]:
    return (checked(table, rows, run_id=run_id, commit=commit) for rows in added)


def _table_stream(file: BinaryIO, table: str) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, TABLES[table].schema, compression="zstd", write_page_checksum=True)
