"""Records of a large, partly broken CSV file, each with the physical line it starts at.

Python's own parser reads the records. What it cannot know is that a stray quote has swallowed the lines after it:
a record that grows past all sense, or that the caller refuses, is given up at its first line and reading goes on with
the next one. Exercised by `pytest tests/vapdata/sources/test_csv_rows.py`.
"""

import csv
from collections import deque
from collections.abc import Iterable, Iterator

MAX_LINES = 400
"""A record of more physical lines has lost its closing quote."""
MAX_CHARACTERS = 1_000_000
"""So has one of more characters."""

csv.field_size_limit(2 * MAX_CHARACTERS)  # Python's own limit is 131,072: long captions pass it


class CsvRows:
    """Iterates over (line of the first character, counted from 1; fields). Blank lines are passed over.

    `lines` are physical lines with their ends, as `open(path, newline="")` gives them. For a record that makes no
    sense the caller says `give_up()` before the next one: it is read again from its second line on, and a record of
    one line is simply over.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._source = iter(lines)
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._line = 1
        self._extent = 0
        self._reader = csv.reader(self._feed())

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        return self

    def __next__(self) -> tuple[int, list[str]]:
        """The next record; fields are empty for one that never ends. Raises StopIteration at the end."""
        while True:
            self._line += len(self._taken)
            self._taken.clear()
            try:
                fields = next(self._reader)
            except (_Runaway, csv.Error):
                self._extent = 1  # how far it should have gone is not known
                self.give_up()
                return self._line, []
            self._extent = len(self._taken)
            if fields:
                return self._line, fields

    @property
    def lines(self) -> int:
        """Physical lines of the record given last."""
        return self._extent

    def give_up(self) -> None:
        """Reads the record given last again, from its second line on."""
        self._again.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]
        self._reader = csv.reader(self._feed())

    def _feed(self) -> Iterator[str]:
        characters = 0
        while True:
            line = self._again.popleft() if self._again else next(self._source, None)
            if line is None:
                return
            if not self._taken:
                characters = 0
            characters += len(line)
            self._taken.append(line)
            if len(self._taken) > MAX_LINES or characters > MAX_CHARACTERS:
                raise _Runaway
            yield line


class _Runaway(Exception):
    """The record under way has no end."""
