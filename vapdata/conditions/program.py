"""What a procedural condition is: a named, seeded program from a picture or clip to frames that show the condition.

A program is a table row plus a painter. The painter gets a `Scene` (the source's frames and its subject) and the
drawn parameters, and yields the frames in order. Everything random comes from the parameters (`GRAIN`), so that a
render is repeated from what a catalog stores. OpenCV's thread count is the caller's (`cv2.setNumThreads`).
Exercised by `pytest tests/vapdata/conditions/test_procedural.py`.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from vapdata.conditions.inpaint import behind
from vapdata.conditions.subject import centred
from vapdata.errors import CallError

Category = Literal["concept", "style", "motion", "camera"]
Range = tuple[float, float]
Parameters = Mapping[str, float]

GRAIN: Range = (0, 2**31 - 1)
"""Range of the parameter `grain`, a whole number: the seed of everything in a render that looks random."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What a painter works on. Pixels are RGB, 0-255, frames first; y points down, x to the right."""

    frames: UInt8[np.ndarray, "t h w 3"]
    """One source frame per frame to paint; of a program that takes one frame they are all the same picture."""
    subject: Float[np.ndarray, "h w"]
    """1 where the subject of frame 0 is, 0 elsewhere, soft at its border."""

    @property
    def still(self) -> UInt8[np.ndarray, "h w 3"]:
        """Frame 0."""
        return self.frames[0]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.frames.shape[2]

    @cached_property
    def behind(self) -> UInt8[np.ndarray, "h w 3"]:
        """Frame 0 without its subject: what lay behind it, made up."""
        return behind(self.still, self.subject)

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """[left, top, right, bottom) around the subject."""
        rows, columns = np.nonzero(self.subject > 0.5)
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1

    @property
    def middle(self) -> tuple[float, float]:
        """(x, y) of the middle of the subject's box."""
        left, top, right, bottom = self.box
        return (left + right - 1) / 2, (top + bottom - 1) / 2

    def clock(self) -> Iterator[tuple[int, float]]:
        """(frame, time), time from 0 in frame 0 to 1 in the last."""
        last = max(1, len(self.frames) - 1)
        return ((frame, frame / last) for frame in range(len(self.frames)))


Painter = Callable[[Scene, Parameters], Iterator[UInt8[np.ndarray, "h w 3"]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """One procedural condition.

    Lengths in `ranges` are parts of the picture's or subject's size and times are parts of the clip, so that a
    condition looks the same at every size, rate and length.
    """

    name: str
    """Snake case, unique over all categories."""
    category: Category
    sentence: str
    """What happens, for the end of a caption. Changing it, or what is painted, raises `version`."""
    version: int = 1
    takes: Literal["frame", "clip"]
    """Animates one frame, or changes each frame of a clip."""
    needs_subject: bool = False
    """Acts on the subject; without one the middle of the picture is taken (`subject.centred`)."""
    starts_from_source: bool = True
    """Frame 0 is the source's, bit for bit, so that it does not tell which condition follows."""
    ranges: Mapping[str, Range] = field(default_factory=dict)
    """What `draw` draws from, evenly: parameter -> (lowest, highest)."""
    moves: Mapping[str, int] = field(default_factory=dict)
    """Picture statistics (`statistics.STATISTICS`) that the last frames have more (1) or less (-1) of than a source in colour."""
    paint: Painter

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranges", MappingProxyType(dict(self.ranges)))
        object.__setattr__(self, "moves", MappingProxyType(dict(self.moves)))

    def draw(self, seed: int) -> dict[str, float]:
        """Parameters within `ranges`: the same for the same seed and name, on every machine."""
        random = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        drawn = {name: random.uniform(*span) for name, span in self.ranges.items()}
        return {name: float(int(value)) if name == "grain" else round(value, 4) for name, value in drawn.items()}

    def render(
        self,
        frames: UInt8[np.ndarray, "t h w 3"],
        subject: Float[np.ndarray, "h w"] | None,
        parameters: Parameters,
        count: int,
    ) -> UInt8[np.ndarray, "count h w 3"]:
        """`count` frames of the source's size that show the condition. The same input gives the same bytes.

        A program that takes a clip has `frames` spread evenly over `count`. Raises CallError for parameters that are
        missing, unknown or out of range, for no frames, and for a picture below 32 pixels.
        """
        self._check(frames, parameters, count)
        at_source = np.zeros(count, int) if self.takes == "frame" else np.linspace(0, len(frames) - 1, count).round().astype(int)
        height, width = frames.shape[1:3]
        if subject is None or float((subject > 0.5).sum()) < 16:
            subject = centred(height, width)
        scene = Scene(frames=frames[at_source], subject=subject.astype(np.float32))
        out = np.empty((count, height, width, 3), np.uint8)
        for index, picture in enumerate(self.paint(scene, parameters)):
            out[index] = picture
        if self.starts_from_source:
            out[0] = frames[0]  # warping by nothing rounds
        return out

    def _check(self, frames: UInt8[np.ndarray, "t h w 3"], parameters: Parameters, count: int) -> None:
        if set(parameters) != set(self.ranges):
            raise CallError(f"{self.name}: got parameters {sorted(parameters)}, wants {sorted(self.ranges)}; draw(seed) gives them")
        for name, (low, high) in self.ranges.items():
            if not low - 1e-4 <= parameters[name] <= high + 1e-4:
                raise CallError(f"{self.name}: {name}={parameters[name]:g}, wants {low:g} to {high:g}; draw(seed) gives such values")
        if count < 1 or not len(frames) or min(frames.shape[1:3]) < 32:
            raise CallError(
                f"{self.name}: {count} frames from {len(frames)} of {frames.shape[1]} x {frames.shape[2]} pixels; "
                "wants at least one of each, of at least 32 x 32"
            )
