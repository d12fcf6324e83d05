"""A picture that shows many clips at once: one row each, its name before it, frames from left to right.

Exercised by `pytest tests/vapdata/conditions/test_contact_sheet.py`.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

NAME_WIDTH = 150
GAP = 3


def contact_sheet(
    rows: Sequence[tuple[str, UInt8[np.ndarray, "_ _ _ 3"]]], columns: int = 6, height: int = 96
) -> UInt8[np.ndarray, "h w 3"]:
    """`columns` frames of each (name, frames), spread evenly from the first to the last, `height` pixels high; RGB.

    Rows may have frames of other sizes and counts: each is scaled to `height`, and the sheet is as wide as the widest.
    """
    strips = [_strip(name, frames, columns, height) for name, frames in rows]
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(strip, ((0, GAP), (0, width - strip.shape[1]), (0, 0)), constant_values=255) for strip in strips]
    return np.concatenate(padded)


def _strip(name: str, frames: UInt8[np.ndarray, "t h w 3"], columns: int, height: int) -> UInt8[np.ndarray, "sh sw 3"]:
    label = np.full((height, NAME_WIDTH, 3), 255, np.uint8)
    for line, text in enumerate(name.split("\n")):
        scale = min(0.42, 0.42 * (NAME_WIDTH - 8) / max(1, cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0]))
        cv2.putText(label, text, (4, height // 2 + 16 * line), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    shown = [frames[at] for at in np.linspace(0, len(frames) - 1, columns).round().astype(int)]
    scaled = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in shown]
    gap = np.full((height, GAP, 3), 255, np.uint8)
    return np.concatenate([label, *(part for frame in scaled for part in (frame, gap))], axis=1)
