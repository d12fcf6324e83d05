"""Contents that are the same under two names: copies of a file, made videos with equal frames, listed near-duplicates.

Pairing keeps such contents together, as it keeps the clips of one video together. Exact copies are found here
without decoding: clips of files of equal size, length and shape whose thumbnails are equal byte by byte. The table
`duplicates`, which `vapdata dedup` writes, is believed as it stands.
Exercised by `pytest tests/catalogs/test_duplicates.py`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from catalogs.store import Catalog


def join_duplicates(catalog: Catalog, con: Any, contents: str) -> int:
    """Gives contents that are the same one name, in the temporary table `contents` (clip_id, origin, content).

    The name is the first of theirs in order. Returns how many contents went into another.
    """
    names = _joined([*_listed(con, contents), *_equal_frames(con, contents), *_equal_files(catalog, con, contents)])
    if names:
        con.register("joined_contents", pa.table({"content": list(names), "into_content": list(names.values())}))
        con.execute(f"update {contents} set content = into_content from joined_contents where {contents}.content = joined_contents.content")
        con.unregister("joined_contents")
    return len(names)


def _listed(con: Any, contents: str) -> list[tuple[str, str]]:
    return con.execute(
        f"select distinct a.content, b.content from duplicates as d join {contents} as a on a.clip_id = d.clip_id join {contents} as b on b.clip_id = d.keeper "
        "where a.content <> b.content"
    ).fetchall()


def _equal_frames(con: Any, contents: str) -> list[tuple[str, str]]:
    """Contents of made videos whose decoded frames are equal."""
    return con.execute(
        f"select min(content), unnest(list(distinct content)) from {contents} join clips using (clip_id) join videos using (video_id) "
        "where content_sha256 is not null group by content_sha256 having count(distinct content) > 1"
    ).fetchall()


def _equal_files(catalog: Catalog, con: Any, contents: str) -> Iterator[tuple[str, str]]:
    """Contents of filmed clips that agree in everything that a copy agrees in, their thumbnails included."""
    alike = "bytes, frames, width, height, clips.start_s, clips.end_s"
    con.execute(
        f"""create or replace temp table suspects as
        with seen as (select clip_id, content, {alike} from {contents} join clips using (clip_id) join videos using (video_id) where bytes > 0 and content_sha256 is null),
        several as (select {alike.replace("clips.", "")} from seen group by all having min(content) <> max(content))
        select clip_id, content, concat_ws(' ', {alike.replace("clips.", "")}) as alike from seen semi join several using ({alike.replace("clips.", "")})"""
    )
    rows = con.sql(
        "select suspects.content, alike, frames.* from suspects join frames using (clip_id) where frames.product like 'thumb-%' order by file, row_group"
    ).to_arrow_table()
    seen: dict[tuple[str, str, str], str] = {}
    for batch in rows.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            picture = hashlib.sha256(catalog.read_tensor(row).tobytes()).hexdigest()
            first = seen.setdefault((row["alike"], row["product"], picture), row["content"])
            if first != row["content"]:
                yield first, row["content"]


def _joined(same: Iterable[Sequence[str]]) -> dict[str, str]:
    """content -> the first name of those that it is the same as, for all that have another name than that."""
    near: dict[str, set[str]] = defaultdict(set)
    for one, other in same:
        if one != other:
            near[one].add(other)
            near[other].add(one)
    names: dict[str, str] = {}
    for content in sorted(near):
        reached, ahead = {content}, [content] if content not in names else []
        while ahead:
            new = near[ahead.pop()] - reached
            reached |= new
            ahead += new
        names |= {each: content for each in reached if content not in names}
    return {content: name for content, name in names.items() if content != name}
