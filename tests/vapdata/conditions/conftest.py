"""Pictures with subjects for the condition programs: one drawn, whose mask is exact, and a few filmed."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from vapdata.clip import Sampling
from vapdata.conditions.subject import subject_of
from vapdata.shapes import Shot, draw, mask
from vapdata.video import probe, sample

Source = tuple[np.ndarray, np.ndarray]
"""(frames, subject)."""

GRID = Sampling(frames=17, height=96, width=160, fps=8, resize="crop", short="slow")
FILMED = {
    "intel_asl_book.mkv": (0.36, 0.08, 0.66, 1.0),
    "fv_crush034.mp4": (0.3, 0.35, 0.7, 0.8),
    "pp_gopher.mp4": (0.2, 0.05, 0.8, 1.0),
    "br_beet.mp4": (0.5, 0.2, 0.75, 0.65),
    "mdn_flower.mp4": (0.25, 0.25, 0.65, 0.7),
    "sam_coffee.mp4": (0.3, 0.38, 0.62, 0.88),
    "ta_2.mp4": (0.2, 0.1, 0.8, 0.8),
    "tav_skiing.mp4": (0.68, 0.0, 1.0, 1.0),
}
"""Clips in colour, and by eye where their subject is in frame 0: left, top, right, bottom as parts of the picture."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def drawn() -> Source:
    """A red square that rests on a textured green ground; the mask is exact."""
    shot = Shot(
        frames=9, height=96, width=160, shape="square", colour="red", ground="green", direction=None, speed_px=0,
        camera="static", pan_px=0, texture_seed=7,
    )  # fmt: skip
    return np.stack(list(draw(shot))), mask(shot, 0).astype(np.float32)


@pytest.fixture(scope="session")
def filmed(real_clips: Path) -> Callable[[int], list[Source]]:
    """`filmed(n)`: the first n of FILMED at 17 x 96 x 160, with subjects as a coarse map and the colours give them."""
    made: dict[str, Source] = {}

    def first(count: int) -> list[Source]:
        for name in list(FILMED)[:count]:
            if name not in made:
                made[name] = _source(real_clips / "clips" / name, FILMED[name])
        return [made[name] for name in list(FILMED)[:count]]

    return first


def _source(path: Path, box: tuple[float, float, float, float]) -> Source:
    frames = sample(path, 0.0, min(probe(path).duration_s or 2.0, 4.0), GRID)
    rows, columns = (np.mgrid[:16, :26] + 0.5) / np.array([16, 26])[:, None, None]
    far = ((columns - (box[0] + box[2]) / 2) / ((box[2] - box[0]) / 2)) ** 2 + ((rows - (box[1] + box[3]) / 2) / ((box[3] - box[1]) / 2)) ** 2
    return frames, subject_of(np.exp(-0.7 * far).astype(np.float32), 96, 160, frames[0])
