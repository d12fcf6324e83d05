"""How the whole picture moves from frame to frame: points tracked, a similarity fitted to most of them.

The maths beneath `camera_motion`, which says what the numbers mean. Exercised by
`pytest tests/vapdata/filters/test_global_motion.py`.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

MAX_POINTS = 100
LEAST_POINTS = 8
"""Fewer tracked points than this say nothing about the camera."""
WINDOW = (9, 9)
LEVELS = 3
BACK_PX = 0.7
"""A point that, tracked there and back, misses its start by more than this was lost."""
AGREE_PX = 1.0
"""A point this near to where the fitted motion puts it follows it."""
STILL_PX = 0.35
"""A point that moved less than this stands still."""
STILL_SHARE = 0.35
"""Where the points of this share of the picture stand still, the camera does: what else moves in one direction is a large object."""
CELLS = (6, 4)
"""Columns and rows in which agreement is counted, so that a small thing full of corners has one voice and not fifty."""
OLDEST = 16
"""Frames after which the picture that others are compared with is replaced though nothing moved: light changes, people leave."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the content of a picture lies compared with an earlier one, seen on the screen."""

    right: float
    """Of the content at the picture's middle, in parts of the longer side."""
    down: float
    """As `right`."""
    degrees: float
    """Turn, clockwise as seen."""
    log_zoom: float
    """Natural logarithm of the enlargement."""
    support: float
    """Share of the picture's cells whose points follow, 0-1."""
    still: bool = False
    """Whether it is no motion at all."""
    rival: float = 0.0
    """Where the picture stands still: share of the cells that move together in another way, all the same."""
    tracked: float = 1.0
    """Share of the points that were found again."""


def pose(first: UInt8[np.ndarray, "h w"], corners: Float[np.ndarray, "n 2"], second: UInt8[np.ndarray, "h w"]) -> Pose | None:
    """The similarity that most of `first`'s corners follow to `second`; None where fewer than eight can be tracked.

    Pyramidal Lucas-Kanade, there and back, from rest and, where that loses half of them (a fast pan), from the shift that
    phase correlation proposes; the fit is RANSAC, whose draws OpenCV seeds alike each time. Points at rest in a third
    of the picture win against a larger part that moves.
    """
    there, kept = _tracked(first, second, corners, np.zeros(2))
    if kept.mean() < 0.5:
        proposed = _tracked(first, second, corners, _shift(first, second))
        if proposed[1].sum() > kept.sum():
            there, kept = proposed
    if kept.sum() < LEAST_POINTS:
        return None
    return _fitted(corners[kept], there[kept], first.shape, float(kept.mean()))


def corners_of(picture: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "n 2"] | None:
    """Points (x, y) that can be tracked (Shi-Tomasi), spread over the picture; None where there are fewer than eight."""
    found = cv2.goodFeaturesToTrack(picture, MAX_POINTS, 0.0003, max(3, max(picture.shape) // 16))
    return None if found is None or len(found) < LEAST_POINTS else found.reshape(-1, 2)


class PathTracker:
    """The content's path over one clip: each frame is compared with the last one from which the picture moved.

    A picture that stands still is compared with the same one again and again, so noise does not add up to a drift and
    a motion too slow to see between neighbours is seen as soon as it comes to a third of a pixel.
    """

    def __init__(self) -> None:
        self.path: list[tuple[float, float, float, float]] = []
        """Per frame: right, down, degrees, log zoom since the first."""
        self.supports: list[float | None] = []
        """Per frame but the first: its pose's support; None where nothing could be tracked."""
        self.stills: list[bool] = []
        """Per frame but the first: whether it stands where the frame before stood."""
        self.rivals: list[float] = []
        """Per frame but the first: its pose's rival."""
        self._base = np.zeros(4)
        self._reference: UInt8[np.ndarray, "h w"] | None = None
        self._corners: Float[np.ndarray, "n 2"] | None = None
        self._last: UInt8[np.ndarray, "h w"] | None = None
        self._age = 0

    def add(self, grey: UInt8[np.ndarray, "h w"]) -> None:
        """The next frame."""
        if self._last is None:
            self.path.append((0.0, 0.0, 0.0, 0.0))
            self._refer_to(grey)
        else:
            self._follow(grey)
        self._last = grey

    def _follow(self, grey: UInt8[np.ndarray, "h w"]) -> None:
        found = self._pose(grey)
        if (found is None or found.tracked < 0.5) and self._age and self._last is not None:
            self._base = np.array(self.path[-1])
            self._refer_to(self._last)
            found = self._pose(grey)
        self.supports.append(None if found is None else found.support)
        self.stills.append(found is not None and found.still)
        self.rivals.append(found.rival if found is not None else 0.0)
        moved = np.zeros(4) if found is None else np.array([found.right, found.down, found.degrees, found.log_zoom])
        self.path.append(tuple((self._base + moved).tolist()))
        self._age += 1
        if found is None or not found.still or self._age >= OLDEST:
            self._base = np.array(self.path[-1])
            self._refer_to(grey)

    def _pose(self, grey: UInt8[np.ndarray, "h w"]) -> Pose | None:
        return None if self._corners is None or self._reference is None else pose(self._reference, self._corners, grey)

    def _refer_to(self, grey: UInt8[np.ndarray, "h w"]) -> None:
        self._reference, self._corners, self._age = grey, corners_of(grey), 0


def _tracked(
    first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h w"], here: Float[np.ndarray, "n 2"], guess: Float[np.ndarray, " 2"]
) -> tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
    """(where the points are in `second`, which of them were found)."""
    setting = {"winSize": WINDOW, "maxLevel": LEVELS, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW, "criteria": (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 10, 0.03)}
    there, found, _ = cv2.calcOpticalFlowPyrLK(first, second, here, (here + guess).astype(np.float32), **setting)
    back, seen, _ = cv2.calcOpticalFlowPyrLK(second, first, there, (there - guess).astype(np.float32), **setting)
    missed = np.linalg.norm(back - here, axis=1)
    return there, (found.ravel() == 1) & (seen.ravel() == 1) & (missed < BACK_PX)


def _shift(first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, " 2"]:
    """The shift (right, down) of the whole picture in pixels, by phase correlation."""
    height, width = first.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    (right, down), _ = cv2.phaseCorrelate(first.astype(np.float32), second.astype(np.float32), window)
    return np.array([right, down])


def _fitted(here: Float[np.ndarray, "n 2"], there: Float[np.ndarray, "n 2"], shape: tuple[int, int], tracked: float) -> Pose | None:
    height, width = shape
    lengths = np.linalg.norm(there - here, axis=1)
    still = _share(here, lengths < STILL_PX, shape)
    if still >= STILL_SHARE:
        rival = _together(here, there, lengths > AGREE_PX, shape)
        return Pose(right=0.0, down=0.0, degrees=0.0, log_zoom=0.0, support=still, still=True, tracked=tracked, rival=rival)
    matrix, agreed = cv2.estimateAffinePartial2D(here, there, method=cv2.RANSAC, ransacReprojThreshold=AGREE_PX)
    if matrix is None:
        return None
    middle = np.array([width / 2, height / 2, 1.0])
    right, down = (matrix @ middle - middle[:2]) / max(height, width)
    zoom = math.hypot(matrix[0, 0], matrix[1, 0])
    turn = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    support = _share(here, agreed.ravel() == 1, shape)
    return Pose(right=float(right), down=float(down), degrees=turn, log_zoom=math.log(max(zoom, 1e-3)), support=support, tracked=tracked)


def _together(here: Float[np.ndarray, "n 2"], there: Float[np.ndarray, "n 2"], moves: Bool[np.ndarray, " n"], shape: tuple[int, int]) -> float:
    """The share of the picture whose points, among those that move, follow one similarity."""
    if moves.sum() < LEAST_POINTS:
        return 0.0
    matrix, agreed = cv2.estimateAffinePartial2D(here[moves], there[moves], method=cv2.RANSAC, ransacReprojThreshold=AGREE_PX)
    follow = np.zeros(len(here), bool)
    if matrix is not None:
        follow[np.flatnonzero(moves)[agreed.ravel() == 1]] = True
    return _share(here, follow, shape)


def _share(points: Float[np.ndarray, "n 2"], follow: Bool[np.ndarray, " n"], shape: tuple[int, int]) -> float:
    """Of the cells that hold points, the share in which more than half of them follow (half: half a cell)."""
    columns, rows = CELLS
    cell = (points[:, 0] * columns // shape[1]).astype(int) + columns * (points[:, 1] * rows // shape[0]).astype(int)
    total = np.bincount(cell, minlength=columns * rows)
    share = np.bincount(cell, weights=follow, minlength=columns * rows)[total > 0] / total[total > 0]
    return float(np.where(share > 0.5, 1.0, np.where(share == 0.5, 0.5, 0.0)).mean())
