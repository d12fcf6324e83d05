"""Arithmetic on pictures: blending, light, colour ramps, edges. Pictures in, pictures out.

Pictures that are worked on are float32, RGB, 0-255; `as_bytes` ends the work.
Exercised by `pytest tests/vapdata/conditions/test_picture.py`.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Picture = Float[np.ndarray, "h w 3"]
Plane = Float[np.ndarray, "h w"]
FLATTENED_AT = 160
"""Pixels: the filter's cost grows with the square of what it must reach over, and flat areas need no more."""
WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


def as_floats(image: UInt8[np.ndarray, "h w 3"]) -> Picture:
    """The same picture in float32."""
    return image.astype(np.float32)


def as_bytes(image: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """Rounded and clipped to 0-255."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def luma(image: Picture) -> Plane:
    """Brightness as Rec. 601 weighs it, 0-255."""
    return image @ WEIGHTS


def grey(plane: Plane) -> Picture:
    """A plane as a picture without colour."""
    return np.repeat(plane[..., None], 3, axis=2)


def blend(under: Picture, over: Picture, weight: Plane | float) -> Picture:
    """`under` where weight is 0, `over` where it is 1."""
    part = weight[..., None] if isinstance(weight, np.ndarray) else weight
    return under + part * (over - under)


def blur(image: Float[np.ndarray, "h w *c"], sigma: float) -> Float[np.ndarray, "h w *c"]:
    """Gaussian blur; unchanged below a tenth of a pixel."""
    return image if sigma < 0.1 else cv2.GaussianBlur(image, (0, 0), sigma)


def step(low: float, high: float, plane: Plane) -> Plane:
    """Hermite step: 0 up to `low`, 1 from `high` on, smooth between."""
    part = np.clip((plane - low) / (high - low), 0, 1)
    return part * part * (3 - 2 * part)


def saturated(image: Picture, factor: float) -> Picture:
    """Colours `factor` times as far from grey, 0-255."""
    base = luma(image)[..., None]
    return np.clip(base + factor * (image - base), 0, 255)


def contrasted(plane: Float[np.ndarray, "*shape"], factor: float, pivot: float = 128.0) -> Float[np.ndarray, "*shape"]:
    """Levels `factor` times as far from `pivot`, 0-255."""
    return np.clip(pivot + factor * (plane - pivot), 0, 255)


def stretched(plane: Plane) -> Plane:
    """Levels spread so that the 2nd and 98th percentile become 0 and 255: one look for dark and bright pictures."""
    low, high = np.percentile(plane, [2, 98])
    return np.clip((plane - low) * (255 / max(1.0, float(high - low))), 0, 255).astype(np.float32)


def ramp(plane: Plane, colours: Sequence[tuple[int, int, int]]) -> Picture:
    """Each level 0-255 as a colour of an even ramp through `colours`."""
    at = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), at, [colour[band] for colour in colours]) for band in range(3)], axis=-1)
    return table.astype(np.float32)[np.clip(np.rint(plane), 0, 255).astype(np.uint8)]


def edges(plane: Plane, sigma: float) -> Plane:
    """How sharply the light changes after a blur: gradient length scaled so that its 95th percentile is 1, clipped to 0-1."""
    soft = blur(plane, sigma)
    across, down = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    length = np.sqrt(across * across + down * down)
    return np.clip(length / max(8.0, float(np.percentile(length, 95))), 0, 1)


def outlines(plane: Plane, sigma: float) -> Plane:
    """Dark contours as a pen draws them, 0-1: where a blur's difference is negative."""
    difference = blur(plane, sigma) - blur(plane, 1.6 * sigma)
    return np.clip(-difference / 6, 0, 1)


def smoothed(image: UInt8[np.ndarray, "h w 3"], rounds: int) -> UInt8[np.ndarray, "h w 3"]:
    """Flat areas flattened, edges kept: a bilateral filter of 7 pixels, `rounds` times, at a height of at most `FLATTENED_AT`."""
    height, width = image.shape[:2]
    scale = min(1.0, FLATTENED_AT / height)
    small = image if scale == 1 else cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    for _ in range(rounds):
        small = cv2.bilateralFilter(small, 7, 30, 4)
    return small if scale == 1 else cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def vignette(height: int, width: int) -> Plane:
    """1 in the middle, falling to about 0.25 in the corners."""
    y, x = grid(height, width)
    far = ((x / (width - 1) * 2 - 1) ** 2 + (y / (height - 1) * 2 - 1) ** 2) / 2
    return 1 - 0.75 * step(0.25, 1.0, far)


def grid(height: int, width: int) -> tuple[Plane, Plane]:
    """(y, x) of every pixel."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return y, x
