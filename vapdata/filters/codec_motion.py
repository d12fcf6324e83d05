"""How much moves in a clip, as its codec says. Exercised by `pytest tests/vapdata/filters/test_codec_motion.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import CallError, MissingInput
from vapdata.step import Meter
from vapdata.video import Frame


@dataclass(frozen=True, kw_only=True)
class CodecMotion:
    """Mean length of the codec's motion vectors.

    What: `codec_motion` is the mean over sampled frames and pixels of the vectors' length, in parts of width + height;
        `codec_motion_min` the same of the stillest patch of about 256 x 256 pixels, each averaged over time first. Blocks coded without
        reference count as 0; of a key frame, which has none, the frame after it is taken. Vectors serve compression: of flat areas they say little, and an
        encoder that searches less finds less, so thresholds hold for one way of encoding.
    Reads: vectors at `fps`; no picture is needed, so a run of this filter alone converts and scales nothing and skips the deblocking;
        the numbers are those of a scan.
    Writes: `codec_motion`, `codec_motion_min`; a reference may lie several frames away.
    Default: 2 frames per second.
    Cost: 0.1 ms per sampled frame, and about 5 % of the decoding for having vectors exported.
    Fails when: the codec exports no vectors (VP8, VP9, AV1, HEVC, GIF, Motion JPEG), or no sampled frame has any.
    Source: NVIDIA Cosmos-Curate's motion filter, which keeps clips with 0.00098 and more, and 0.000001 and more in the stillest patch, at 2 fps.
    """

    name: ClassVar[str] = "codec_motion"
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    fps: float = 2.0

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise CallError(f"codec_motion.fps: got {self.fps:g}, wants more than 0; type --set codec_motion.fps=2")

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """Both are numbers."""
        return {"codec_motion": "value", "codec_motion_min": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return CodecMotionMeter


class CodecMotionMeter:
    """Adds up the patches of one clip's frames."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._total: Float[np.ndarray, "rows columns"] | None = None
        self._frames = 0

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Pictures say nothing about vectors."""

    def add_frame(self, frame: Frame, time_s: float) -> bool:
        """Takes the next frame's patches; one without vectors does not count, the one after it is asked for."""
        if frame.vectors is None or (self._total is not None and self._total.shape != frame.vectors.shape):
            return False
        self._total = frame.vectors + (0.0 if self._total is None else self._total)
        self._frames += 1
        return True

    def finish(self) -> list[Score]:
        """Two scores. Raises MissingInput where no frame had vectors."""
        if self._total is None:
            raise MissingInput(
                f"codec_motion of {self._clip.clip_id}: its {self._clip.codec} stream gave no motion vectors. Nothing to do; "
                "the filter motion measures every codec"
            )
        lengths = self._total / self._frames / (self._clip.width + self._clip.height)
        return [Score(filter="codec_motion", value=float(lengths.mean())), Score(filter="codec_motion_min", value=float(lengths.min()))]
