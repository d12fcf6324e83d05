"""What a clip looks like, in few bits, for finding it again re-encoded. Exercised by `pytest tests/vapdata/filters/test_fingerprint.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import ClassVar, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from vapdata.clip import Look, Sample
from vapdata.errors import MissingInput
from vapdata.step import Cell, Judged, Product
from vapdata.weights import Weight

SIDE = 32
"""The grid of grey values that a frame is brought to."""
WAVES = 8
"""Lowest frequencies per direction that give bits: 8 x 8, less the mean."""
PLAIN = 4
"""Frames whose grey values spread less (standard deviation) show nothing to tell them by."""
LEAST_FRAMES = 2
"""Frames that show something, without which a clip is not compared."""
STRETCH = 8
"""Frames, about a second, whose bits are averaged to search by."""
VERSION = 1
_BITS = WAVES * WAVES - 1


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Perceptual hashes of a clip's frames.

    What: each frame as 32 x 32 grey values; the signs of its 63 lowest cosine frequencies against their median, as in pHash.
        Two fingerprints are compared frame by frame, each of the shorter clip with the nearest of the longer, so
        that trimmed frames and another rate do not matter.
    Reads: frames: 8 a second, 8 to 64 in all, spread evenly, longer side at most 160 px.
    Writes: product `fingerprint-8x8` in `features`: u8 (frames, 9), the spread of the grey values, then 63 bits. No score.
    Default: `vapdata dedup` fills it in.
    Cost: one decode; 0.1 ms per frame; at most 0.6 KB a clip.
    Fails when: the clip shows no frame.
    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): DCT hash.
    """

    name: ClassVar[str] = "fingerprint"
    reads: ClassVar[frozenset[str]] = frozenset({"frames"})

    fps: float = 8.0
    most: int = 64
    """Frames at most."""
    batch: int = 8
    """Clips at once."""

    @property
    def look(self) -> Look:
        """The frames it is shown."""
        return Look(fps=self.fps, least=min(8, self.most), most=self.most, long_side=160)

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """No score."""
        return {}

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        settings = {"side": SIDE, "waves": WAVES, "version": VERSION, **asdict(self.look)}
        return (Product(name=f"fingerprint-{WAVES}x{WAVES}", table="features", model_id="phash", revision=str(VERSION), dtype="u8", settings=settings),)

    def weights(self) -> Sequence[Weight]:
        """None."""
        return ()

    def open(self, device: str | None = None) -> "OpenFingerprint":
        """Needs nothing loaded."""
        return OpenFingerprint(self.products()[0].name)


class OpenFingerprint:
    """Fingerprint at work."""

    def __init__(self, product: str) -> None:
        self._product = product

    def judge(self, samples: Sequence[Sample]) -> dict[str, Judged]:
        """One cell for each clip."""
        return {sample.clip_id: self._one(sample) for sample in samples}

    def close(self) -> None:
        """Holds nothing."""

    def _one(self, sample: Sample) -> Judged:
        if sample.frames is None or not len(sample.frames):
            return Judged(failure=MissingInput(f"fingerprint of {sample.clip_id}: no frames to look at, wanted one or more. Scan the file again."))
        cell = np.stack([frame_code(frame) for frame in sample.frames])
        return Judged(cells=(Cell(product=self._product, clip_id=sample.clip_id, data=cell, shape=cell.shape),))


def frame_code(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, " 9"]:
    """The spread of a frame's grey values (0-255), then its bits, packed."""
    grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    waves = _cosines() @ grey @ _cosines().T
    low = waves[:WAVES, :WAVES].ravel()[1:]
    return np.concatenate([[np.uint8(min(255, round(float(grey.std()))))], np.packbits(low > np.median(low))]).astype(np.uint8)


def difference(one: UInt8[np.ndarray, "t 9"], other: UInt8[np.ndarray, "u 9"]) -> float:
    """Mean share of differing bits of each frame of the clip with fewer frames and the nearest of the other, 0 to about 0.5.

    Frames that show nothing are left out. Raises ValueError when one clip has no other.
    """
    shorter, longer = sorted((_signs(one), _signs(other)), key=len)
    if not len(shorter):
        raise ValueError("a clip without a frame that shows something cannot be compared")
    return float(((1 - shorter @ longer.T / _BITS) / 2).min(axis=1).mean())


def summaries(cell: UInt8[np.ndarray, "t 9"]) -> Float32[np.ndarray, "s 63"]:
    """Of every stretch of about STRETCH frames, the mean of its bits as -1 and 1, brought to unit length: what a search starts from.

    Stretches, since an excerpt resembles a part of its source and not the mean of all. None for a clip in which there is too little to see.
    """
    signs = _signs(cell)
    if len(signs) < LEAST_FRAMES:
        return np.empty((0, _BITS), np.float32)
    means = np.stack([stretch.mean(axis=0) for stretch in np.array_split(signs, max(1, round(len(signs) / STRETCH)))])
    return (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _signs(cell: UInt8[np.ndarray, "t 9"]) -> Float64[np.ndarray, "s 63"]:
    shows: Bool[np.ndarray, " t"] = cell[:, 0] >= PLAIN
    return np.unpackbits(cell[shows, 1:], axis=1, count=_BITS).astype(np.float64) * 2 - 1


@cache
def _cosines() -> Float64[np.ndarray, "k x"]:
    """The orthonormal DCT-II of SIDE points."""
    frequency, place = np.arange(SIDE)[:, None], np.arange(SIDE)[None]
    waves = np.cos(np.pi * (place + 0.5) * frequency / SIDE) * np.sqrt(2 / SIDE)
    waves[0] /= np.sqrt(2)
    return waves
