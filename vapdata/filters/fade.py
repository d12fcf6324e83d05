"""Whether a clip fades in or out. Exercised by `pytest tests/vapdata/filters/test_fade.py`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import CallError, MissingInput
from vapdata.step import Meter

EMPTY = 0.15
"""A frame whose contrast is at most this share of the clip's is empty: black, white, or any one colour."""
FULL = 0.9
"""A fade is over where the contrast reaches this share of what it settles at."""
SETTLES_S = 1.0
LEAST_S = 0.2
"""Shorter is a cut."""
FLAT = 4.0
"""Grey levels: a clip of less contrast has nothing that could fade."""


@dataclass(frozen=True, kw_only=True)
class Fade:
    """Fades from and to an empty picture.

    What: how long the picture takes at the clip's beginning to come out of one colour, and at its end to go back: its contrast
        (standard deviation of luma) starts below 15 % of what it settles at and rises without a fall until 90 % of it.
        Black, white or any colour; a dissolve into another picture is a matter of `cuts`.
    Reads: frames at `fps`, at the scan size.
    Writes: `fade_in_s` and `fade_out_s`, seconds, 0 where there is none.
    Default: 8 frames per second.
    Cost: about 0.05 ms per sampled frame.
    Fails when: the clip has fewer than two frames.
    Source: ours.
    """

    name: ClassVar[str] = "fade"
    fps: float = 8.0

    def __post_init__(self) -> None:
        if self.fps < 4:
            raise CallError(f"fade.fps: got {self.fps:g}, wants 4 or more to tell a fade from a cut; type --set fade.fps=8")

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """Both are numbers."""
        return {"fade_in_s": "value", "fade_out_s": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return FadeMeter


class FadeMeter:
    """Collects the contrast of one clip's frames."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._times: list[float] = []
        self._contrasts: list[float] = []

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes the next frame and its time; a frame given again (same time) is skipped."""
        if self._times and time_s <= self._times[-1]:
            return
        _, deviation = cv2.meanStdDev(cv2.cvtColor(frame[::2, ::2], cv2.COLOR_RGB2GRAY))
        self._times.append(time_s)
        self._contrasts.append(float(deviation[0, 0]))

    def finish(self) -> list[Score]:
        """Two scores in seconds. Raises MissingInput for a clip of one frame."""
        if len(self._times) < 2:
            raise MissingInput(
                f"fade of {self._clip.clip_id}: needs two frames, the clip has fewer. Nothing to do; "
                "leave such clips out with --where \"fade_in_s is not null\""
            )
        mirrored = [self._times[-1] - time for time in reversed(self._times)]
        return [
            Score(filter="fade_in_s", value=fade_in(self._times, self._contrasts)),
            Score(filter="fade_out_s", value=fade_in(mirrored, self._contrasts[::-1])),
        ]


def fade_in(times: Sequence[float], contrasts: Sequence[float]) -> float:
    """Seconds from the last empty frame at the beginning to the first full one; 0 where the contrast does not rise steadily.

    Full is measured by the median of the second that follows the rise.
    """
    rise = 0
    while rise + 1 < len(contrasts) and contrasts[rise + 1] >= 0.97 * contrasts[rise]:
        rise += 1
    settled = [each for time, each in zip(times, contrasts, strict=True) if times[rise] - 1e-6 <= time <= times[rise] + SETTLES_S]
    level = float(np.median(settled))
    empty = [index for index in range(rise + 1) if contrasts[index] <= EMPTY * level]
    full = [index for index in range(len(contrasts)) if contrasts[index] >= FULL * level]
    if level < FLAT or not empty or not full or empty[-1] > full[0]:
        return 0.0
    length = times[full[0]] - times[empty[-1]]
    return length if length >= LEAST_S else 0.0
