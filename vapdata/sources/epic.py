"""Epic-Kitchens-100 on disk. Exercised by `pytest tests/vapdata/sources/test_epic.py`."""

import ast
import csv
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vapdata.clip import BadRow, Video, quote, video_id
from vapdata.errors import CallError
from vapdata.sources.csv_rows import CsvRows
from vapdata.sources.footage import Footage, Found, Prefer, find

SPLITS = ("train", "validation", "test")
NEEDED = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame")
RATES = (24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48000 / 1001, 48.0, 50.0, 60000 / 1001, 60.0, 90.0)
"""Rates that frames may have been taken out at; which one, the annotation's own numbers tell."""
INFO = "EPIC_100_video_info.csv"

_VIDEO = re.compile(r"P\d+_\d+")
_TABLE = re.compile(r"EPIC_100_(?:(?P<split>train|validation|test)(?:_timestamps)?|video_info)\.csv")
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")

Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Epic:
    """Epic-Kitchens-100: narrated spans of long kitchen videos.

    What: one video per narration, a span of a video file by its timestamps, or of a frame folder by its frame numbers
        (`start_frame` to `stop_frame`, counted from 1, both shown). Frame folders are shown at the rate that the
        annotation was made for: the one that turns its timestamps into its frame numbers (60 for P01_11, a video of
        59.94 fps whose frames were taken out at 60).
    Reads: `EPIC_100_{train,validation,test*}.csv` anywhere in the root but in frame folders; `<video_id>.MP4` (any
        video suffix) or a folder `<video_id>` of frames anywhere, e.g. `P01/rgb_frames/P01_01/frame_0000000001.jpg`;
        `EPIC_100_video_info.csv` where there is one.
    Writes: `videos`: `caption` the narration, `label` verb and noun; scores `epic_verb_class` and `epic_noun_class`,
        labels `epic_verb`, `epic_noun`, `epic_participant`, and `epic_all_noun` where there are several. `split_group`
        is the long video.
    Default: root `data/epic`; videos rather than frames where there are both.
    Cost: one walk over the tree, twice; for frame folders about 14 s per million frames.
    Fails when: the root holds no such table (CallError). A malformed row is a BadRow with file and line.
    Source: Damen et al., "Rescaling Egocentric Vision", IJCV 2022; columns as in the published CSVs.
    """

    name: ClassVar[str] = "epic"
    root: str = "data/epic"
    dataset: str = "epic"
    prefer: Prefer = "videos"

    def list(self) -> Iterator[Video | BadRow]:
        """Every narration. Raises CallError when `root` holds no annotation table."""
        found = find(self.root, _VIDEO, _TABLE)
        tables = _annotations(found.tables)
        if not tables:
            raise CallError(f"--root {self.root!r} holds no Epic-Kitchens: wanted EPIC_100_train.csv or EPIC_100_validation.csv. Type --root with the folder that holds them")
        rows = [(where, split, row) for path, split in tables for where, row in _rows(self.root, path)]
        rates = _rates([row for _, _, row in rows if isinstance(row, dict)], _stated(self.root, found.tables))
        for where, split, row in rows:
            yield row if isinstance(row, BadRow) else self._video(where, split, row, found, rates)

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of the files and frame folders that are there."""
        return find(self.root, _VIDEO).present()

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """Class numbers, and what was done to what by whom."""
        values = dict.fromkeys(("epic_verb_class", "epic_noun_class"), "value")
        return {**values, **dict.fromkeys(("epic_verb", "epic_noun", "epic_all_noun", "epic_participant"), "label")}

    def _video(self, where: str, split: str, row: Row, found: Found, rates: Mapping[str, float]) -> Video | BadRow:
        name, long_video = row["narration_id"].strip(), row["video_id"].strip()
        missing = Footage(uri=quote(f"{row['participant_id'].strip()}/videos/{long_video}.MP4"), bytes=0)
        footage = found.of(long_video, self.prefer) or missing
        rate = rates.get(long_video)
        span = _span(row, footage, rate)
        if not name or isinstance(span, str):
            said = span if isinstance(span, str) else "column narration_id is empty"
            named = video_id(self.dataset, name) if name else None
            return BadRow(where=where, message=f"{where}: {said}. Mend or delete the row.", video_id=named)
        return Video(
            video_id=video_id(self.dataset, name),
            dataset=self.dataset,
            name=quote(name),
            uri=footage.uri,
            split_group=quote(long_video),
            caption=row.get("narration", "").strip() or None,
            label=" ".join(filter(None, (row.get("verb", "").strip(), row.get("noun", "").strip()))) or None,
            license="CC BY-NC 4.0",
            split=split,
            start_s=span[0],
            end_s=span[1],
            folder_fps=rate if footage.frames else None,
            seconds=span[1] - span[0],
            bytes=footage.bytes or None,
            scores=_scores(row),
        )


def _span(row: Row, footage: Footage, rate: float | None) -> tuple[float, float] | str:
    """(start, end) in seconds from the first picture that is there, or what is wrong with the row."""
    if footage.frames is None:
        start, end = _seconds(row["start_timestamp"]), _seconds(row["stop_timestamp"])
        if start is None or end is None or not start < end:
            got = f"{row['start_timestamp'][:20]!r} to {row['stop_timestamp'][:20]!r}"
            return f"columns start_timestamp and stop_timestamp: got {got}, wanted hh:mm:ss.ss, the later one second"
        return start, end
    first, last = _count(row["start_frame"]), _count(row["stop_frame"])
    if first is None or last is None or not 1 <= first <= last:
        return f"columns start_frame and stop_frame: got {row['start_frame'][:20]!r} to {row['stop_frame'][:20]!r}, wanted numbers from 1, the larger one second"
    if rate is None:
        return "its video's rate is not known: no row has both timestamps and frame numbers, and no EPIC_100_video_info.csv names it"
    return max(0, first - footage.frames.first) / rate, max(0, last + 1 - footage.frames.first) / rate


def _rates(rows: Sequence[Row], stated: Mapping[str, float]) -> dict[str, float]:
    """video id -> the rate that best turns its timestamps into its frame numbers, rounded down; else the stated one."""
    pairs: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        for moment in ("start", "stop"):
            time_s, number = _seconds(row[f"{moment}_timestamp"]), _count(row[f"{moment}_frame"])
            if time_s and number:
                pairs[row["video_id"].strip()].append((time_s, number))
    return {**stated, **{name: _rate(known, stated.get(name)) for name, known in pairs.items()}}


def _rate(pairs: Sequence[tuple[float, int]], stated: float | None) -> float:
    """The rate for which time x rate, rounded down, gives the numbers; where several do, the stated one.

    Of none that does, the one with the smallest sum of what is missing to that, in frames.
    """
    rates = RATES if stated is None else (stated, *RATES)
    return min(rates, key=lambda rate: round(sum(_outside(time_s * rate - number) for time_s, number in pairs), 3))


def _outside(frames: float) -> float:
    """How far `frames` lies outside [0, 1], beyond what rounding a time to 1/100 s may do."""
    return max(0.0, abs(frames - 0.5) - 0.5 - 0.01)


def _stated(root: str, tables: Sequence[str]) -> dict[str, float]:
    """video id -> fps of the table of videos, where there is one."""
    stated: dict[str, float] = {}
    for path in tables:
        if os.path.basename(path) == INFO:
            with open(os.path.join(root, path), encoding="utf-8-sig", errors="replace", newline="") as lines:
                for row in csv.DictReader(lines):
                    fps = _number(row.get("fps") or "")
                    if fps and fps > 0:
                        stated[(row.get("video_id") or "").strip()] = fps
    return stated


def _annotations(tables: Sequence[str]) -> list[tuple[str, str]]:
    """(path, split) of the annotation tables, in the splits' order."""
    matches = ((path, _TABLE.fullmatch(os.path.basename(path))) for path in tables)
    found = [(path, match["split"]) for path, match in matches if match and match["split"]]
    return sorted(found, key=lambda each: (SPLITS.index(each[1]), each[0]))


def _rows(root: str, path: str) -> Iterator[tuple[str, Row | BadRow]]:
    """(file and line, row) of a table; a BadRow for one that does not fit its header."""
    shown = quote(path)
    with open(os.path.join(root, path), encoding="utf-8-sig", errors="replace", newline="") as lines:
        records = CsvRows(lines)
        header: list[str] | None = None
        for line, fields in records:
            where = f"{shown}:{line}"
            if header is None:
                header = [name.strip() for name in fields]
                lacking = [name for name in NEEDED if name not in header]
                if lacking:
                    yield where, BadRow(where=where, message=f"{where}: no column {', '.join(lacking)}; wanted {', '.join(NEEDED)}. Get the file again.")
                    return
            elif len(fields) != len(header):
                records.give_up()
                yield where, BadRow(where=where, message=f"{where}: {len(fields)} fields, wanted {len(header)}. Mend or delete the row.")
            else:
                yield where, dict(zip(header, fields, strict=True))


def _scores(row: Row) -> dict[str, float | str | tuple[str, ...]]:
    scores: dict[str, float | str | tuple[str, ...]] = {"epic_participant": quote(row["participant_id"].strip())}
    for column in ("verb_class", "noun_class"):
        number = _number(row.get(column, ""))
        if number is not None:
            scores[f"epic_{column}"] = number
    for column in ("verb", "noun"):
        if row.get(column, "").strip():
            scores[f"epic_{column}"] = row[column].strip()
    nouns = _texts(row.get("all_nouns", ""))
    if len(nouns) > 1:
        scores["epic_all_noun"] = nouns
    return scores


def _texts(text: str) -> tuple[str, ...]:
    """The texts of what looks like a Python list of them; none when it is something else."""
    try:
        listed = ast.literal_eval(text) if len(text) < 10_000 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    return tuple(each for each in listed if isinstance(each, str)) if isinstance(listed, list) else ()


def _seconds(clock: str) -> float | None:
    match = _CLOCK.fullmatch(clock.strip())
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None


def _count(text: str) -> int | None:
    number = _number(text)
    return int(number) if number is not None and number == int(number) else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
