"""VAP-Data on disk, and what `vapdata export --format vap` writes. Exercised by `pytest tests/vapdata/sources/test_vap_data.py`."""

import math
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from vapdata.clip import BadRow, Video, quote, video_id
from vapdata.condition import CATEGORIES, Category
from vapdata.errors import CallError
from vapdata.sources.csv_rows import CsvRows
from vapdata.sources.tree import is_video_name, walk

TABLE = "vap_data.csv"
WANTED = ("video_paths", "kind")
"""Columns without which a row says nothing."""
ALIGNMENT = "vap_alignment"
LABELS: Mapping[Category, str] = {category: f"vap_{category}" for category in CATEGORIES}
"""The label that a row's `kind` becomes, by its category."""
NOT_STATED: Category = "concept"
"""Category of a kind whose row states none."""
SPLITS = ("train", "validation", "test")

Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class VapData:
    """VAP-Data (Video-As-Prompt), or our own export of that shape.

    What: one video per row of `vap_data.csv`. Its `kind` is the condition that the video shows, and `vapdata pairs` pairs by
        it; the row's own list of references is not read, since pairing has rules that it need not keep. An export pairs as before
        where a condition has up to 11 contents, or where all came from one dataset and comes back under its name (`--name`);
        else larger conditions get other references by the same rules.
    Reads: `vap_data.csv`: video_paths, kind, tar_video_caption, reference_alignment_score (0-100), split, `_valid`; of our own
        export also category, clip_split, split_group and license. Not benchmark.csv.
    Writes: `videos`; the label `vap_concept`, `vap_style`, `vap_motion` or `vap_camera`, and the number `vap_alignment`.
        A row whose `_valid` is 0 or less has no label. VAP-Data states no category: a kind whose folder has "camera" in
        its name is a camera condition, every other one a concept.
    Default: root `data/vap_data`. Where no split_group is stated, each video is a group of its own. `--set cuts.min_rgb=256` keeps
        a video that flashes in one piece: the parts of a video that is split have no condition.
    Cost: one read of the table and one walk over the tree.
    Fails when: the table or one of the columns video_paths and kind is not there (CallError). A row with a broken number, a path
        that leads out of the root, or a path that an earlier row has is a BadRow.
    Source: Video-As-Prompt, `finetrainers/data/dataset.py`.
    """

    name: ClassVar[str] = "vap_data"
    root: str = "data/vap_data"
    dataset: str = "vap_data"

    def list(self) -> Iterator[Video | BadRow]:
        """Every row's video, in the table's order. Raises CallError when `root` holds no such table."""
        files = _files(self.root)
        path = os.path.join(self.root, TABLE)
        if not os.path.isfile(path):
            raise CallError(f"--root {self.root!r} holds no {TABLE}; type --root with the folder that holds it, e.g. --root data/VAP-Data")
        seen: set[str] = set()
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            rows = CsvRows(lines)
            _, header = next(rows, (1, []))
            absent = [column for column in WANTED if column not in header]
            if absent:
                raise CallError(f"{path}: its header has no column {absent[0]}, wanted {', '.join(WANTED)}. Restore the file, or type another --root")
            for line, fields in rows:
                where = f"{TABLE}:{line}"
                if len(fields) != len(header):
                    yield BadRow(where=where, message=f"{where}: {len(fields)} fields, wanted {len(header)}. Mend or delete the row.")
                    rows.give_up()
                    continue
                yield from self._row(dict(zip(header, fields, strict=True)), where, seen, files)

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of the files that are there."""
        return {quote(path): size for path, size in _files(self.root).items()}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """A label per category, and the alignment."""
        labels: dict[str, Literal["value", "label"]] = dict.fromkeys(LABELS.values(), "label")
        return {**labels, ALIGNMENT: "value"}

    def _row(self, row: Row, where: str, seen: set[str], files: Mapping[str, int]) -> Iterator[Video | BadRow]:
        path = posixpath.normpath(row["video_paths"].strip()) if row["video_paths"].strip() else ""
        bad = _wrong(path, seen)
        if bad:
            yield BadRow(where=where, message=f"{where}: {bad}. Mend or delete the row.")
            return
        seen.add(path)
        scores: dict[str, float | str | tuple[str, ...]] = {}
        alignment, valid = _number(row.get("reference_alignment_score", "")), _number(row.get("_valid", ""))
        for column, value in (("reference_alignment_score", alignment), ("_valid", valid)):
            if value is not None and math.isnan(value):
                got = f"{where}: column {column}: got {quote(row[column][:40])!r}, wanted a number"
                yield BadRow(where=where, message=f"{got}. Mend the field; the video is listed without its condition.")
        if not any(value is not None and math.isnan(value) for value in (alignment, valid)):
            if alignment is not None:
                scores[ALIGNMENT] = min(max(alignment, 0.0), 100.0)
            if (valid is None or valid > 0) and _text(row["kind"]):
                scores[LABELS[_category(row, path)]] = _text(row["kind"]) or ""
        split = row.get("clip_split") or row.get("split")
        yield Video(
            video_id=video_id(self.dataset, path),
            dataset=self.dataset,
            name=quote(path),
            uri=quote(path),
            split_group=_text(row.get("split_group", "")) or quote(path),
            caption=_text(row.get("tar_video_caption", "")),
            label=_text(row["kind"]),
            license=_text(row.get("license", "")),
            split=split if split in SPLITS else None,
            bytes=files.get(path),
            scores=scores,
        )


def _files(root: str) -> dict[str, int]:
    return {entry.path: entry.bytes for entry in walk(root) if entry.kind == "file" and is_video_name(entry.path)}


def _wrong(path: str, seen: set[str]) -> str | None:
    if not path or path == ".":
        return "column video_paths is empty"
    if path.startswith(("/", "../")) or path == "..":
        return f"column video_paths: {quote(path[:80])} leads out of the root, wanted a path below it"
    if path in seen:
        return f"column video_paths: an earlier row has {quote(path[:80])} too; its first row counts"
    return None


def _category(row: Row, path: str) -> Category:
    stated = next((category for category in CATEGORIES if category == row.get("category", "").strip()), None)
    if stated is None and "camera" in posixpath.dirname(path).lower():
        return "camera"
    return stated or NOT_STATED


def _number(text: str) -> float | None:
    """None for a blank field, NaN for one that is no finite number."""
    if text.strip().lower() in ("", "nan", "none", "null"):
        return None
    try:
        number = {"true": 1.0, "false": 0.0}.get(text.strip().lower())
        number = float(text) if number is None else number
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _text(text: str) -> str | None:
    """None for a blank one; bytes that are not UTF-8 become the replacement character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "").strip() or None
