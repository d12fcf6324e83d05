"""How sharp a clip is, without a reference. Exercised by `pytest tests/vapdata/filters/test_clarity.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import MissingInput
from vapdata.filters.shrink import grey_at_most
from vapdata.step import Meter

LONG_SIDE = 320
"""Pixels on the longer side that a picture is scaled down to first, so that clips of all sizes compare."""


@dataclass(frozen=True, kw_only=True)
class Clarity:
    """Variance of the Laplacian.

    What: for each sampled frame the variance of the 4-neighbour Laplacian of its luma; the median over the frames,
        so that one blurred frame does not decide.
    Reads: frames at `fps`, longer side at most 320 px: at this size it tells motion blur, defocus and upscaled
        low resolution; compression detail finer than that is not seen.
    Writes: `clarity`, 0 (no edge at all) upwards.
    Default: 1 frame per second.
    Cost: about 0.1 ms per sampled frame.
    Fails when: the clip has no frame.
    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000 (variance of Laplacian).
    """

    name: ClassVar[str] = "clarity"
    fps: float = 1.0

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """One number."""
        return {"clarity": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return ClarityMeter


class ClarityMeter:
    """Collects the sharpness of one clip's frames."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._values: list[float] = []

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes one frame; its time does not matter."""
        self._values.append(laplacian_variance(grey_at_most(frame, LONG_SIDE)))

    def finish(self) -> list[Score]:
        """The median. Raises MissingInput for a clip without frames."""
        if not self._values:
            raise MissingInput(f"clarity of {self._clip.clip_id}: got 0 frames, needs one; see `vapdata retry`")
        return [Score(filter="clarity", value=float(np.median(self._values)))]


def laplacian_variance(grey: UInt8[np.ndarray, "h w"]) -> float:
    """Variance of I(x+1,y) + I(x-1,y) + I(x,y+1) + I(x,y-1) - 4 I(x,y), borders mirrored; in squared grey levels."""
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S, ksize=1))
    return float(deviation[0, 0] ** 2)
