"""How long and how large a clip is, as scores. Exercised by `pytest tests/vapdata/filters/test_extent.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Clip, Score
from vapdata.step import Meter


@dataclass(frozen=True, kw_only=True)
class Extent:
    """A clip's length and shorter side, so that predicates can speak of them as of any score.

    What: `duration_s`, seconds from the first frame to the end of the last; `short_side`, display pixels.
    Reads: the clip's row alone; `fps` 0 means that no frame is asked for.
    Writes: `duration_s` (s), `short_side` (px).
    Default: no settings.
    Cost: none.
    Fails when: never.
    Source: common keep rules are 2-60 s and a shorter side of at least 480 or 512 px.
    """

    name: ClassVar[str] = "extent"
    fps: float = 0.0

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """Both are numbers."""
        return {"duration_s": "value", "short_side": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return ExtentMeter


class ExtentMeter:
    """Answers from the finished clip's facts."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Never called: the filter asks for no frames."""

    def finish(self) -> list[Score]:
        """Two scores, in seconds and pixels."""
        clip = self._clip
        return [
            Score(filter="duration_s", value=clip.duration_s),
            Score(filter="short_side", value=float(min(clip.width, clip.height))),
        ]
