"""Where one shot ends and the next begins. Exercised by `pytest tests/vapdata/filters/test_cuts.py`."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from vapdata.errors import CallError
from vapdata.filters.lengths import Lengths
from vapdata.filters.shrink import at_most
from vapdata.filters.transnet import LONGEST_WAIT, TransNetFinder

WINDOW = 2
"""Frames before and after a frame whose mean change the adaptive detector compares it with."""


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Shot changes, found while the frames stream past.

    What: PySceneDetect's detector proposes a frame as the first of a new shot; three checks of ours confirm it: its
        pixels differ from those of the frame before by `min_rgb` (hue and saturation of nearly black or white pictures are
        noise: a fade-in and a logo on white were false cuts without it), no other frame within `hold` frames changes
        nearly as much (pictures drawn once per two to five frames, and flashes, look like a row of cuts), and
        `min_s` has passed since the last cut. Dissolves are found when they begin with a jump, else not at all.
    Reads: every frame at the scan size, scaled down to `side`.
    Writes: nothing; a scan makes one clip per shot.
    Default: adaptive, ratio 4. On 59 natural clips every hard cut listed for six multi-shot ones is found at its
        frame, none elsewhere. The weakest listed cut has ratio 5.0, change 14.9 and RGB change 45; the strongest
        frame that is none has ratio 3.2 where the other two are enough, RGB change 8 where they are.
        The result stays the same for `side` 64 to 128 and with all thresholds at 0.8 of these. Three grey cuts
        between alike framings (change 8-9) are not found; `min_change=7.5` finds them.
    Cost: 0.06 ms per frame at the scan size; an answer comes at most `delay` frames after its frame.
    Fails when: never.
    Source: PySceneDetect 0.7, AdaptiveDetector (default ratio 3, change 15) and ContentDetector (default 27); for `transnet`,
        vapdata/filters/transnet.py: it sees dissolves too, wants `weights`, and alone decides (the three checks are left out).
        Long takes are split every `max_s` seconds where that is given; `none` does only that.
    """

    name: ClassVar[str] = "cuts"
    detector: Literal["adaptive", "content", "transnet", "none"] = "adaptive"
    ratio: float = 4.0
    """Adaptive: a frame's change over the mean change of the two frames on each side. A flash of one frame has 4 at most."""
    min_change: float = 12.0
    """Mean difference of hue, saturation and value, 0-255; `content` proposes on this alone (27 is usual there)."""
    min_rgb: float = 12.0
    """Mean absolute difference of red, green and blue, 0-255."""
    hold: int = 5
    """Frames on each side, none of which may change by two thirds as much."""
    min_s: float = 0.25
    """Shortest shot, in seconds, but for the last one."""
    max_s: float | None = None
    """Longest clip: a take that goes on is split every so many seconds. None: never."""
    side: int = 64
    """Longer side, in pixels, that frames are scaled down to and compared at."""
    weights: str | None = None
    """`transnet`: its safetensors file."""
    probability: float = 0.5
    """`transnet`: from which on a frame is a transition. Cosmos-Curate takes 0.4."""

    def __post_init__(self) -> None:
        if self.hold < WINDOW:
            raise CallError(f"cuts.hold: got {self.hold}, wants {WINDOW} or more; type --set cuts.hold=5")
        if self.side < 16:
            raise CallError(f"cuts.side: got {self.side} px, wants 16 or more; type --set cuts.side=64")
        if self.max_s is not None and self.max_s < max(self.min_s, 1e-3):
            raise CallError(f"cuts.max_s: got {self.max_s:g} s, wants at least min_s ({self.min_s:g} s); type --set cuts.max_s=10")
        if self.detector == "transnet" and not self.weights:
            raise CallError("cuts.detector: transnet wants its weights; type --set cuts.weights=transnetv2.safetensors")

    @property
    def delay(self) -> int:
        """How many frames after a frame its answer comes at the latest."""
        return LONGEST_WAIT if self.detector == "transnet" else self.hold

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """No scores."""
        return {}

    def open(self) -> "CutFinder | TransNetFinder":
        """A finder for one video."""
        lengths = Lengths(self.min_s, self.max_s)
        if self.detector == "transnet":
            return TransNetFinder(str(self.weights), self.probability, lengths)
        return CutFinder(self, lengths)


class CutFinder:
    """Finds the cuts of one video, given its frames in order."""

    def __init__(self, settings: Cuts, lengths: Lengths) -> None:
        self._settings = settings
        self._lengths = lengths
        self._detector = _detector(settings)
        self._index = -1
        self._times: deque[float] = deque(maxlen=settings.hold + 1)
        self._changes: deque[float] = deque(maxlen=2 * settings.hold + 1)
        self._proposed: deque[int] = deque()
        self._small: UInt8[np.ndarray, "h w 3"] | None = None

    def add(self, image: UInt8[np.ndarray, "h w 3"], time_s: float) -> list[int]:
        """Takes the next frame; gives the indices (from 0, in calls of `add`) of frames that begin a new shot.

        An index comes exactly `delay` calls after that frame went in.
        """
        self._index += 1
        # Bilinear: it samples 4 of the pixels that area averaging would add up, in a twentieth of the time (0.01 ms).
        small = at_most(image, self._settings.side, cv2.INTER_LINEAR)
        self._note(small, time_s)
        if self._detector is not None:
            timecode = FrameTimecode(self._index, fps=1.0)
            bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
            self._proposed.extend(at.frame_num for at in self._detector.process_frame(timecode, bgr))
        return self._confirm(self._index - self._settings.hold)

    def finish(self) -> list[int]:
        """Indices of cuts among the last `delay` frames, which no later frame will confirm."""
        found: list[int] = []
        for target in range(self._index - self._settings.hold + 1, self._index + 1):
            self._changes.append(0.0)
            self._times.append(self._times[-1] if self._times else 0.0)
            found += self._confirm(target)
        return found

    def _note(self, small: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        comparable = self._small is not None and self._small.shape == small.shape
        self._changes.append(sum(cv2.mean(cv2.absdiff(small, self._small))[:3]) / 3 if comparable else 0.0)
        self._times.append(time_s)
        self._small = small

    def _confirm(self, target: int) -> list[int]:
        if target < 0:
            return []
        return [target] if self._lengths.begins(self._is_cut(target), self._times[0]) else []

    def _is_cut(self, target: int) -> bool:
        while self._proposed and self._proposed[0] < target:
            self._proposed.popleft()
        if not self._proposed or self._proposed[0] != target:
            return False
        changes = list(self._changes)
        change = changes.pop(-1 - self._settings.hold)
        return change >= self._settings.min_rgb and max(changes) <= change * 2 / 3


class _QuickScore(ContentDetector):
    """The library's score with OpenCV's arithmetic: the same number in a quarter of the time, which is most of a cut's cost.

    Overrides a method that the library calls its own; a test holds the two together.
    """

    _last_hsv: UInt8[np.ndarray, "h w 3"] | None = None

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: UInt8[np.ndarray, "h w 3"]) -> float:
        last, self._last_hsv = self._last_hsv, cv2.cvtColor(frame_img, cv2.COLOR_BGR2HSV)
        if last is None or last.shape != self._last_hsv.shape:
            return 0.0
        return sum(cv2.mean(cv2.absdiff(self._last_hsv, last))[:3]) / 3


class _QuickAdaptive(_QuickScore, AdaptiveDetector):
    """AdaptiveDetector with the quick score."""


def _detector(settings: Cuts) -> ContentDetector | None:
    if settings.detector == "none":
        return None
    if settings.detector == "content":
        return _QuickScore(threshold=settings.min_change, min_scene_len=0)
    return _QuickAdaptive(
        adaptive_threshold=settings.ratio, min_scene_len=0, window_width=WINDOW, min_content_val=settings.min_change
    )
