"""How strongly a clip shows the blocks that it was compressed in. Exercised by `pytest tests/vapdata/filters/test_blockiness.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import CallError, MissingInput
from vapdata.step import Meter
from vapdata.video import Frame

BLOCK = 8
SMOOTH = 0.5
"""Grey levels added to both means, so that a flat picture has no blocks instead of no answer."""


@dataclass(frozen=True, kw_only=True)
class Blockiness:
    """Steps at the borders of 8 x 8 blocks.

    What: the mean difference of neighbouring pixels across the borders of the 8 x 8 grid over that elsewhere, rows and columns
        together; the median over the frames. About 1 where no block shows, 1.1 and more where the eye sees them.
    Reads: the unscaled luma of the picture's middle (256 x 256 at most) at `fps`: at the scan size no block is left. A clip that was scaled
        after it was compressed has its blocks elsewhere, and scores 1.
    Writes: `blockiness`, from about 0.9 upwards.
    Default: 1 frame per second.
    Cost: 0.5 ms per sampled frame; 0.05 ms per decoded frame for having the luma brought along.
    Fails when: the clip has no frame, or one of fewer than 16 pixels on a side.
    Source: the blockiness term of Wang, Sheikh and Bovik, "No-reference perceptual quality assessment of JPEG compressed images",
        ICIP 2002, as a ratio, so that sharp pictures do not count as blocky.
    """

    name: ClassVar[str] = "blockiness"
    needs: ClassVar[frozenset[str]] = frozenset({"detail"})
    fps: float = 1.0

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise CallError(f"blockiness.fps: got {self.fps:g}, wants more than 0; type --set blockiness.fps=1")

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """One number."""
        return {"blockiness": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return BlockinessMeter


class BlockinessMeter:
    """Collects the blockiness of one clip's frames."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._values: list[float] = []

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """The picture at the scan size shows no blocks."""

    def add_frame(self, frame: Frame, time_s: float) -> bool:
        """Takes one frame's detail; its time does not matter."""
        if frame.detail is not None and min(frame.detail.shape) >= 2 * BLOCK:
            self._values.append(blockiness(frame.detail))
        return True

    def finish(self) -> list[Score]:
        """The median. Raises MissingInput for a clip without a frame that is large enough."""
        if not self._values:
            raise MissingInput(f"blockiness of {self._clip.clip_id}: needs one frame of {2 * BLOCK} x {2 * BLOCK} pixels, got none; see `vapdata retry`")
        return [Score(filter="blockiness", value=float(np.median(self._values)))]


def blockiness(luma: UInt8[np.ndarray, "h w"]) -> float:
    """(mean |step| across the borders of the 8 x 8 grid + 0.5) / (mean |step| elsewhere + 0.5), both directions together; no unit."""
    across = [np.abs(np.diff(luma.astype(np.int16), axis=axis)) for axis in (0, 1)]
    steps = [(each if axis == 0 else each.T) for axis, each in enumerate(across)]
    at_border = np.concatenate([each[BLOCK - 1 :: BLOCK].ravel() for each in steps])
    total, count = sum(int(each.sum()) for each in steps), sum(each.size for each in steps)
    elsewhere = (total - int(at_border.sum())) / (count - at_border.size)
    return float((at_border.mean() + SMOOTH) / (elsewhere + SMOOTH))
