"""How much moves in a clip. Exercised by `pytest tests/vapdata/filters/test_motion.py`."""

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

DECIMALS = 3
"""Places that a score keeps. The flow engine's last digits (1e-8 px) depend on what its buffers held before."""
LONG_SIDE = 320
"""The size at which a pixel is a pixel: the picture scaled down so that its longer side has at most this many."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Mean optical-flow magnitude.

    What: dense flow between neighbouring sampled frames; its length, averaged over pixels and time, in pixels per
        1/fps seconds. Frames that the grid shows twice (a rate below `fps`) are used once, and a pair that lies
        closer or further apart than 1/fps counts by its time, so the unit holds for every rate and for a clip
        shorter than 1/fps, whose last frame is then taken.
    Reads: frames at `fps`, longer side at most 320 px.
    Writes: `motion`, px per 1/fps s at that size, to a thousandth, so that a repeated scan repeats it. Camera and object motion alike.
    Default: 2 frames per second.
    Cost: 1.2 ms per sampled pair, so 0.08 ms per frame of a 30 fps video. DIS "ultrafast": on seven natural
        and textured pictures shifted by 1 to 20 px it answered within 10 % of the shift (largest error 7 %, at 1 px).
        Measured beside it: DIS "medium" 7 ms and 4 %, Farneback 12 ms and up to 72 % too low.
    Fails when: the clip has fewer than two frames.
    Source: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016; OpenCV's implementation.
        2 fps as in Data-Juicer's motion filter, whose 0.25 and RAFT's 1.0 are thresholds of other flows.
    """

    name: ClassVar[str] = "motion"
    fps: float = 2.0

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise CallError(f"motion.fps: got {self.fps:g}, wants more than 0; type --set motion.fps=2")

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """One number."""
        return {"motion": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """One flow engine, shared by the meters that this gives."""
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        return lambda clip: MotionMeter(clip, self.fps, flow)


class MotionMeter:
    """Adds up the flow between one clip's sampled frames."""

    def __init__(self, clip: Clip, fps: float, flow: cv2.DISOpticalFlow) -> None:
        self._clip = clip
        self._fps = fps
        self._flow = flow
        self._last: UInt8[np.ndarray, "h w"] | None = None
        self._last_s = 0.0
        self._pixels = 0.0
        self._seconds = 0.0

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes the next frame and its own time; a frame given again (same time) is skipped."""
        if self._last is not None and time_s <= self._last_s:
            return
        grey = grey_at_most(frame, LONG_SIDE)
        if self._last is not None:
            self._pixels += mean_flow(self._flow, self._last, grey)
            self._seconds += time_s - self._last_s
        self._last, self._last_s = grey, time_s

    def finish(self) -> list[Score]:
        """Pixels per 1/fps seconds. Raises MissingInput for a clip of one frame."""
        if self._seconds == 0:
            raise MissingInput(
                f"motion of {self._clip.clip_id}: needs two frames, the clip has fewer. Nothing to do; "
                "leave such clips out with --where \"motion is not null\""
            )
        return [Score(filter="motion", value=round(self._pixels / self._seconds / self._fps, DECIMALS))]


def mean_flow(flow: cv2.DISOpticalFlow, first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h w"]) -> float:
    """Mean over pixels of the length of the flow from `first` to `second`, in pixels of these pictures."""
    across, down = cv2.split(flow.calc(_at_least_dis(first), _at_least_dis(second), None))
    # Not cv2.magnitude: its last digit depends on where its result lies in memory, and two builds must agree.
    return float(np.sqrt(across * across + down * down).mean(dtype=np.float64))


def _at_least_dis(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "bh bw"]:
    """DIS needs a few of its patches on each side; smaller pictures are continued at their right and lower borders."""
    height, width = grey.shape
    return cv2.copyMakeBorder(grey, 0, max(0, 32 - height), 0, max(0, 32 - width), cv2.BORDER_REPLICATE)
