"""catalog -> a folder that another trainer reads: what `vapdata export` does.

    vapdata export --catalog catalog --format vap --out VAP-Data

A clip that is all of its file is that file (a hard link, or a copy). One that is a part of a longer file or a folder of
pictures is decoded and encoded anew, at its mean rate: a cut at key frames would show other frames than the catalog tells of.
Exercised by `pytest tests/catalogs/test_exports.py`.
"""

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from catalogs.exports.chosen import ChosenClip, Export, chosen
from catalogs.store import Catalog
from vapdata import video
from vapdata.clip import path_under, quote
from vapdata.errors import CallError
from vapdata.video_file import write

NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES)
"""What a disk says that cannot link here: then the file is copied."""

Show = Callable[[Mapping[str, int], Mapping[str, int], Mapping[str, int]], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of `vapdata export`."""

    catalog: str
    format: Export
    out: str
    where: str | None = None
    """Which clips: SQL over clips_wide; None for all."""
    roots: Mapping[str, str] = field(default_factory=dict)
    """Where each dataset lies; others in data/<source>."""
    copy: bool = False
    """Copies files instead of linking them."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was written. clips = exported + left out."""

    out: str
    clips: int
    wrote: Mapping[str, int]
    left_out: Mapping[str, int]
    placed: Mapping[str, int]
    """Files that were linked, copied or encoded."""

    def lines(self) -> list[str]:
        """The summary as a terminal shows it."""
        named = ", ".join(f"{count} {what}" for what, count in self.wrote.items())
        ways = ", ".join(f"{count} {how}" for how, count in self.placed.items() if count)
        return [f"wrote    {named}", f"files    {ways}", *(f"left out {count} {why}" for why, count in self.left_out.items() if count), f"folder   {self.out}"]


def export(request: Request, show: Show | None = None) -> Summary:
    """Writes the folder whole or not at all.

    Raises CallError (no catalog, a bad predicate, a folder that holds something, a dataset that is elsewhere, nothing to
    write) and ClipError when a part of a longer file cannot be decoded.
    """
    catalog = Catalog.open(request.catalog)
    out = os.path.abspath(request.out)
    _refuse_out(catalog, request.out, out)
    clips = chosen(catalog, request.where, paired=request.format.paired)
    told = {clip_id: clip for clip_id, clip in clips.items() if clip.caption}
    files = _files(catalog, told, request.roots)
    ready = {clip_id: clip for clip_id, clip in told.items() if clip_id in files}
    if not ready:
        of, find = (f"{len(clips)} clips in pairs", f", or find pairs: vapdata pairs --catalog {catalog.shown}") if request.format.paired else (f"{len(clips)} clips", "")
        raise CallError(f"{catalog.shown}: of {of}, {len(told)} have a caption and 0 of these a file that is there. Type another --where, or --root DATASET=PATH{find}")
    partial = os.path.join(os.path.dirname(out), f".{os.path.basename(out)}.vapdata-export")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed export left
    os.makedirs(partial)
    placing = _Placing(files, request.copy, len(ready), show)
    try:
        written = request.format.write(catalog, ready, partial, placing.place)
        os.rename(partial, out)  # over nothing, or over an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    left_out = {"clips without caption": len(clips) - len(told), "clips whose file is not there": len(told) - len(ready), **written.left_out}
    return Summary(out=request.out, clips=len(clips), wrote=written.wrote, left_out=left_out, placed=placing.counts)


def _refuse_out(catalog: Catalog, shown: str, out: str) -> None:
    if "://" in shown:
        raise CallError(f"--out {shown}: wanted a folder on this machine's disks. Type --out FOLDER, and copy it from there")
    if catalog.files.local and f"{os.path.realpath(out)}{os.sep}".startswith(os.path.realpath(catalog.files.address("")) + os.sep):
        raise CallError(f"--out {shown} lies in the catalog {catalog.shown}. Type --out with a folder elsewhere")
    if os.path.lexists(out) and not os.path.isdir(out):
        raise CallError(f"--out {shown} is a file, wanted a folder that is empty or not there yet. Type another --out")
    if os.path.isdir(out) and (held := sorted(os.listdir(out))):
        raise CallError(f"--out {shown} holds {', '.join(map(quote, held[:3]))}, wanted a folder that is empty or not there yet. Type another --out")


def _files(catalog: Catalog, clips: Mapping[str, ChosenClip], roots: Mapping[str, str]) -> dict[str, str]:
    """Clip -> its video's path, for those that are there. Raises CallError for a dataset of which there is none."""
    found = {}
    there: dict[str, bool] = {}
    for clip in clips.values():
        if clip.made and not catalog.files.local:
            raise CallError(f"{catalog.shown}: its made videos lie in an object store. Export from a local copy, or leave them out: --where \"clip_id not like 'vap/%'\"")
        path = path_under(_root(catalog, clip, roots), clip.uri)
        present = os.path.exists(path)
        there[clip.dataset] = there.get(clip.dataset, False) or present
        if present:
            found[clip.clip_id] = path
    absent = next((clip for clip in clips.values() if not there[clip.dataset]), None)
    if absent is not None:
        name = absent.dataset
        raise CallError(f"{_root(catalog, absent, roots)}: no file of dataset {name!r} is there. Type --root {name}=PATH, or leave its clips out with --where")
    return found


def _root(catalog: Catalog, clip: ChosenClip, roots: Mapping[str, str]) -> str:
    return catalog.files.address("media") if clip.made else roots.get(clip.dataset, os.path.join("data", clip.source))


class _Placing:
    """Puts videos where a format wants them."""

    def __init__(self, files: Mapping[str, str], copy: bool, total: int, show: Show | None) -> None:
        self.files, self.copy, self.total, self.show = files, copy, total, show
        self.counts = {"linked": 0, "copied": 0, "encoded": 0}
        self._encoded: dict[str, str] = {}
        self._seen: set[str] = set()

    def place(self, clip: ChosenClip, path: str) -> None:
        """Links, copies or encodes one clip's video to `path`; what was encoded for one place is linked to the next."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = self.files[clip.clip_id] if clip.as_it_is else self._encoded.get(clip.clip_id)
        if file is not None and os.path.exists(file):
            self._put(file, path)
        else:
            _encode(self.files[clip.clip_id], clip, path)
            self._encoded[clip.clip_id] = path
            self.counts["encoded"] += 1
        self._seen.add(clip.clip_id)
        if self.show is not None:
            self.show({"export": self.total}, {"export": len(self._seen)}, {})

    def _put(self, file: str, path: str) -> None:
        if not self.copy:
            try:
                os.link(os.path.realpath(file), path)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
            else:
                self.counts["linked"] += 1
                return
        shutil.copyfile(file, path)
        self.counts["copied"] += 1


def _encode(file: str, clip: ChosenClip, path: str) -> None:
    frames = video.frames(file, start_s=clip.start_s, end_s=clip.end_s, folder_fps=clip.folder_fps)
    write(path, (frame.image for frame in frames), clip.fps)
