"""Where a picture's subject is: a clean mask from a coarse map, or the middle of the picture where the map says nothing.

Exercised by `pytest tests/vapdata/conditions/test_subject.py`.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

SMALLEST, LARGEST = 0.02, 0.6
"""Parts of the picture between which a subject's area lies; a map that gives another is not trusted."""
BINS = 12
"""Levels per colour channel when telling the subject's colours from those around it."""
ROUNDS = 3


def subject_of(
    mask_grid: Float[np.ndarray, "rows columns"] | None,
    height: int,
    width: int,
    image: UInt8[np.ndarray, "h w 3"] | None = None,
) -> Float[np.ndarray, "height width"]:
    """1 on the subject, 0 elsewhere, soft over about one hundredth of the picture's height.

    `mask_grid` is any map of the whole picture that is larger on the subject: a CLIP mask's patch grid, or a
    segmentation at full size. The rule: scaled up, cut at Otsu's threshold, drawn to the colours of `image` (height x
    width) if one is given, closed, its largest part kept, holes filled, softened. The rule for the fallback: a flat map, none at
    all, or one whose part covers less than 2 % or more than 60 % of the picture gives `centred`.
    """
    if mask_grid is None or float(np.ptp(mask_grid)) < 1e-6:
        return centred(height, width)
    spread = (mask_grid - mask_grid.min()) / np.ptp(mask_grid)
    coarse = mask_grid.shape[0] * 4 <= height
    scaled = cv2.resize(spread.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC if coarse else cv2.INTER_LINEAR)
    levels = np.clip(np.rint(scaled * 255), 0, 255).astype(np.uint8)
    _, binary = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if image is not None and coarse:
        binary = _to_colours(binary, image)
    whole = _largest(_closed(binary, max(3, height // 24)))
    return _soft(whole) if SMALLEST <= float((whole > 0).mean()) <= LARGEST else centred(height, width)


def centred(height: int, width: int) -> Float[np.ndarray, "height width"]:
    """The fallback subject: a soft upright ellipse in the picture's middle, 62 % of its height and 42 % of its shorter side wide."""
    canvas = np.zeros((height, width), np.uint8)
    axes = (max(2, round(0.21 * min(height, width))), max(2, round(0.31 * height)))
    cv2.ellipse(canvas, (width // 2, height // 2), axes, 0, 0, 360, 255, -1)
    return _soft(canvas)


def _to_colours(binary: UInt8[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """`binary` moved to where its colours are: per pixel, which of the histograms in and around the mask explains it better.

    Three rounds, as GrabCut does it, but without its random numbers; nothing far from the first mask is taken in.
    """
    height = binary.shape[0]
    reach = max(3, height // 8) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    near, core = cv2.dilate(binary, kernel) > 0, cv2.erode(cv2.erode(binary, kernel), kernel) > 0
    code = (image.astype(np.int32) * BINS // 256) @ np.array([BINS * BINS, BINS, 1], np.int32)
    place = cv2.GaussianBlur(binary.astype(np.float32) / 255 * 2 - 1, (0, 0), reach / 2)
    drawn = binary > 0
    for _ in range(ROUNDS):
        if not drawn.any() or drawn.all():
            return binary
        inside, outside = (np.log(_histogram(code[where]) + 1e-4).astype(np.float32) for where in (drawn, ~drawn))
        evidence = cv2.GaussianBlur(np.clip(inside[code] - outside[code], -2, 2), (0, 0), max(0.8, height / 100))
        drawn = ((evidence + 0.9 * place > 0) & near) | core
    return drawn.astype(np.uint8) * 255


def _histogram(codes: np.ndarray) -> Float[np.ndarray, " n"]:
    counts = np.bincount(codes, minlength=BINS**3).astype(np.float32).reshape(BINS, BINS, BINS)
    for axis in range(3):  # neighbouring colours speak for each other
        counts = counts + 0.5 * (np.roll(counts, 1, axis) + np.roll(counts, -1, axis))
    return (counts / max(1.0, float(counts.sum()))).ravel()


def _closed(binary: UInt8[np.ndarray, "h w"], size: int) -> UInt8[np.ndarray, "h w"]:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size | 1, size | 1))
    return cv2.morphologyEx(cv2.morphologyEx(binary, cv2.MORPH_CLOSE, kernel), cv2.MORPH_OPEN, kernel)


def _largest(binary: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The largest connected part, without holes."""
    count, labels, facts, _ = cv2.connectedComponentsWithStats(binary)
    if count < 2:
        return np.zeros_like(binary)
    part = (labels == 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)
    outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(part, outlines, -1, 255, -1)
    return part


def _soft(binary: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    height = binary.shape[0]
    smooth = cv2.GaussianBlur(binary.astype(np.float32) / 255, (0, 0), max(0.8, height / 60))
    return np.clip((smooth - 0.25) * 2, 0, 1).astype(np.float32)
