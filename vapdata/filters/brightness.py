"""How bright a clip is. Exercised by `pytest tests/vapdata/filters/test_brightness.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import MissingInput
from vapdata.step import Meter

LUMA = (0.299, 0.587, 0.114)
"""BT.601 weights of R, G and B; for grey pictures every choice of weights agrees."""


@dataclass(frozen=True, kw_only=True)
class Brightness:
    """Mean luma.

    What: mean over sampled frames and pixels of 0.299 R + 0.587 G + 0.114 B.
    Reads: frames at `fps`, at the scan size.
    Writes: `brightness`, 0 (black) to 255 (white).
    Default: 1 frame per second.
    Cost: about 0.02 ms per sampled frame.
    Fails when: the clip has no frame.
    Source: BT.601 luma.
    """

    name: ClassVar[str] = "brightness"
    fps: float = 1.0

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """One number."""
        return {"brightness": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return BrightnessMeter


class BrightnessMeter:
    """Adds up the luma of one clip's frames."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._lumas: list[float] = []

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes one frame; its time does not matter."""
        self._lumas.append(float(np.dot(cv2.mean(frame)[:3], LUMA)))

    def finish(self) -> list[Score]:
        """The mean, 0-255. Raises MissingInput for a clip without frames."""
        if not self._lumas:
            raise MissingInput(f"brightness of {self._clip.clip_id}: got 0 frames, needs one; see `vapdata retry`")
        return [Score(filter="brightness", value=float(np.mean(self._lumas)))]
