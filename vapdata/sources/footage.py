"""What a dataset has of each of its videos: a file, or a folder of frames, found by name wherever it lies.

Exercised by `pytest tests/vapdata/sources/test_footage.py`.
"""

import os
import re
from dataclasses import dataclass, field
from typing import Literal

from vapdata.clip import quote
from vapdata.sources.tree import is_video_name, walk
from vapdata.video import FrameFolder, frame_folder

Prefer = Literal["videos", "frames"]


@dataclass(frozen=True, kw_only=True)
class Footage:
    """One file or folder of frames."""

    uri: str
    """As `Video.uri`."""
    bytes: int
    frames: FrameFolder | None = None
    """None for a file."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything there is, by video id: the first of each in the order of paths."""

    videos: dict[str, Footage] = field(default_factory=dict)
    frames: dict[str, Footage] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    """Paths of the other files that were asked for, unquoted, relative to the root."""

    def of(self, name: str, prefer: Prefer) -> Footage | None:
        """What there is of one video; the other kind where the preferred one is missing."""
        first, second = (self.videos, self.frames) if prefer == "videos" else (self.frames, self.videos)
        return first.get(name) or second.get(name)

    def present(self) -> dict[str, int]:
        """uri -> bytes of them all."""
        return {each.uri: each.bytes for kind in (self.videos, self.frames) for each in kind.values()}


def find(root: str, names: re.Pattern[str], tables: re.Pattern[str] | None = None) -> Found:
    """Video files and frame folders below `root` whose name (without suffix) is all of `names`; one walk.

    A folder of such a name counts when numbered pictures lie right in it (so not one of optical flow, which holds
    `u/` and `v/`), and is not looked into further. Other files whose whole name matches `tables` are listed beside them.
    Raises CallError when `root` is no folder.
    """
    found = Found()
    for entry in walk(root, enter=lambda path: not names.fullmatch(os.path.basename(path))):
        base = os.path.basename(entry.path)
        if entry.kind == "file" and is_video_name(base) and names.fullmatch(stem := os.path.splitext(base)[0]):
            found.videos.setdefault(stem, Footage(uri=quote(entry.path), bytes=entry.bytes))
        elif entry.kind == "file" and tables and tables.fullmatch(base):
            found.tables.append(entry.path)
        elif entry.kind == "folder" and names.fullmatch(base) and base not in found.frames:
            listed = frame_folder(os.path.join(root, entry.path))
            if listed:
                found.frames[base] = Footage(uri=quote(entry.path), bytes=listed.bytes, frames=listed)
    return found
