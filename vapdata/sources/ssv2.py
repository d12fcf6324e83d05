"""Something-Something V2 on disk. Exercised by `pytest tests/vapdata/sources/test_ssv2.py`."""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vapdata.clip import BadRow, Video, quote, video_id
from vapdata.errors import CallError
from vapdata.sources.footage import Footage, Found, Prefer, find

SPLITS = ("train", "validation", "test")
TABLE_FOLDERS = ("labels", "annotations", "")
PREFIXES = ("", "something-something-v2-")
"""The current release's names, and the older one's."""
ANSWERS = "test-answers.csv"
VIDEO_FOLDER = "20bn-something-something-v2"

_ID = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class SSv2:
    """Something-Something V2, as its download lies on disk.

    What: one video per id that the label files or the folder know, in their own splits: ids without a file are
        listed, files without a label too (without caption; their split by hash). `label` is the caption; the
        template without its brackets, as `labels.json` writes it, is the video's label, for the test split from the answers.
    Reads: `labels/` (or `annotations/`, or the root): `train`, `validation`, `test` and `labels.json` and
        `test-answers.csv`, each with or without `something-something-v2-` before it; `<id>.webm` anywhere, or folders
        of frames named by id, e.g. `rawframes/<id>/img_00001.jpg` (`prefer` says which, where there are both).
    Writes: `videos`; scores `ssv2_class` (index in labels.json), the label `ssv2_template` (with brackets) and the
        labels `ssv2_placeholder`: in `videos.source_scores` in slot order, in `scores` each different one once.
    Default: root `data/ssv2`; frame folders at the release's 12 fps.
    Cost: about 8 s for the 220,847 videos of the release.
    Fails when: the root holds no label file (CallError). A record without usable id and a label file that is no
        list of records are BadRows.
    Source: Goyal et al., "The something something video database", ICCV 2017; the layout of Qualcomm's release.
    """

    name: ClassVar[str] = "ssv2"
    root: str = "data/ssv2"
    dataset: str = "ssv2"
    prefer: Prefer = "videos"
    fps: float = 12.0
    """Rate of frame folders; video files state their own."""

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise CallError(f"ssv2: got fps={self.fps:g}, wanted a rate above 0. Type --set ssv2.fps=12")

    def list(self) -> Iterator[Video | BadRow]:
        """Every record's video and every file's, each once. Raises CallError when `root` holds no label file."""
        found = find(self.root, _ID)
        tables = {split: table for split in SPLITS if (table := _table(self.root, f"{split}.json"))}
        if not tables:
            wanted = f"labels/train.json (or something-something-v2-train.json) beside {VIDEO_FOLDER}/"
            raise CallError(f"--root {self.root!r} holds no Something-Something V2: wanted {wanted}. Type --root with the folder that holds them")
        facts = _Facts(classes=_classes(self.root), answers=_answers(self.root))
        seen: set[str] = set()
        for split, table in tables.items():
            for where, record in _records(self.root, table):
                yield from self._row(where, record, split, found, facts, seen)
        for name in sorted({*found.videos, *found.frames} - seen):
            yield self._video(name, found, None, {}, facts)

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of the files and frame folders that are there."""
        return find(self.root, _ID).present()

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """The class's index, its template, and what fills the slots."""
        return {"ssv2_class": "value", "ssv2_template": "label", "ssv2_placeholder": "label"}

    def _row(
        self, where: str, record: object, split: str, found: Found, facts: "_Facts", seen: set[str]
    ) -> Iterator[Video | BadRow]:
        if isinstance(record, BadRow):
            yield record
            return
        name = str(record.get("id", "")) if isinstance(record, dict) else ""
        if not _ID.fullmatch(name):
            yield BadRow(where=where, message=f"{where}: got {_short(record)}, wanted a record with an id of digits. Mend the file.")
        elif name not in seen:
            seen.add(name)
            yield self._video(name, found, split, record, facts)

    def _video(self, name: str, found: Found, split: str | None, record: "dict[str, Any]", facts: "_Facts") -> Video:
        footage = found.of(name, self.prefer) or Footage(uri=f"{VIDEO_FOLDER}/{name}.webm", bytes=0)
        template = _text(record.get("template"))
        label = facts.answers.get(name) if template is None else template.replace("[", "").replace("]", "")
        slots = record.get("placeholders")
        scores: dict[str, float | str | tuple[str, ...]] = {}
        if label in facts.classes:
            scores["ssv2_class"] = float(facts.classes[label])
        if template:
            scores["ssv2_template"] = template
        if isinstance(slots, list) and slots:
            scores["ssv2_placeholder"] = tuple(str(slot) for slot in slots)
        return Video(
            video_id=video_id(self.dataset, name),
            dataset=self.dataset,
            name=quote(name),
            uri=footage.uri,
            split_group=name,
            caption=_text(record.get("label")),
            label=label,
            split=split,
            folder_fps=self.fps if footage.frames else None,
            seconds=footage.frames.count / self.fps if footage.frames else None,
            bytes=footage.bytes or None,
            scores=scores,
        )


@dataclass(frozen=True, kw_only=True)
class _Facts:
    classes: Mapping[str, int]
    """Template without brackets -> index."""
    answers: Mapping[str, str]
    """Test id -> template without brackets."""


def _table(root: str, name: str) -> str | None:
    """Where a label file lies, relative to the root; None when it is in none of its places."""
    paths = (os.path.join(folder, prefix + name) for folder in TABLE_FOLDERS for prefix in PREFIXES)
    return next((path for path in paths if os.path.isfile(os.path.join(root, path))), None)


def _records(root: str, table: str) -> Iterator[tuple[str, object]]:
    """(file and place, record) of a label file; one BadRow instead when it is none."""
    records = _json(root, table)
    if not isinstance(records, list):
        got = str(records) if isinstance(records, ValueError) else f"a {type(records).__name__}"
        yield table, BadRow(where=table, message=f"{table}: got {got}, wanted a JSON list of records. Get the file again.", permanent=False)
        return
    for place, record in enumerate(records):
        yield f"{table}[{place}]", record


def _json(root: str, table: str) -> object:
    """What the file holds; the ValueError when it is no JSON."""
    with open(os.path.join(root, table), encoding="utf-8-sig", errors="replace") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            return ValueError(f"no JSON ({error})")


def _classes(root: str) -> dict[str, int]:
    table = _table(root, "labels.json")
    known = _json(root, table) if table else None
    pairs = known.items() if isinstance(known, dict) else ()
    return {name: int(index) for name, index in pairs if str(index).isdecimal()}


def _answers(root: str) -> dict[str, str]:
    """`id;template` per line; the class names of the release hold no semicolon."""
    table = _table(root, ANSWERS)
    if table is None:
        return {}
    with open(os.path.join(root, table), encoding="utf-8-sig", errors="replace", newline="") as lines:
        rows = [row for row in csv.reader(lines, delimiter=";", quoting=csv.QUOTE_NONE) if len(row) >= 2]
    return {row[0].strip(): row[1].strip().replace("[", "").replace("]", "") for row in rows}


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _short(record: object) -> str:
    return quote(repr(record)[:60])
