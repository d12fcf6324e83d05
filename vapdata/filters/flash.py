"""How often a clip flashes. Exercised by `pytest tests/vapdata/filters/test_flash.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import CallError, MissingInput
from vapdata.filters.brightness import LUMA
from vapdata.step import Meter


@dataclass(frozen=True, kw_only=True)
class Flash:
    """Short bursts of light, or of dark.

    What: how many times the picture's mean luma goes up by `least` or more and back again, all within twice `within_s`, or
        down and back, whichever is more often. What stays bright is a cut or a lamp, no flash.
    Reads: frames at `fps`, at the scan size: one of a single frame must not be missed.
    Writes: `flash`, a count.
    Default: 30 frames per second; a tenth of the range; a third of a second.
    Cost: 0.02 ms per frame.
    Fails when: the clip has fewer than three frames.
    Source: WCAG 2.2, "general flash": a pair of opposing changes of a tenth of the range (of linear light there, of luma here); more
        than three within a second are a hazard.
    """

    name: ClassVar[str] = "flash"
    fps: float = 30.0
    least: float = 25.5
    """Levels of mean luma, 0-255."""
    within_s: float = 1 / 3

    def __post_init__(self) -> None:
        if self.fps < 10:
            raise CallError(f"flash.fps: got {self.fps:g}, wants 10 or more so that no flash falls between; type --set flash.fps=30")

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """One number."""
        return {"flash": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return lambda clip: FlashMeter(clip, self.least, self.within_s)


class FlashMeter:
    """Collects the luma of one clip's frames."""

    def __init__(self, clip: Clip, least: float, within_s: float) -> None:
        self._clip = clip
        self._least, self._within_s = least, within_s
        self._times: list[float] = []
        self._lumas: list[float] = []

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes the next frame and its time; a frame given again (same time) is skipped."""
        if self._times and time_s <= self._times[-1]:
            return
        self._times.append(time_s)
        self._lumas.append(float(np.dot(cv2.mean(frame[::4, ::4])[:3], LUMA)))

    def finish(self) -> list[Score]:
        """The count. Raises MissingInput for a clip of two frames or fewer."""
        if len(self._times) < 3:
            raise MissingInput(
                f"flash of {self._clip.clip_id}: needs three frames, the clip has fewer. Nothing to do; "
                "leave such clips out with --where \"flash is not null\""
            )
        times, lumas = np.array(self._times), np.array(self._lumas)
        light, dark = (bursts(times, sign * lumas, self._least, self._within_s) for sign in (1, -1))
        return [Score(filter="flash", value=float(max(light, dark)))]


def bursts(times: Float[np.ndarray, " n"], lumas: Float[np.ndarray, " n"], least: float, within_s: float) -> int:
    """How often `lumas` rises by `least` and falls by as much again, from start to end within twice `within_s`."""
    found, peak, valley, rising = 0, 0, 0, False
    for index in range(1, len(lumas)):
        if rising:
            peak = index if lumas[index] > lumas[peak] else peak
            if lumas[index] <= lumas[peak] - least:
                start = np.flatnonzero(lumas[:peak] <= lumas[peak] - least)[-1]
                found += int(times[index] - times[start] <= 2 * within_s + 1e-6)
                rising, valley = False, index
        else:
            valley = index if lumas[index] < lumas[valley] else valley
            if lumas[index] >= lumas[valley] + least:
                rising, peak = True, index
    return found
