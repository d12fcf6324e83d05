"""Walking a dataset's folder: names as bytes on disk, sizes, nothing followed out of it.

Names keep what is not UTF-8 as `os.fsdecode` does; `vapdata.clip.quote` makes them printable.
Exercised by `pytest tests/vapdata/sources/test_tree.py`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from vapdata.errors import CallError

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m1v .m2ts .m2v .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpe .mpeg .mpg "
    ".mts .mxf .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m".split()
)
"""Lower-case suffixes taken for video; a file's own suffix may be in any case."""

Kind = Literal["file", "folder", "special", "broken link", "link out of the root", "unreadable folder"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing in the tree."""

    path: str
    """Relative to the root, with `/`."""
    kind: Kind
    """`special` is a pipe, socket or device."""
    bytes: int = 0
    """Size of a file."""


def walk(root: str | os.PathLike[str], enter: Callable[[str], bool] = lambda path: True) -> Iterator[Entry]:
    """Everything below `root` in the order of names, hidden files and folders (a leading dot) left out.

    Folders whose path `enter` refuses are given, but not what they hold: millions of frames need not be looked at.

    Links to files inside the root are files; links to folders are not entered, since what they show inside the root
    is listed there. Raises CallError when `root` is no folder or cannot be read.
    """
    base = os.fspath(root)
    if not os.path.isdir(base):
        what = "is not a folder" if os.path.lexists(base) else "is not there"
        raise CallError(f"--root {base!r} {what}; type the folder that the dataset lies in: --root PATH")
    if not os.access(base, os.R_OK | os.X_OK):
        raise CallError(f"--root {base!r} cannot be read by this user; type: chmod u+rx {base!r}")
    yield from _walk(base, "", os.path.realpath(base), enter)


def suffix(path: str) -> str:
    """Lower-case suffix of the last part, e.g. `.mp4`."""
    return os.path.splitext(path)[1].lower()


def is_video_name(path: str) -> bool:
    """Whether the suffix is one of VIDEO_SUFFIXES."""
    return suffix(path) in VIDEO_SUFFIXES


def _walk(base: str, prefix: str, real_root: str, enter: Callable[[str], bool]) -> Iterator[Entry]:
    try:
        with os.scandir(os.path.join(base, prefix) if prefix else base) as scan:
            items = sorted((item for item in scan if not item.name.startswith(".")), key=lambda item: item.name)
    except OSError:
        yield Entry(path=prefix.rstrip("/"), kind="unreadable folder")
        return
    for item in items:
        path = prefix + item.name
        if item.is_symlink():
            yield from _link(item, path, real_root)
        elif item.is_dir(follow_symlinks=False):
            yield Entry(path=path, kind="folder")
            if enter(path):
                yield from _walk(base, f"{path}/", real_root, enter)
        elif item.is_file(follow_symlinks=False):
            yield Entry(path=path, kind="file", bytes=item.stat(follow_symlinks=False).st_size)
        else:
            yield Entry(path=path, kind="special")


def _link(item: os.DirEntry[str], path: str, real_root: str) -> Iterator[Entry]:
    target = os.path.realpath(item.path)
    if os.path.commonpath((real_root, target)) != real_root:
        yield Entry(path=path, kind="link out of the root")
    elif os.path.isfile(target):
        yield Entry(path=path, kind="file", bytes=os.path.getsize(target))
    elif not os.path.exists(target):
        yield Entry(path=path, kind="broken link")
    elif not os.path.isdir(target):
        yield Entry(path=path, kind="special")
