"""Whether a clip stands still: frozen frames. Exercised by `pytest tests/vapdata/filters/test_static.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import CallError, MissingInput
from vapdata.filters.shrink import grey_at_most
from vapdata.step import Meter

LONG_SIDE = 160
BLOCK = 8
"""Pixels on a side of the blocks that are compared: a small thing that moves keeps a picture from being frozen."""


@dataclass(frozen=True, kw_only=True)
class Static:
    """Frozen frames.

    What: a frame is frozen when no block of 8 x 8 pixels differs from the frame before by `least` grey levels or more on average.
        `static` is the share of the clip's time that is frozen, `static_longest_s` its longest stretch. A still camera is not enough:
        what lives, and a sensor's noise, differ by more.
    Reads: frames at `fps`, longer side at most 160 px.
    Writes: `static`, 0-1, and `static_longest_s`, seconds.
    Default: 4 frames per second, 1 grey level.
    Cost: about 0.1 ms per sampled frame.
    Fails when: the clip has fewer than two frames.
    Source: after ffmpeg's freezedetect, which compares whole pictures (mean difference below a thousandth of the range).
    """

    name: ClassVar[str] = "static"
    fps: float = 4.0
    least: float = 1.0
    """Grey levels, 0-255."""

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise CallError(f"static.fps: got {self.fps:g}, wants more than 0; type --set static.fps=4")

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """Both are numbers."""
        return {"static": "value", "static_longest_s": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return lambda clip: StaticMeter(clip, self.least)


class StaticMeter:
    """Compares one clip's frames with their neighbours."""

    def __init__(self, clip: Clip, least: float) -> None:
        self._clip = clip
        self._least = least
        self._last: UInt8[np.ndarray, "h w"] | None = None
        self._last_s = 0.0
        self._seconds = self._frozen_s = self._run_s = self._longest_s = 0.0

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes the next frame and its time; a frame given again (same time) is skipped."""
        if self._last is not None and time_s <= self._last_s:
            return
        grey = grey_at_most(frame, LONG_SIDE)
        if self._last is not None:
            gap_s = time_s - self._last_s
            self._seconds += gap_s
            self._run_s = self._run_s + gap_s if largest_change(self._last, grey) < self._least else 0.0
            self._frozen_s += gap_s if self._run_s else 0.0
            self._longest_s = max(self._longest_s, self._run_s)
        self._last, self._last_s = grey, time_s

    def finish(self) -> list[Score]:
        """Two scores. Raises MissingInput for a clip of one frame."""
        if self._seconds == 0:
            raise MissingInput(
                f"static of {self._clip.clip_id}: needs two frames, the clip has fewer. Nothing to do; "
                "leave such clips out with --where \"static is not null\""
            )
        return [Score(filter="static", value=self._frozen_s / self._seconds), Score(filter="static_longest_s", value=self._longest_s)]


def largest_change(first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h w"]) -> float:
    """The largest mean of |second - first| over a block of 8 x 8 pixels, anywhere; grey levels."""
    return float(cv2.boxFilter(cv2.absdiff(first, second), cv2.CV_32F, (BLOCK, BLOCK)).max())
