"""Pictures made small enough to be measured cheaply, and alike for all sizes. Exercised by the tests of every filter that uses it."""

import cv2
import numpy as np
from jaxtyping import UInt8


def at_most(frame: UInt8[np.ndarray, "h w 3"], long_side: int, interpolation: int = cv2.INTER_AREA) -> UInt8[np.ndarray, "sh sw 3"]:
    """`frame`, scaled down so that its longer side has at most `long_side` pixels; never enlarged."""
    height, width = frame.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return frame
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(frame, size, interpolation=interpolation)


def grey_at_most(frame: UInt8[np.ndarray, "h w 3"], long_side: int) -> UInt8[np.ndarray, "sh sw"]:
    """The luma of `at_most`."""
    return cv2.cvtColor(at_most(frame, long_side), cv2.COLOR_RGB2GRAY)
