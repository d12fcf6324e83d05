"""Every real clip is found again re-encoded, and nothing else is taken for it."""

import csv
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipelines.dedup import Comparing, nearly_equal
from vapdata import video
from vapdata.clip import Sample
from vapdata.filters.fingerprint import Fingerprint

pytestmark = pytest.mark.slow

COPY = " (copy)"


def _cell(path: Path, spec: Fingerprint, name: str) -> np.ndarray:
    end_s = video.probe(path).duration_s
    (frames,) = video.look(path, 0.0, end_s, [spec.look])
    return spec.open().judge([Sample(clip_id=name, frames=frames)])[name].cells[0].data


def _copy(path: Path, codec: str, into: Path) -> Path:
    """Another codec, half the size and half the rate (24 -> 12), 5 frames trimmed, 10 % brighter."""
    shown = video.probe(path)
    height, width = (max(16, side // 4 * 2) for side in (shown.height, shown.width))
    frames = [frame.image for frame in video.frames(path, video.Fit(height=height, width=width))]
    kept = frames[5 if len(frames) > 10 else 1 :: 2] or frames[-1:]
    name = into / f"{path.name}.mp4"
    with av.open(str(name), "w") as container:
        stream = container.add_stream("mpeg4" if codec != "mpeg4" else "libx264", rate=max(1, round(shown.fps / 2)))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 800_000
        for image in kept:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(cv2.convertScaleAbs(image, alpha=1.1), "rgb24")))
        container.mux(stream.encode())
    return name


def test_each_clip_is_found_again_and_no_other_is_taken_for_it(real_clips: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((real_clips / "clips" / "clips.csv").open()))
    same = {row["file"]: tag.partition(":")[2].split(" ")[0] for row in rows for tag in row["tags"].split(";") if tag.startswith("duplicate-of:")}
    cells, spec = {}, Fingerprint()
    for row in rows:
        path = real_clips / "clips" / row["file"]
        cells[row["file"]] = _cell(path, spec, row["file"])
        copy = _copy(path, row["codec"], tmp_path)
        cells[row["file"] + COPY] = _cell(copy, spec, row["file"] + COPY)
        copy.unlink()
    near, compared = nearly_equal(cells, Comparing())

    def origin(name: str) -> str:
        name = name.removesuffix(COPY)
        return same.get(name, name)

    true = {(one, other) for one in cells for other in cells if one < other and origin(one) == origin(other)}
    found = {(one, other) for one, others in near.items() for other in others if one < other}
    assert compared == set(cells), "every clip shows enough to be compared"
    assert found - true == set(), "precision"
    assert len(found & true) >= 0.95 * len(true), f"recall {len(found & true)} of {len(true)}; lost: {sorted(true - found)}"
    lost = [row["file"] for row in rows if row["file"] + COPY not in near.get(row["file"], {})]
    assert len(lost) <= 0.05 * len(rows), lost
    largest = max(distance for others in near.values() for distance in others.values())
    print(f"{len(found & true)} of {len(true)} pairs, {len(rows) - len(lost)} of {len(rows)} copies; largest distance {largest:.3f}")
