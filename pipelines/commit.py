"""What comes out of the stages, into the catalog: gathered, and committed now and then. One committer per run.

Exercised by `pytest tests/pipelines/test_build.py` and `test_kill.py`.
"""

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.record import Record, merge_rows
from vapdata.errors import CallError, RunError

COMMIT_EVERY_S = 30.0
COMMIT_FIRST_S = 2.0
COMMIT_EVERY_ROWS = 20_000
"""A young run commits often (a quarter of its age apart), so that a kill in its first minutes loses little."""

log = logging.getLogger(__name__)


class Committer:
    """Takes records as they come out of the stages; commits their rows and keeps what the summary needs."""

    def __init__(self, catalog: Catalog, run_id: str) -> None:
        self.catalog, self.run_id = catalog, run_id
        self.records: list[Record] = []
        """Every record that came out, without its rows."""
        self._attempts = _attempts_so_far(catalog)

    def consume(self, records: Iterable[Record]) -> None:
        """Commits what the records bring, the last of it even when the iteration raises.

        Raises RunError when the disk is full, CallError when a step said that no clip can succeed.
        """
        gathered = _Gathered()
        try:
            for record in records:
                if record.fatal:
                    raise RunError(f"shard {record.shard} could not be written. {record.stopped}")
                if record.refused:
                    merge_rows(record.rows, gathered.rows)
                    raise CallError(record.refused)
                if record.stopped:
                    log.warning("shard %s is left for the next run: %s", record.shard, record.stopped)
                merge_rows(record.rows, gathered.rows)
                self._keep(record)
                if gathered.due():
                    self._commit(gathered)
        finally:
            self._commit(gathered)

    def _keep(self, record: Record) -> None:
        for held in (record.rows, record.fresh, record.chosen, record.todo, record.work.videos, record.work.looks):
            held.clear()
        self.records.append(record)

    def _commit(self, gathered: "_Gathered") -> None:
        rows = gathered.take()
        for row in rows.get("failures", ()):
            row["attempts"] += self._attempts.get((row["video_id"], row["clip_id"], row["step"]), 0)
        if rows:
            self.catalog.append(rows, run_id=self.run_id)


class _Gathered:
    """What has come out of the stages since the last commit."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._began = self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to commit."""
        count = sum(len(rows) for rows in self.rows.values())
        now = time.monotonic()
        apart = min(COMMIT_EVERY_S, max(COMMIT_FIRST_S, (now - self._began) / 4))
        return bool(count) and (count >= COMMIT_EVERY_ROWS or now - self._last >= apart)

    def take(self) -> dict[str, list[dict[str, Any]]]:
        """The rows, by table; none are left."""
        rows, self.rows = {table: rows for table, rows in self.rows.items() if rows}, defaultdict(list)
        self._last = time.monotonic()
        return rows


def _attempts_so_far(catalog: Catalog) -> dict[tuple[str | None, str | None, str], int]:
    with contextlib.closing(connect(catalog)) as con:
        rows = con.execute("select video_id, clip_id, step, attempts from failures where not permanent and step <> 'plan'").fetchall()
    return {(video, clip, step): attempts for video, clip, step, attempts in rows}
