"""A table of captions beside a folder of videos. Exercised by `pytest tests/vapdata/sources/test_caption_table.py`."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from vapdata.clip import BadRow, quote
from vapdata.errors import CallError
from vapdata.sources.csv_rows import CsvRows

NAMES = ("captions.csv", "captions.jsonl", "captions.parquet")
"""Read when they lie in the root."""
FILE_COLUMNS = ("file", "video", "path", "name", "file_name")
TEXT_COLUMNS = ("caption", "text")
CHOSEN_TEXT_COLUMNS = (*TEXT_COLUMNS, "description")
"""`description` counts only in a table that was named on purpose: many tables about videos have one."""


@dataclass(frozen=True, kw_only=True)
class CaptionRow:
    """One usable row."""

    where: str
    file: str
    """As the table writes it."""
    text: str | None
    """None for a blank one."""


def read(root: str, path: str, *, chosen: bool) -> Iterator[CaptionRow | BadRow]:
    """The rows of the table at `path` (relative to `root`, or absolute): csv, jsonl or parquet by its suffix.

    `chosen` says that the user named it: then a table that cannot serve raises CallError, else it is one BadRow.
    """
    place = os.path.join(root, path)
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    reader = readers.get(os.path.splitext(path)[1].lower())
    try:
        if reader is None:
            raise _Useless("wanted a .csv, .jsonl or .parquet file")
        if not os.path.isfile(place):
            raise _Useless("there is no such file")
        yield from reader(place, quote(path), CHOSEN_TEXT_COLUMNS if chosen else TEXT_COLUMNS)
    except (_Useless, OSError, pa.ArrowException) as error:
        reason = str(error) if isinstance(error, _Useless) else f"it cannot be read ({type(error).__name__})"
        if chosen:
            raise CallError(f"folder.captions={path!r}: {reason}; type --set folder.captions=FILE, relative to the root") from error
        yield BadRow(where=quote(path), message=f"{quote(path)}: {reason}. Mend or delete it; no captions were taken.")


def _csv(place: str, where: str, texts: tuple[str, ...]) -> Iterator[CaptionRow | BadRow]:
    with open(place, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = CsvRows(lines)
        _, header = next(rows, (1, []))
        file, text = _columns(header, texts)
        read_again_to = 0
        for line, fields in rows:
            if len(fields) == len(header):
                yield from _row(f"{where}:{line}", fields[file], fields[text])
                continue
            if line > read_again_to:
                got = f"{len(fields)} fields" if fields else "a quote that is not closed"
                yield _bad(f"{where}:{line}", f"got {got}, wanted {len(header)} fields")
            read_again_to = max(read_again_to, line + rows.lines - 1)
            rows.give_up()


def _jsonl(place: str, where: str, texts: tuple[str, ...]) -> Iterator[CaptionRow | BadRow]:
    with open(place, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                yield _bad(f"{where}:{number}", "this line is not JSON")
                continue
            if not isinstance(record, dict):
                yield _bad(f"{where}:{number}", f"got {type(record).__name__}, wanted an object")
                continue
            keys = {str(key).strip().lower(): value for key, value in record.items()}
            file = next((keys[name] for name in FILE_COLUMNS if name in keys), None)
            yield from _row(f"{where}:{number}", file, next((keys[name] for name in texts if name in keys), None))


def _parquet(place: str, where: str, texts: tuple[str, ...]) -> Iterator[CaptionRow | BadRow]:
    with pq.ParquetFile(place) as table:
        names = table.schema_arrow.names
        file, text = _columns(names, texts)
        number = 0
        for batch in table.iter_batches(batch_size=10_000, columns=[names[file], names[text]]):
            for record in batch.to_pylist():
                number += 1
                yield from _row(f"{where} row {number}", record[names[file]], record[names[text]])


def _columns(header: list[str], texts: tuple[str, ...]) -> tuple[int, int]:
    names = [name.strip().lower() for name in header]
    file = next((names.index(name) for name in FILE_COLUMNS if name in names), None)
    text = next((names.index(name) for name in texts if name in names), None)
    if file is None or text is None:
        raise _Useless(f"got columns {', '.join(names[:12]) or 'none'}; wanted {' | '.join(FILE_COLUMNS)} and {' | '.join(texts)}")
    return file, text


def _row(where: str, file: object, text: object) -> Iterator[CaptionRow | BadRow]:
    if not isinstance(file, str) or not file.strip():
        yield _bad(where, f"got {type(file).__name__ if file else 'nothing'} for the file's name, wanted text")
    elif text is not None and not isinstance(text, str):
        yield _bad(where, f"got {type(text).__name__} for the caption, wanted text")
    else:
        clean = (text or "").encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\0", "").strip()
        yield CaptionRow(where=where, file=file, text=clean or None)


def _bad(where: str, reason: str) -> BadRow:
    return BadRow(where=where, message=f"{where}: {reason}. Mend or delete the row.")


class _Useless(Exception):
    """The whole table cannot serve."""
