"""OpenVid-1M and OpenVidHD on disk. Exercised by `pytest tests/vapdata/sources/test_openvid.py`."""

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from vapdata.clip import BadRow, Video, quote, video_id
from vapdata.errors import CallError
from vapdata.sources.csv_rows import CsvRows
from vapdata.sources.tree import Entry, is_video_name, walk

COLUMNS = (
    "video",
    "caption",
    "aesthetic score",
    "motion score",
    "temporal consistency score",
    "camera motion",
    "frame",
    "fps",
    "seconds",
)
"""The header of both files, spaces included."""
NUMBERS = {
    "aesthetic score": "openvid_aesthetic",
    "motion score": "openvid_motion",
    "temporal consistency score": "openvid_temporal_consistency",
}
CAMERA = "openvid_camera_motion"
LONGEST_NAME = 255
"""Bytes of a file name; a longer one has swallowed its row."""

_GROUP = re.compile(r"(?P<group>.+?)(?:_\d+)?_\d+to\d+|(?P<celebv>celebv_.+)_\d+", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]")
_SWALLOWED = re.compile(r"\n[^,\n]{1,255}\.\w{2,4},")
_LABELS = re.compile(r"[,;|/+&]|\band\b")

logger = logging.getLogger(__name__)

Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class OpenVid:
    """OpenVid-1M (and its HD subset), as its download lies on disk.

    What: one video per file name that the CSVs or the folder know: rows without a file are listed, files without a
        row too (without caption). Of several rows with one name the first counts, and later ones fill what it leaves empty.
    Reads: `data/train/*.csv` (or `*.csv` in the root), `OpenVidHD` after `OpenVid-1M`; `video/**` (or videos in the root).
    Writes: `videos`; the dataset's scores as `openvid_aesthetic`, `openvid_motion`, `openvid_temporal_consistency` and
        the labels `openvid_camera_motion` (free text, split at , ; | / + & and "and"). `split_group` is the YouTube id.
    Default: root `data/openvid`.
    Cost: about 25 s for a million rows, and the memory of their names and of the rows that leave something empty.
    Fails when: the root holds neither table nor video (CallError). A malformed row is a BadRow with file and line;
        repeated header lines and blank lines are passed over.
    Source: Nan et al., "OpenVid-1M", ICLR 2025; the column names as in the published CSVs.
    """

    name: ClassVar[str] = "openvid"
    root: str = "data/openvid"
    dataset: str = "openvid"

    def list(self) -> Iterator[Video | BadRow]:
        """Every row's video and every file's, each once. Raises CallError when `root` is no such dataset."""
        files, places, tables = _tree(self.root)
        listing = _Listing(self.dataset, files, places)
        if not tables and not files:
            raise CallError(
                f"--root {self.root!r} holds no OpenVid: found no data/train/*.csv and no video; "
                "wanted data/train/OpenVid-1M.csv and video/*.mp4. Type --root with the folder that holds them"
            )
        for table in tables:
            yield from listing.table(self.root, table)
        yield from listing.rest()

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of the files that are there."""
        return {quote(path): size for path, size in _tree(self.root)[0].items()}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """Three numbers and a label."""
        return {**dict.fromkeys(NUMBERS.values(), "value"), CAMERA: "label"}


@dataclass
class _Listing:
    """What has been listed so far."""

    dataset: str
    files: Mapping[str, int]
    places: Mapping[str, str]
    seen: set[str] = field(default_factory=set)
    partial: dict[str, Video] = field(default_factory=dict)
    """Rows that leave something empty, kept back until every table was read."""

    def table(self, root: str, path: str) -> Iterator[Video | BadRow]:
        """The videos that are complete after this table, and its bad rows."""
        where = quote(path)
        with open(os.path.join(root, path), encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            rows = CsvRows(lines)
            header: list[str] | None = None
            read_again_to = 0  # the last line of a record given up: its pieces are bad too, and said to be already
            for line, fields in rows:
                named = _header(fields)
                if named:
                    header = named
                    continue
                if header is None and len(fields) != len(COLUMNS):
                    logger.warning("%s: ignored, it has no columns video and caption", where)
                    return
                header = header or list(COLUMNS)
                bad = _malformed(fields, header)
                if bad:
                    if line > read_again_to:
                        yield BadRow(where=f"{where}:{line}", message=f"{where}:{line}: {bad}. Mend or delete the row.")
                    read_again_to = max(read_again_to, line + rows.lines - 1)
                    rows.give_up()
                    continue
                yield from self._row(dict(zip(header, fields, strict=True)), f"{where}:{line}")

    def rest(self) -> Iterator[Video]:
        """The videos that stayed incomplete, and the files that no row names."""
        yield from self.partial.values()
        self.partial = {}
        for path in self.files:
            name = path.rpartition("/")[2]
            if name not in self.seen:
                self.seen.add(name)
                yield self._video(name)

    def _row(self, row: Row, where: str) -> Iterator[Video | BadRow]:
        name = row["video"].strip()
        if name in self.seen and name not in self.partial:
            return
        scores, bad = _scores(row)
        for message in bad:
            yield BadRow(where=where, message=f"{where}: {message}. Mend the field; the video is listed without it.")
        self.seen.add(name)
        video = self._video(name, caption=_text(row["caption"]), seconds=_seconds(row), scores=scores)
        earlier = self.partial.pop(name, None)
        if earlier is not None:
            video = replace(
                earlier,
                caption=earlier.caption or video.caption,
                seconds=earlier.seconds or video.seconds,
                scores={**video.scores, **earlier.scores},
            )
        if video.caption and len(video.scores) > len(NUMBERS):
            yield video
        else:
            self.partial[name] = video

    def _video(
        self,
        name: str,
        *,
        caption: str | None = None,
        seconds: float | None = None,
        scores: Mapping[str, float | str | tuple[str, ...]] | None = None,
    ) -> Video:
        path = self.places.get(name, f"video/{name}")
        return Video(
            video_id=video_id(self.dataset, name),
            dataset=self.dataset,
            name=quote(name),
            uri=quote(path),
            split_group=split_group(name),
            caption=caption,
            seconds=seconds,
            bytes=self.files.get(path),
            scores=scores or {},
        )


def split_group(name: str) -> str:
    """The YouTube id in `<id>_<clip>_<start>to<end>.mp4`, read from the right since ids hold `_` and `-` too.

    Names of other kinds lose `_<start>to<end>` or, after `celebv_`, their number; the rest stay whole.
    """
    stem = os.path.splitext(name)[0]
    match = _GROUP.fullmatch(stem)
    return quote(match["group"] or match["celebv"]) if match else quote(stem)


def _tree(root: str) -> tuple[dict[str, int], dict[str, str], list[str]]:
    """(video path -> bytes, file name -> its first path, paths of the tables in reading order)."""
    files: dict[str, int] = {}
    places: dict[str, str] = {}
    tables: list[str] = []
    for entry in walk(root):
        folder, _, base = entry.path.rpartition("/")
        if _is_video(entry):
            files[entry.path] = entry.bytes
            places.setdefault(base, entry.path)
        elif entry.kind == "file" and folder in ("", "data/train") and base.lower().endswith(".csv"):
            tables.append(entry.path)
    return files, places, sorted(tables, key=lambda path: ("hd" in os.path.basename(path).lower(), path))


def _is_video(entry: Entry) -> bool:
    return entry.kind == "file" and is_video_name(entry.path)


def _header(fields: list[str]) -> list[str] | None:
    """The column names, when these fields are a header line (the first, or one repeated further down)."""
    if not any(len(name) < 12 and name.strip().lower() == "video" for name in fields):
        return None
    named = [name.strip().lower() for name in fields]
    return named if "caption" in named else None


def _malformed(fields: list[str], header: list[str]) -> str | None:
    if not fields:
        return "the record does not end; a quote is not closed"
    if len(fields) != len(header):
        return f"{len(fields)} fields, wanted {len(header)}"
    name = fields[header.index("video")].strip()
    if not name:
        return "column video is empty"
    if len(os.fsencode(name)) > LONGEST_NAME or _CONTROL.search(name):
        return f"column video: {len(name)} characters, it has swallowed its row"
    if _SWALLOWED.search(fields[header.index("caption")]):
        return "column caption holds another row; its quote is not closed"
    if "/" in name or name in (".", ".."):
        return f"column video: {quote(name)} names a folder, wanted a file name"
    return None


def _scores(row: Row) -> tuple[dict[str, float | str | tuple[str, ...]], list[str]]:
    """(the dataset's scores that are there, what is wrong with the others)."""
    scores: dict[str, float | str | tuple[str, ...]] = {}
    bad = []
    for column, score in NUMBERS.items():
        text = row.get(column, "").strip()
        number = _number(text)
        if number is not None:
            scores[score] = number
        elif text and text.lower() not in ("nan", "none", "null"):
            bad.append(f"column {column!r}: got {quote(text[:40])!r}, wanted a number")
    labels = tuple(dict.fromkeys(part.strip() for part in _LABELS.split(row.get("camera motion", "")) if part.strip()))
    if labels:
        scores[CAMERA] = tuple(_text(label) or "" for label in labels)
    return scores, bad


def _seconds(row: Row) -> float | None:
    stated = _number(row.get("seconds", ""))
    if stated is not None and stated > 0:
        return stated
    frames, fps = _number(row.get("frame", "")), _number(row.get("fps", ""))
    return frames / fps if frames and fps and frames > 0 and fps > 0 else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(text: str) -> str | None:
    """None for a blank one; bytes that are not UTF-8 become the replacement character."""
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "").strip()
    return clean or None
