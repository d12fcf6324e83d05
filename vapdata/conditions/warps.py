"""Moving pixels: a picture or layer seen through an affine map, or through a field of where each pixel comes from.

Matrices are 2 x 3 and forward: from a place (x, y) in the source to where it is shown.
Exercised by `pytest tests/vapdata/conditions/test_warps.py`.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

Matrix = Float[np.ndarray, "2 3"]
Field = tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]
"""(x, y) in the source of what each pixel shows."""


def about(
    middle: tuple[float, float],
    *,
    zoom: float | tuple[float, float] = 1.0,
    degrees: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Matrix:
    """Scales (x and y, or both alike) and turns about `middle`, then shifts by pixels. Positive degrees turn clockwise on the screen."""
    zoom_x, zoom_y = zoom if isinstance(zoom, tuple) else (zoom, zoom)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear = np.array([[cosine * zoom_x, -sine * zoom_y], [sine * zoom_x, cosine * zoom_y]])
    centre = np.array(middle)
    return np.column_stack([linear, centre + np.array(shift) - linear @ centre])


def shown(image: UInt8[np.ndarray, "h w 3"], matrix: Matrix) -> UInt8[np.ndarray, "h w 3"]:
    """`image` after `matrix`; beyond its border it is mirrored."""
    height, width = image.shape[:2]
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def layer(
    image: Float32[np.ndarray, "h w 3"], mask: Float32[np.ndarray, "h w"], matrix: Matrix
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """`image` and its mask after `matrix`; beyond the border the mask is 0."""
    size = mask.shape[::-1]
    moved = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved, cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def layer_from(
    image: Float32[np.ndarray, "h w 3"], mask: Float32[np.ndarray, "h w"], field: Field
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """As `layer`, through a field."""
    x, y = field
    moved = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved, cv2.remap(mask, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def seen_from(image: UInt8[np.ndarray, "h w 3"], field: Field) -> UInt8[np.ndarray, "h w 3"]:
    """`image` through a field; beyond its border it is mirrored."""
    x, y = field
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def covering_zoom(degrees: float, height: int, width: int) -> float:
    """The zoom at which a picture turned by so much about its middle still fills its frame."""
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    return cosine + max(width / height, height / width) * sine
