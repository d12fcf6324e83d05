"""What lies behind a subject, made up from what lies around it. Exercised by `pytest tests/vapdata/conditions/test_inpaint.py`.

Not `cv2.inpaint`: on holes as large as a subject both its methods end in a star of streaks where the fronts meet.
"""

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

MARGIN = 0.03
"""Part of the height by which the hole is wider than the mask, since a mask's border carries the subject's colours."""
SMOOTHINGS = 12
"""Rounds at each size that even out the seams between the coarser size's pixels."""


def behind(image: UInt8[np.ndarray, "h w 3"], subject: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """`image` with its subject gone; untouched further than `MARGIN` of the height from the mask.

    The hole becomes a membrane stretched between its borders, solved from a few pixels up to full size (push and pull
    with smoothing), with the grain of what is around it.
    """
    height = len(subject)
    reach = 2 * max(2, round(MARGIN * height)) + 1
    hole = cv2.dilate((subject > 0.02).astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    known = 1 - hole.astype(np.float32)
    filled = _membrane(image.astype(np.float32), known) + _grain(image, hole)[..., None]
    weight = cv2.GaussianBlur(1 - known, (5, 5), 0)[..., None] * hole[..., None]
    return np.clip(np.rint(image + weight * (filled - image)), 0, 255).astype(np.uint8)


def _membrane(image: Float32[np.ndarray, "h w 3"], known: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 3"]:
    """`image` where `known` is 1; elsewhere smooth in between."""
    height, width = known.shape
    if min(height, width) <= 4 or float(known.min()) > 0:
        weight = np.maximum(known, 1e-6)[..., None]
        mean = (image * weight).sum((0, 1)) / weight.sum()
        return np.where(known[..., None] > 0, image, mean).astype(np.float32)
    size = ((width + 1) // 2, (height + 1) // 2)
    part = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(image * known[..., None], size, interpolation=cv2.INTER_AREA) / np.maximum(part, 1e-6)[..., None]
    pulled = cv2.resize(_membrane(small, (part > 0.25).astype(np.float32)), (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(SMOOTHINGS):
        pulled = np.where(known[..., None] > 0, image, pulled)
        pulled = cv2.blur(pulled, (3, 3), borderType=cv2.BORDER_REFLECT_101)
    return np.where(known[..., None] > 0, image, pulled)


def _grain(image: UInt8[np.ndarray, "h w 3"], hole: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Noise as strong as the fine detail outside the hole, at most 4 levels; always the same for one size."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.0))[hole == 0]
    strength = min(4.0, float(np.median(fine))) if fine.size else 0.0
    return strength * np.random.default_rng(0).standard_normal(hole.shape).astype(np.float32)
