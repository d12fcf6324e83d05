"""Black bars around the picture, and the crop without them. Exercised by `pytest tests/vapdata/filters/test_letterbox.py`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import MissingInput
from vapdata.step import Meter

DARK = 10.0
"""Mean luma up to which a line may belong to a bar: ffmpeg's limit of 24 in video range, as RGB."""
SPOT = 40.0
"""Brightest pixel that a bar's line may hold: ringing beside the picture's edge."""
EDGE = 10.0
"""By how much the picture beside a bar is brighter at some time, so that a dark picture's border is no bar."""
LEAST_LINES = 2


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Black bars.

    What: lines at the picture's border that are black in every sampled frame, beside lines that are not. `letterbox` is the share
        of the picture that they take; `letterbox_crop` what remains, as ffmpeg's crop filter reads it (`w:h:x:y`, display
        pixels, even numbers, a line inside so that no dark edge stays); the whole picture where there is no bar.
    Reads: frames at `fps`, at the scan size.
    Writes: `letterbox`, 0-1, and the label `letterbox_crop`.
    Default: 1 frame per second.
    Cost: about 0.1 ms per sampled frame.
    Fails when: the clip has no frame, or is black throughout.
    Source: after ffmpeg's cropdetect.
    """

    name: ClassVar[str] = "letterbox"
    fps: float = 1.0

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """A share and a crop."""
        return {"letterbox": "value", "letterbox_crop": "label"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return LetterboxMeter


class LetterboxMeter:
    """Remembers how bright each line of one clip ever was."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._lines: list[tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]] | None = None
        """For rows and columns: (mean, brightest pixel), the largest of all frames."""

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes one frame; its time does not matter."""
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        now = [(grey.mean(axis=along, dtype=np.float32), grey.max(axis=along).astype(np.float32)) for along in (1, 0)]
        self._lines = now if self._lines is None else [tuple(map(np.maximum, *pair)) for pair in zip(self._lines, now, strict=True)]

    def finish(self) -> list[Score]:
        """Share and crop. Raises MissingInput for a clip without frames, and for one that is black throughout."""
        if self._lines is None:
            raise MissingInput(f"letterbox of {self._clip.clip_id}: got 0 frames, needs one; see `vapdata retry`")
        (top, bottom), (left, right) = (bars(*lines) for lines in self._lines)
        height, width = (len(lines[0]) for lines in self._lines)
        if top + bottom >= height or left + right >= width:
            raise MissingInput(f"letterbox of {self._clip.clip_id}: the clip is black throughout. Leave it out with --where \"letterbox is not null\"")
        share = 1 - (height - top - bottom) * (width - left - right) / (height * width)
        x, w = inside(left, right, width, self._clip.width)
        y, h = inside(top, bottom, height, self._clip.height)
        return [Score(filter="letterbox", value=share), Score(filter="letterbox_crop", label=f"{w}:{h}:{x}:{y}")]


def bars(means: Float[np.ndarray, " n"], spots: Float[np.ndarray, " n"]) -> tuple[int, int]:
    """How many lines at the beginning and at the end belong to a bar; both the whole number when all are black."""
    black = (means <= DARK) & (spots <= SPOT)
    if black.all():
        return len(black), len(black)
    before, after = int(np.argmin(black)), int(np.argmin(black[::-1]))
    return _bar(means, before), _bar(means[::-1], after)


def inside(before: int, after: int, lines: int, pixels: int) -> tuple[int, int]:
    """(first pixel, number of pixels) at display size between two bars given in scan lines; even numbers, within."""
    scale = pixels / lines
    first = 2 * math.ceil((before + 1) * scale / 2) if before else 0
    end = math.floor((lines - after - 1) * scale) if after else pixels
    return first, max(2, (end - first) // 2 * 2)


def _bar(means: Float[np.ndarray, " n"], count: int) -> int:
    """`count` where the lines right behind it, a twentieth of all, are brighter than it; else 0."""
    beside = means[count : count + max(2, len(means) // 20)]
    return count if count >= LEAST_LINES and beside.max() - means[:count].mean() >= EDGE else 0
