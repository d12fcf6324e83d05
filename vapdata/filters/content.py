"""Whether two clips show exactly the same frames. Exercised by `pytest tests/vapdata/filters/test_content.py`."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import MissingInput
from vapdata.step import Meter

EVERY_FRAME = 1000.0
"""A rate that no video reaches: each frame is given, and given once."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """A hash of the decoded frames.

    What: SHA-256 over size and pixels of every frame, in order: equal for copies, whatever the file's name, container or
        tags; times do not count.
    Reads: every frame, at the scan size (longer side at most 320 px).
    Writes: label `content`, 32 hex digits.
    Default: `vapdata dedup` fills it in.
    Cost: 0.1 ms per frame beside a scan; filled in later, one decode.
    Fails when: the clip has no frame.
    Source: Data-Juicer's exact video deduplicator hashes encoded packets with MD5; decoded frames also match across containers.
    """

    name: ClassVar[str] = "content"
    fps: float = EVERY_FRAME

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """One label."""
        return {"content": "label"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return ContentMeter


class ContentMeter:
    """Hashes one clip's frames as they come."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._digest = hashlib.sha256()
        self._last_s = -1.0

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes the next frame; one that is given again (same time) is skipped."""
        if time_s > self._last_s:
            self._digest.update(repr(frame.shape).encode())
            self._digest.update(np.ascontiguousarray(frame))
            self._last_s = time_s

    def finish(self) -> list[Score]:
        """The hash. Raises MissingInput for a clip without frames."""
        if self._last_s < 0:
            raise MissingInput(f"content of {self._clip.clip_id}: got 0 frames, needs one; see `vapdata retry`")
        return [Score(filter="content", label=self._digest.hexdigest()[:32])]
