"""Planning: what a source lists, against what the catalog knows, becomes `videos` rows in shards.

A shard's membership never changes. What arrives later (another part of a dataset, a new file) is planned on the
run that finds it, as shards of its own; a row whose file is absent is a `failures` row until then. All set logic
is DuckDB over Arrow, so a million rows need no million Python objects at once.
Exercised by `pytest tests/pipelines/test_plan.py`.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.record import caption_row, failure_row
from vapdata.clip import BadRow, Caption, Video, quote, split_of
from vapdata.errors import CallError
from vapdata.step import Source

MAX_VIDEOS = 64
MAX_SECONDS = 20 * 60.0
MAX_TENSOR_BYTES = 256 * 2**20
"""A shard ends at whichever comes first."""

FEWEST_SHARDS = 32
"""A small dataset gets smaller shards, so that stages overlap and every worker has something to do."""

_CHUNK = 20_000
_PLANNED = ("video_id", "dataset", "source", "name", "uri", "label", "license", "split", "split_group", "caption", "source_scores")
_LISTING = pa.schema(
    [
        *((name, pa.string()) for name in _PLANNED),
        *((name, pa.float64()) for name in ("start_s", "end_s", "folder_fps", "seconds")),
        ("bytes", pa.int64()),
        ("present", pa.bool_()),
        ("position", pa.int64()),
    ]
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What planning found. listed = present + absent; rows that name no usable video are apart, as malformed."""

    listed: int
    present: int
    absent: int
    malformed: int
    new_videos: int
    new_shards: int
    new_captions: int
    first: tuple[str, ...] | None = None
    """With `--limit`: the only videos this run works on."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source lists, before any catalog is opened."""

    rows: pa.Table
    bad: tuple[BadRow, ...]


def listing_of(source: Source) -> Listing:
    """Everything that `source` names. Raises CallError when the root is no such dataset, or an empty one."""
    present = source.present()
    bad: list[BadRow] = []
    rows = _rows(source, present, bad)
    chunks = []
    while chunk := list(islice(rows, _CHUNK)):
        chunks.append(pa.RecordBatch.from_pylist(chunk, schema=_LISTING))
    if not chunks:
        raise CallError(f"{source.root}: source {source.name} names no video there; check --root, or see: vapdata explain {source.name}")
    return Listing(rows=pa.Table.from_batches(chunks, schema=_LISTING), bad=tuple(bad))


def plan(catalog: Catalog, source: Source, listing: Listing, *, run_id: str, limit: int | None, tensor_bytes: int) -> Plan:
    """Reconciles `listing` with `catalog`; appends new videos, changed captions and what could not be planned.

    `tensor_bytes` is what one clip of the recipe is expected to write. Raises CallError for a second root under a
    name that stands for other files, and for a video whose split is another one now.
    """
    bad = listing.bad
    con = connect(catalog)
    con.register("raw_listing", listing.rows)
    con.execute(
        "create temp table listing as select * exclude (n) from "
        "(select *, row_number() over (partition by video_id order by position) as n from raw_listing) where n = 1"
    )
    con.unregister("raw_listing")
    listed, present = con.execute("select count(*), count(*) filter (present) from listing").fetchone()
    _refuse_other_root(con, source)
    _refuse_other_split(con, source)
    first = _first(con, limit)
    new_videos, new_shards = _append_new(con, catalog, source, run_id, limit, tensor_bytes)
    new_captions = _append_changed_captions(con, catalog, run_id)
    _append_unplanned(con, catalog, source, bad, run_id)
    con.close()
    return Plan(
        listed=listed,
        present=present,
        absent=listed - present,
        malformed=len(bad),
        new_videos=new_videos,
        new_shards=new_shards,
        new_captions=new_captions,
        first=first,
    )


def _rows(source: Source, present: Mapping[str, int], bad: list[BadRow]) -> Iterator[dict[str, Any]]:
    for position, found in enumerate(source.list()):
        if isinstance(found, BadRow):
            bad.append(found)
            continue
        yield _row(source, found, present.get(found.uri), position)


def _row(source: Source, video: Video, size: int | None, position: int) -> dict[str, Any]:
    return {
        "video_id": video.video_id,
        "dataset": video.dataset,
        "source": source.name,
        "name": video.name,
        "uri": video.uri,
        "label": video.label,
        "license": video.license,
        "split": video.split or split_of(video.split_group),
        "split_group": video.split_group,
        "caption": video.caption,
        "source_scores": json.dumps(dict(video.scores), sort_keys=True, ensure_ascii=False) if video.scores else None,
        "start_s": video.start_s,
        "end_s": video.end_s,
        "folder_fps": video.folder_fps,
        "seconds": video.seconds,
        "bytes": size,
        "present": size is not None,
        "position": position,
    }


def _refuse_other_root(con: Any, source: Source) -> None:
    known = con.execute("select count(*) from videos where dataset = ?", [source.dataset]).fetchone()[0]
    if not known:
        return
    shared = con.execute("select count(*) from videos v join listing l using (video_id) where v.dataset = ?", [source.dataset]).fetchone()[0]
    if not shared:
        raise CallError(
            f"{source.root}: the name {source.dataset!r} stands for {known} other videos in this catalog, none of which is listed here; "
            "give this root a name of its own: --name NAME"
        )
    other = con.execute(
        "select l.video_id, v.bytes, l.bytes from listing l join videos v using (video_id) join clips c using (video_id) "
        "where v.bytes <> l.bytes and not c.truncated order by 1 limit 1"
    ).fetchone()
    if other:
        raise CallError(
            f"{source.root}: {other[0]} has {other[2]} bytes here, the file this catalog was built from had {other[1]}; "
            "give this root a name of its own (--name NAME), or build a new catalog from the new files (--catalog PATH)"
        )
    other = con.execute(
        "select l.video_id, v.folder_fps, l.folder_fps from listing l join videos v using (video_id) "
        "where v.folder_fps <> l.folder_fps order by 1 limit 1"
    ).fetchone()
    if other:
        raise CallError(
            f"{source.root}: the frames of {other[0]} are shown at {other[2]:g} fps here, this catalog was built with {other[1]:g}; "
            "set the rate back, give this root a name of its own (--name NAME), or build a new catalog (--catalog PATH)"
        )


def _refuse_other_split(con: Any, source: Source) -> None:
    """A split is part of what a catalog promises: what was trained on it must not meet its validation clips later."""
    other = con.execute(
        "select l.video_id, v.split, l.split, v.split_group, l.split_group from listing l join videos v using (video_id) "
        "where v.split <> l.split or v.split_group <> l.split_group order by 1 limit 1"
    ).fetchone()
    if other:
        raise CallError(
            f"{source.root}: {other[0]} is in {other[2]} here (group {other[4]}), this catalog was built with {other[1]} (group {other[3]}); "
            "set back what decides it (a list of splits, labels that have come since), "
            "give this root a name of its own (--name NAME), or build a new catalog (--catalog PATH)"
        )


def _first(con: Any, limit: int | None) -> tuple[str, ...] | None:
    if limit is None:
        return None
    rows = con.execute("select video_id from listing where present order by video_id limit ?", [limit]).fetchall()
    return tuple(row[0] for row in rows)


def _append_new(con: Any, catalog: Catalog, source: Source, run_id: str, limit: int | None, tensor_bytes: int) -> tuple[int, int]:
    columns = ", ".join(name for name in _LISTING.names if name not in ("present", "position"))
    con.execute(
        f"create temp table fresh as select {columns}, row_number() over (order by video_id) - 1 as i from "
        "(select * from listing where present order by video_id limit ?) where video_id not in (select video_id from videos)",
        [limit if limit is not None else 2**62],
    )
    sizes = [row[0] for row in con.execute("select seconds from fresh order by i").fetchall()]
    shards = shard_names(_prefix(source.dataset), _next_shard(con, source.dataset), sizes, tensor_bytes)
    con.register("shard_names", pa.table({"i": pa.array(range(len(shards)), pa.int64()), "shard": pa.array(shards, pa.string())}))
    reader = con.sql("select f.* exclude (i), s.shard from fresh f join shard_names s using (i) order by f.i").to_arrow_reader(_CHUNK * 5)
    for batch in reader:
        catalog.append({"videos": pa.Table.from_batches([batch])}, run_id=run_id)
    _append_resized(con, catalog, run_id, columns)
    return len(shards), len(set(shards))


def _append_resized(con: Any, catalog: Catalog, run_id: str, columns: str) -> None:
    """Files that changed size since (a download that went on) get their new size; what failed to scan is tried again.

    One that gave a clip before it broke off keeps that clip: the failure row says how to have it whole.
    """
    changed = con.sql(
        f"select {', '.join('l.' + name for name in columns.split(', '))}, v.shard, "
        "v.bytes as old_bytes, exists (select 1 from clips c where c.video_id = v.video_id) as scanned "
        "from listing l join videos v using (video_id) where l.bytes <> v.bytes"
    ).to_arrow_table()
    if not changed.num_rows:
        return
    failures = [
        _unplanned(
            row["video_id"],
            "FileChanged",
            f"{row['uri']}: {row['old_bytes']} bytes when its good part was scanned, {row['bytes']} now; "
            "its clip stays as it was, build a new catalog (--catalog PATH) to have all of it",
        )
        for row in changed.filter(changed["scanned"]).to_pylist()
    ]
    catalog.append({"videos": changed.drop_columns(["old_bytes", "scanned"]), "failures": failures}, run_id=run_id)


def _prefix(dataset: str) -> str:
    return quote(dataset).replace("/", "-")


def _next_shard(con: Any, dataset: str) -> int:
    names = con.execute("select distinct shard from videos where dataset = ?", [dataset]).fetchall()
    return max((int(name.rpartition("-")[2]) + 1 for (name,) in names), default=0)


def shard_names(prefix: str, number: int, seconds: Sequence[float | None], tensor_bytes: int) -> list[str]:
    """The shard name of each new video, in order."""
    names: list[str] = []
    videos = length = size = 0.0
    most = min(MAX_VIDEOS, max(1, -(-len(seconds) // FEWEST_SHARDS)))
    for value in seconds:
        own = 0.0 if value is None else value
        if videos and (videos >= most or length + own > MAX_SECONDS or size + tensor_bytes > MAX_TENSOR_BYTES):
            number, videos, length, size = number + 1, 0.0, 0.0, 0.0
        videos, length, size = videos + 1, length + own, size + tensor_bytes
        names.append(f"{prefix}-{number:06d}")
    return names


def _append_changed_captions(con: Any, catalog: Catalog, run_id: str) -> int:
    """A dataset's text that changed since: the new row of `videos`, and of `captions` for each clip there is."""
    changed = con.sql(
        "select v.* exclude (run_id, commit, created_at) replace (l.caption as caption) "
        "from videos v join listing l using (video_id) where coalesce(l.caption, '') is distinct from coalesce(v.caption, '')"
    ).to_arrow_table()
    if not changed.num_rows:
        return 0
    con.register("changed", changed)
    clips = con.execute("select c.clip_id, c.shard, c.whole, v.caption from clips c join changed v using (video_id)").fetchall()
    captions = [_told_by_source(*clip) for clip in clips]
    catalog.append({"videos": changed, "captions": captions}, run_id=run_id)
    return len(captions)


def _told_by_source(clip_id: str, shard: str, whole: bool, text: str | None) -> dict[str, Any]:
    return caption_row(clip_id, Caption(text=text or "", captioner="source", role="source" if whole else "source_parent"), shard)


def _append_unplanned(con: Any, catalog: Catalog, source: Source, bad: Sequence[BadRow], run_id: str) -> None:
    absent = con.execute("select video_id, uri from listing where not present and video_id not in (select video_id from videos)").fetchall()
    rows = [_unplanned(video_id, "NoFile", f"{uri}: the dataset names this file, it is not under the root; get it and build again") for video_id, uri in absent]
    rows += [_unplanned(row.video_id or f"{source.dataset}/{row.where}", row.error, _told(row), permanent=row.permanent) for row in bad]
    known = {tuple(row) for row in con.execute("select video_id, message from failures where step = 'plan'").fetchall()}
    fresh = {(row["video_id"], row["message"]): row for row in rows if (row["video_id"], row["message"]) not in known}
    for row in bad:
        log.info("%s: %s", row.where, row.message)
    if fresh:
        catalog.append({"failures": list(fresh.values())}, run_id=run_id)


def _told(row: BadRow) -> str:
    return row.message if row.where in row.message else f"{row.where}: {row.message}"


def _unplanned(video_id: str, error: str, message: str, *, permanent: bool = False) -> dict[str, Any]:
    return failure_row(step="plan", video_id=video_id, error=error, message=message, permanent=permanent)
