"""Any tree of video files. Exercised by `pytest tests/vapdata/sources/test_folder.py`."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal
from urllib.parse import unquote_to_bytes

from vapdata.clip import BadRow, Video, quote, video_id
from vapdata.errors import CallError
from vapdata.sources import caption_table
from vapdata.sources.tree import Entry, is_video_name, suffix, walk

TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx"))

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Every video file below a folder.

    What: one video per file whose suffix says video (any case; gif, webm, mkv, avi, mov, 3gp and the like included).
        Hidden files and folders, and files of other kinds, are left out.
    Reads: the tree; captions from `captions.csv`, `.jsonl` or `.parquet` in the root (columns file | video | path |
        name | file_name, and caption | text), or from `captions`. Other tables are ignored, with one line that says so.
    Writes: `videos`; `split_group` is the parent folder. A file in the root itself is a group of its own: a flat folder is not one content.
    Default: root `data/folder`.
    Cost: one walk over the tree.
    Fails when: the root is no folder or holds no video (CallError). A folder, pipe or device with a video's name, a
        link that leads out of the root or nowhere, and a folder that cannot be read are BadRows, and so is a caption
        whose file is absent (`NoFile`, which a later run may find).
    Source: ours; `file_name` as in Hugging Face's folder datasets.
    """

    name: ClassVar[str] = "folder"
    root: str = "data/folder"
    dataset: str = "folder"
    captions: str | None = None
    """A table of captions, relative to the root; here a column `description` serves too."""

    def list(self) -> Iterator[Video | BadRow]:
        """Every video file, then what is wrong with the rest. Raises CallError when `root` holds no video."""
        entries = [*walk(self.root)]
        files = {entry.path: entry.bytes for entry in entries if _is_video(entry)}
        bad = [row for entry in entries for row in _bad_entry(self.dataset, entry)]
        if not files and not bad:
            raise CallError(f"--root {self.root!r} holds no video file (.mp4, .webm, .mkv, .gif ...); type --root PATH")
        texts, bad_rows = self._texts(entries, files)
        for path, size in files.items():
            yield replace(self._video(path), bytes=size, caption=texts.get(path))
        yield from bad
        yield from bad_rows

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of the files that are there."""
        return {quote(entry.path): entry.bytes for entry in walk(self.root) if _is_video(entry)}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """A plain folder has none."""
        return {}

    def _video(self, path: str) -> Video:
        return Video(
            video_id=video_id(self.dataset, path),
            dataset=self.dataset,
            name=quote(path),
            uri=quote(path),
            split_group=quote(os.path.dirname(path) or path),
        )

    def _texts(self, entries: "list[Entry]", files: Mapping[str, int]) -> "tuple[dict[str, str], list[BadRow]]":
        """(path -> caption, bad rows), the first caption of a file that is not blank."""
        top = {entry.path for entry in entries if entry.kind == "file"}
        tables = [self.captions] if self.captions is not None else [name for name in caption_table.NAMES if name in top]
        _say_ignored([path for path in top if suffix(path) in TABLE_SUFFIXES and path not in tables])
        texts: dict[str, str] = {}
        bad: list[BadRow] = []
        for table in tables:
            for row in caption_table.read(self.root, table, chosen=self.captions is not None):
                if isinstance(row, BadRow):
                    bad.append(row)
                    continue
                path = _find(row.file, os.path.dirname(table), files)
                if path is None:
                    bad.append(_absent(self.dataset, row))
                elif row.text:
                    texts.setdefault(path, row.text)
        return texts, bad


def _is_video(entry: Entry) -> bool:
    return entry.kind == "file" and is_video_name(entry.path)


def _bad_entry(dataset: str, entry: Entry) -> Iterator[BadRow]:
    where = quote(entry.path)
    if entry.kind == "unreadable folder":
        message = f"{where or '.'}: this folder cannot be read, so its videos are not listed. Type: chmod u+rx on it."
        yield BadRow(where=where or ".", message=message, error="UnreadableFolder", permanent=False)
    elif entry.kind == "link out of the root" and (is_video_name(entry.path) or not suffix(entry.path)):
        message = f"{where}: a link that leads out of the root is not followed. Copy the files in, or move the root up."
        yield BadRow(where=where, message=message, video_id=video_id(dataset, entry.path), error="LinkOutOfRoot")
    elif entry.kind != "file" and is_video_name(entry.path):
        message = f"{where}: got a {entry.kind}, wanted a file; its name says video. Rename or remove it."
        yield BadRow(where=where, message=message, video_id=video_id(dataset, entry.path), error="NotAFile")


def _find(name: str, folder: str, files: Mapping[str, int]) -> str | None:
    """The video that a table calls `name`: relative to the table's folder or the root, plain or percent-encoded."""
    plain = name.strip()
    for spelled in (plain, os.fsdecode(unquote_to_bytes(os.fsencode(plain)))):
        for path in (os.path.normpath(os.path.join(folder, spelled)), os.path.normpath(spelled)):
            if path in files:
                return path
    return None


def _absent(dataset: str, row: caption_table.CaptionRow) -> BadRow:
    message = f"{row.where}: no video file {quote(row.file)} below the root. Add the file, or mend the row, and run again."
    return BadRow(
        where=row.where, message=message, video_id=video_id(dataset, row.file.strip()), error="NoFile", permanent=False
    )


def _say_ignored(tables: list[str]) -> None:
    if tables:
        logger.warning(
            "%d other table(s) beside the videos ignored, e.g. %s; captions come from captions.csv, .jsonl or "
            ".parquet in the root, or from --set folder.captions=FILE",
            len(tables),
            quote(min(tables)),
        )
