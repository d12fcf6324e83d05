"""How much text lies over a clip: subtitles, captions, logos. Exercised by `pytest tests/vapdata/filters/test_text_overlay.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import CallError, MissingInput
from vapdata.step import Meter

Detector = Callable[[UInt8[np.ndarray, "h w 3"]], "list[Float[np.ndarray, '4 2']]"]
"""A picture (RGB) to the corners of its lines of text, (x, y) in pixels."""


@dataclass(frozen=True, kw_only=True)
class TextOverlay:
    """Area and persistence of text.

    What: lines of text found by a detector, in sampled frames. `text_overlay` is the share of the picture that they cover, averaged
        over the frames; `text_overlay_persistence` the share of the frames in which the place that shows text most often shows it:
        near 1 for subtitles, logos and what is written on things that stand still, low for signs that pass by.
    Reads: frames at `fps`, at the scan size, scaled to `long_side` for the detector. Lines lower than about 4 % of the height of a landscape picture are missed.
    Writes: `text_overlay`, 0-1, and `text_overlay_persistence`, 0-1.
    Default: 1 frame per second, 320 px. At 640 px, what it misses at 320 is found, and patterns and whole pictures are taken for text (two of seven clips).
    Cost: 50 to 80 ms per sampled frame, 2 ms per frame of a 30 fps video: twice what its decoding costs.
    Fails when: the clip has no frame. The extra `text` has to be installed (CallError).
    Source: PP-OCR's detector (PaddleOCR; differentiable binarization, Liao et al., AAAI 2020) as the package `rapidocr` ships it.
        EasyAnimate keeps clips with at most 0.02 of text.
    """

    name: ClassVar[str] = "text_overlay"
    fps: float = 1.0
    long_side: int = 320
    """Pixels of the longer side that the detector works at."""

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise CallError(f"text_overlay.fps: got {self.fps:g}, wants more than 0; type --set text_overlay.fps=1")
        if self.long_side < 64:
            raise CallError(f"text_overlay.long_side: got {self.long_side} px, wants 64 or more; type --set text_overlay.long_side=320")

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """Both are numbers."""
        return {"text_overlay": "value", "text_overlay_persistence": "value"}

    def open(self) -> Callable[[Clip], Meter]:
        """Loads the detector (10 MB, in the package), one thread. Raises CallError where the extra is not installed."""
        detect = _detector(self.long_side)
        return lambda clip: TextMeter(clip, detect)


class TextMeter:
    """Adds up where one clip's frames show text."""

    def __init__(self, clip: Clip, detect: Detector) -> None:
        self._clip = clip
        self._detect = detect
        self._covered: Float[np.ndarray, "h w"] | None = None
        self._frames = 0

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes one frame; its time does not matter."""
        mask = np.zeros(frame.shape[:2], np.uint8)
        for corners in self._detect(frame):
            cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1)
        self._covered = mask.astype(np.float64) if self._covered is None else self._covered + mask
        self._frames += 1

    def finish(self) -> list[Score]:
        """Two scores. Raises MissingInput for a clip without frames."""
        if self._covered is None:
            raise MissingInput(f"text_overlay of {self._clip.clip_id}: got 0 frames, needs one; see `vapdata retry`")
        share = self._covered / self._frames
        return [Score(filter="text_overlay", value=float(share.mean())), Score(filter="text_overlay_persistence", value=float(share.max()))]


def _detector(long_side: int) -> Detector:
    try:
        from rapidocr import RapidOCR  # an extra: nothing else loads it
    except ImportError as error:
        raise CallError("text_overlay: its text detector is not installed; type: pip install 'vapdata[text]'") from error
    threads = {"EngineConfig.onnxruntime.intra_op_num_threads": 1, "EngineConfig.onnxruntime.inter_op_num_threads": 1}
    engine = RapidOCR(params={"Global.log_level": "error", "Det.limit_type": "max", "Det.limit_side_len": long_side, **threads})

    def detect(frame: UInt8[np.ndarray, "h w 3"]) -> "list[Float[np.ndarray, '4 2']]":
        scale = long_side / max(frame.shape[:2])
        size = tuple(max(32, round(side * scale)) for side in (frame.shape[1], frame.shape[0]))
        found = engine(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), size, interpolation=cv2.INTER_CUBIC), use_det=True, use_cls=False, use_rec=False)
        boxes = [] if found.boxes is None else found.boxes
        back = np.array([frame.shape[1] / size[0], frame.shape[0] / size[1]])
        return [np.asarray(box, np.float64) * back for box in boxes]

    return detect
