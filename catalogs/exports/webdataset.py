"""Tar files as WebDataset reads them. Exercised by `pytest tests/catalogs/test_exports.py`."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from catalogs.exports.chosen import ChosenClip, Place, Written
from catalogs.store import Catalog

CLIPS = 1000
"""A tar file holds no more clips."""
BYTES = 1_000_000_000
"""Nor does it take another clip after as many bytes."""


@dataclass(frozen=True, kw_only=True)
class WebDataset:
    """Tar shards.

    What: `000000.tar`, `000001.tar` ...; per clip, under one key made from its id, the video (mp4, or what the file is),
        the caption (txt) and a JSON object: clip_id, dataset, split, license, seconds, fps, width and height in pixels.
    Reads: clips, their captions (role vap, long, source or short, in this order) and their videos.
    Writes: tar files of up to 1000 clips or about 1 GB; equal catalogs give equal bytes.
    Default: every captioned clip, of every split; `--where "split = 'train'"` for training.
    Cost: a copy of every video; about real time for a clip that is a part of its file.
    Fails when: a part of a longer file cannot be decoded any more.
    Source: WebDataset's convention, one sample per base name up to the first dot.
    """

    name: ClassVar[str] = "webdataset"
    paired: ClassVar[bool] = False

    def write(self, catalog: Catalog, clips: Mapping[str, ChosenClip], folder: str, place: Place) -> Written:
        """The tar files."""
        waiting = list(clips.values())
        shards = 0
        while waiting:
            with tarfile.open(os.path.join(folder, f"{shards:06d}.tar"), "w", format=tarfile.PAX_FORMAT) as tar:
                taken = 0
                while taken < min(CLIPS, len(waiting)) and tar.offset < BYTES:
                    _add(tar, waiting[taken], folder, place)
                    taken += 1
            del waiting[:taken]
            shards += 1
        return Written(wrote={"videos": len(clips), "tar files": shards})


def _add(tar: tarfile.TarFile, clip: ChosenClip, folder: str, place: Place) -> None:
    path = os.path.join(folder, f"{clip.plain_name}{clip.suffix}")
    place(clip, path)
    with open(path, "rb") as video:
        _entry(tar, os.path.basename(path), video, os.path.getsize(path))
    os.remove(path)
    facts = {
        "clip_id": clip.clip_id,
        "dataset": clip.dataset,
        "split": clip.split,
        "license": clip.license,
        "seconds": clip.end_s - clip.start_s,
        "fps": clip.fps,
        "width": clip.width,
        "height": clip.height,
    }
    for suffix, text in (("txt", clip.caption or ""), ("json", json.dumps(facts, ensure_ascii=False, sort_keys=True))):
        data = text.encode("utf-8", "replace")
        _entry(tar, f"{clip.plain_name}.{suffix}", io.BytesIO(data), len(data))


def _entry(tar: tarfile.TarFile, name: str, data: io.BufferedIOBase, size: int) -> None:
    """Adds a file without owner or time, so that equal contents give equal bytes."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    tar.addfile(entry, data)
