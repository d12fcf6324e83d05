"""The clips that leave a catalog: where each one's video lies, its caption, and the name that its file gets.

Nothing here touches a video: whoever exports brings a `Place`, which puts one clip's video at a path.
Exercised by `pytest tests/catalogs/test_exports.py`.
"""

import contextlib
import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import pyarrow as pa

from catalogs.pairs import contents_sql
from catalogs.queries import connect, selected
from catalogs.store import Catalog

ROLES = ("vap", "long", "source", "short")
"""Which caption goes with a clip: the first of these roles that it has. `source_parent` speaks of a longer video."""

_NOT_PLAIN = re.compile(r"[^\w-]+", re.ASCII)
_LONGEST = 80
_VIDEO_SUFFIX = re.compile(r"\.\w{1,5}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ChosenClip:
    """One clip that is to be written."""

    clip_id: str
    dataset: str
    source: str
    uri: str
    split: str
    caption: str | None
    license: str | None
    start_s: float
    end_s: float
    fps: float
    width: int
    height: int
    folder_fps: float | None
    made: bool
    """Its video lies in the catalog."""
    as_it_is: bool
    """Its video file shows this clip and no more; else the clip is a part of it, or a folder of pictures."""
    content_dataset: str
    content_group: str
    """What no pair may have on both sides (catalogs/pairs.py), in two parts."""

    @property
    def suffix(self) -> str:
        """Of its file: the original's, `.mp4` for what is encoded anew."""
        suffix = os.path.splitext(self.uri)[1].lower()
        return suffix if self.as_it_is and _VIDEO_SUFFIX.fullmatch(suffix) else ".mp4"

    @property
    def plain_name(self) -> str:
        """The clip's id as a file name without suffix: ASCII letters, digits, `_` and `-`; no two clips share one."""
        return f"{_plain(self.clip_id)}-{_digest(self.clip_id)}"


Place = Callable[[ChosenClip, str], None]
"""Puts a clip's video at a path, and makes the folders above it."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a format wrote."""

    wrote: Mapping[str, int]
    """Counts by what was counted, e.g. `videos`."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Counts by reason."""


@runtime_checkable
class Export(Protocol):
    """A format. A frozen dataclass, one file per format."""

    name: ClassVar[str]
    paired: ClassVar[bool]
    """Whether only clips that are in pairs are written."""

    def write(self, catalog: Catalog, clips: Mapping[str, ChosenClip], folder: str, place: Place) -> Written:
        """Writes captioned clips (by id, sorted) into `folder`, which is there and empty."""
        ...


def chosen(catalog: Catalog, where: str | None, *, paired: bool) -> dict[str, ChosenClip]:
    """The clips for which `where` (SQL over clips_wide; None for all) is true, of those in pairs where so wanted, by id, sorted. Raises CallError for a bad predicate."""
    wanted = pa.table({"clip_id": pa.array(selected(catalog, where), pa.string())})
    roles = ", ".join(f"('{role}', {place})" for place, role in enumerate(ROLES))
    among = "clips.clip_id in (select unnest([reference_clip_id, target_clip_id]) from pairs)" if paired else "true"
    with contextlib.closing(connect(catalog)) as con:
        con.register("wanted", wanted)
        rows = con.sql(
            f"""
            with told as (select clip_id, arg_min(text, (rank, captioner)) as caption from captions join (values {roles}) as roles(role, rank) using (role)
                          where trim(text) <> '' group by clip_id)
            select clips.clip_id, videos.dataset, videos.source, videos.uri, clips.split, told.caption, videos.license, clips.start_s, clips.end_s, clips.fps,
                   clips.width, clips.height, videos.folder_fps, videos.parent_clip_id is not null as made,
                   clips.whole and not clips.truncated and videos.start_s is null and videos.end_s is null and videos.folder_fps is null as as_it_is,
                   split_part(contents.content, chr(31), 1) as content_dataset, split_part(contents.content, chr(31), 2) as content_group
            from wanted join clips using (clip_id) join videos using (video_id) left join told using (clip_id)
            join ({contents_sql("clips")}) as contents using (clip_id) where {among} order by clips.clip_id"""
        ).to_arrow_table().to_pylist()
    return {row["clip_id"]: ChosenClip(**row) for row in rows}


def folder_name(text: str) -> str:
    """`text` as a folder's name: as it is when that is plain, else its plain letters and a hash; no two texts share one."""
    return text if _plain(text) == text else f"{_plain(text)}-{_digest(text)}"


def write_csv(path: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    """Writes a CSV file in UTF-8, as pandas and Python read it. Returns the number of rows below the header."""
    count = 0
    with open(path, "w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def write_table(clips: Mapping[str, ChosenClip], folder: str, place: Place, header: tuple[str, str]) -> Written:
    """Puts every video under videos/ and writes `metadata.csv`: a path and a caption per clip, under these two names."""
    paths = {clip.clip_id: f"videos/{clip.plain_name}{clip.suffix}" for clip in clips.values()}
    for clip in clips.values():
        place(clip, os.path.join(folder, paths[clip.clip_id]))
    count = write_csv(os.path.join(folder, "metadata.csv"), header, ((paths[clip.clip_id], clip.caption) for clip in clips.values()))
    return Written(wrote={"videos": count})


def _plain(text: str) -> str:
    """Every run of other characters than ASCII letters, digits, `_` and `-` is one `_`; only the end is kept of a long text."""
    return _NOT_PLAIN.sub("_", text)[-_LONGEST:].lstrip("-") or "_"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
