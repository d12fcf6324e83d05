"""Another chance for what has failed for good. Exercised by `pytest tests/pipelines/test_retry.py`."""

import contextlib
import uuid

from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.work import MAX_ATTEMPTS


def retry(catalog: Catalog, *, step: str | None = None, clip: str | None = None, command: str = "vapdata retry") -> int:
    """Lets the next build try again: permanent failures, and those out of attempts, of `step` and `clip` if given.

    `clip` may be a clip's or a video's id; a `step` without variant is every encoder of that name. The old row is superseded by one with no attempts; nothing is removed.
    Returns how many.
    """
    with catalog.lock(command), contextlib.closing(connect(catalog)) as con:
        catalog.recover()
        rows = con.sql(
            """
            select shard, video_id, clip_id, step, error, message, 0 as attempts, false as permanent from failures
            where step <> 'plan' and (permanent or attempts >= $attempts)
              and coalesce($step, step) in (step, split_part(step, '-', 1)) and ($clip is null or clip_id = $clip or video_id = $clip)
            """,
            params={"attempts": MAX_ATTEMPTS, "step": step, "clip": clip},
        ).to_arrow_table()
        if rows.num_rows:
            catalog.append({"failures": rows}, run_id=f"retry-{uuid.uuid4().hex[:8]}")
        return rows.num_rows
