"""What the command line shows: a progress line per stage, tables, files in other formats. Knows no storage.

On a terminal the stages are bars that move; anywhere else they are plain log lines, one per stage every ten
seconds. Exercised by `pytest tests/vapdata/test_screen.py`.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

from vapdata.errors import RunError

if TYPE_CHECKING:
    import pyarrow
    import rich.progress

OURS = ("catalogs", "pipelines", "train", "vapdata")
EVERY_S = 10.0
"""Between two log lines of one stage, where no terminal shows bars."""

log = logging.getLogger("vapdata")


@runtime_checkable
class Show(Protocol):
    """How far each stage is."""

    def __call__(self, total: Mapping[str, int], done: Mapping[str, int], failed: Mapping[str, int]) -> None:
        """Each mapping by stage name: clips in all (scan: videos), done so far, failed so far."""


@contextmanager
def progress(*, terminal: bool | None = None) -> Iterator[Show]:
    """Shows stages until it is left; log lines go above the bars. `terminal` None asks standard error."""
    if sys.stderr.isatty() if terminal is None else terminal:
        with _bars() as bars:
            yield bars
    else:
        lines = Lines()
        with _logged(logging.StreamHandler(), "%(asctime)s %(message)s"):
            yield lines
            lines.close()


class Lines:
    """A log line per stage every `EVERY_S`, when it ends, and whenever asked for the last time."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._said: dict[str, tuple[float, str]] = {}
        self._now: dict[str, tuple[int, int, int]] = {}

    def __call__(self, total: Mapping[str, int], done: Mapping[str, int], failed: Mapping[str, int]) -> None:
        """Takes the counts; says what is due."""
        for stage, count in total.items():
            self._now[stage] = count, done.get(stage, 0), failed.get(stage, 0)
            since, _ = self._said.get(stage, (self._began, ""))
            if self._now[stage][1] >= count or time.monotonic() - since >= EVERY_S:
                self._say(stage)

    def close(self) -> None:
        """Says where each stage ended."""
        for stage in self._now:
            self._say(stage)

    def _say(self, stage: str) -> None:
        total, done, failed = self._now[stage]
        rate = done / max(time.monotonic() - self._began, 1e-3)
        counts = f"{done} of {total}, {failed} failed"
        if self._said.get(stage, (0.0, ""))[1] != counts:
            left = f", {_clock((total - done) / rate)} left" if 0 < done < total else ""
            log.info("%-8s %s, %.1f/s%s", stage, counts, rate, left)
        self._said[stage] = time.monotonic(), counts


class Bars:
    """A bar per stage."""

    def __init__(self, shown: "rich.progress.Progress") -> None:
        self._shown = shown
        self._tasks: dict[str, Any] = {}

    def __call__(self, total: Mapping[str, int], done: Mapping[str, int], failed: Mapping[str, int]) -> None:
        """Takes the counts; moves the bars."""
        for stage, count in total.items():
            if stage not in self._tasks:
                self._tasks[stage] = self._shown.add_task(stage, failed=0, rate=0.0)
            finished = done.get(stage, 0)
            rate = finished / max(self._shown.tasks[0].elapsed or 0.0, 1e-3)
            self._shown.update(self._tasks[stage], total=count, completed=finished, failed=failed.get(stage, 0), rate=rate)


@contextmanager
def _bars() -> Iterator[Bars]:
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description:<8}", "{task.fields[rate]:.1f}/s", "{task.fields[failed]} failed")
    name, rate, failed = (TextColumn(each) for each in columns)
    console = Console(stderr=True)
    shown = Progress(name, BarColumn(), MofNCompleteColumn(), rate, failed, TimeRemainingColumn(), console=console)
    with shown, _logged(RichHandler(console=console, show_path=False, show_level=False), "%(message)s"):
        yield Bars(shown)


@contextmanager
def _logged(handler: logging.Handler, form: str) -> Iterator[None]:
    """Our own loggers say what they do on `handler`, everybody else's only warn."""
    handler.setFormatter(logging.Formatter(form, datefmt="%H:%M:%S"))
    loggers = {name: logging.getLogger(name) for name in OURS}
    levels = {name: logger.level for name, logger in loggers.items()}
    logging.getLogger().addHandler(handler)
    for logger in loggers.values():
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


def print_table(names: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """Prints rows under their names; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, name in enumerate(names):
        numbers = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(_plain(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    # Without a terminal nothing says how wide the page is: wide enough that no cell is cut.
    width = None if sys.stdout.isatty() else 400
    Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=False).print(table)


def print_answer(table: "pyarrow.Table", *, rows: int = 100) -> None:
    """Prints the first `rows` of a query's answer, and how many there are."""
    print_table(table.column_names, [list(row.values()) for row in _unique(table.slice(0, rows)).to_pylist()])
    more = f"; the first {rows} are shown, --format csv or json gives all" if table.num_rows > rows else ""
    print(f"{table.num_rows} row{'' if table.num_rows == 1 else 's'}{more}")


def csv_text(table: "pyarrow.Table") -> Iterator[str]:
    """The answer as CSV lines, names first; lists and structs as JSON."""
    import csv
    import io

    for chunk in [table.column_names, *_cells(table)]:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([_csv_cell(cell) for cell in chunk])
        yield line.getvalue()


def json_text(table: "pyarrow.Table") -> Iterator[str]:
    """The answer as a JSON list, an object per line. What JSON has no word for (NaN, infinities) is null."""
    names = _unique(table).column_names
    yield "["
    for number, row in enumerate(_cells(table)):
        yield (",\n " if number else "") + json.dumps(dict(zip(names, map(_json_cell, row), strict=True)), ensure_ascii=False)
    yield "]\n"


def write_answer(table: "pyarrow.Table", form: str, output: str | None) -> None:
    """Writes the answer in `form` to the file, whole or not at all, or to standard output."""
    if output is None:
        _WRITERS[form](table, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    unfinished = f"{output}.{os.getpid()}.part"
    try:
        with open(unfinished, "wb") as file:
            _WRITERS[form](table, file)
        os.replace(unfinished, output)
    except OSError as error:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise RunError(f"--output {output}: {error.strerror or error}; name a file that can be written") from error


def _write_parquet(table: "pyarrow.Table", file: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, file, compression="zstd")


def _write_csv(table: "pyarrow.Table", file: IO[bytes]) -> None:
    file.writelines(line.encode("utf-8", "backslashreplace") for line in csv_text(table))


def _write_json(table: "pyarrow.Table", file: IO[bytes]) -> None:
    file.writelines(line.encode("utf-8", "backslashreplace") for line in json_text(table))


_WRITERS: dict[str, Callable[["pyarrow.Table", IO[bytes]], None]] = {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}


def _cells(table: "pyarrow.Table") -> Iterator[list[Any]]:
    for batch in _unique(table).to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            yield list(row.values())


def _unique(table: "pyarrow.Table") -> "pyarrow.Table":
    """`select a, a` has two columns of one name, which a dict cannot hold."""
    seen: dict[str, int] = {}
    names = []
    for name in table.column_names:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return table.rename_columns(names)


def _plain(cell: Any) -> str:
    """One cell as text without control characters: a file name may hold an escape sequence."""
    if cell is None:
        return ""
    text = f"{cell:.6g}" if isinstance(cell, float) else str(cell)
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _csv_cell(cell: Any) -> Any:
    return json.dumps(_json_cell(cell), ensure_ascii=False) if isinstance(cell, list | dict) else cell


def _json_cell(cell: Any) -> Any:
    if isinstance(cell, dict):
        return {str(name): _json_cell(each) for name, each in cell.items()}
    if isinstance(cell, list | tuple):
        return [_json_cell(each) for each in cell]
    if isinstance(cell, float):
        return cell if abs(cell) < float("inf") else None
    if isinstance(cell, bytes):
        return cell.hex()
    return cell if cell is None or isinstance(cell, bool | int | str) else str(cell)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
