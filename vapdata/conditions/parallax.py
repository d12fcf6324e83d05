"""Camera moves that need depth: near and far parts of a picture move differently. Depth is a guess.

Two layers: the subject, upright at its own distance, and what is behind it, a ground that comes nearer towards the
picture's lower border. Exercised by `pytest tests/vapdata/conditions/test_camera_moves.py`.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, UInt8

from vapdata.conditions.easing import ease
from vapdata.conditions.picture import as_bytes, as_floats, blend, grid, step
from vapdata.conditions.program import Parameters, Scene
from vapdata.conditions.warps import Matrix, about, layer, seen_from, shown

Frames = Iterator[UInt8[np.ndarray, "h w 3"]]


def dolly_zoom(scene: Scene, at: Parameters) -> Frames:
    """The background grows around the subject, which stays."""
    for _, time in scene.clock():
        yield over(scene, shown(scene.behind, about(scene.middle, zoom=at["zoom"] ** ease(time))), about(scene.middle))


def orbit(scene: Scene, at: Parameters, *, way: int) -> Frames:
    """The subject stays in its place and turns a little; what is behind it follows the camera, what is before it goes against it.

    `way` 1 orbits to the left: the far part of the picture moves left on the screen.
    """
    y, x = grid(scene.height, scene.width)
    _, top, _, bottom = scene.box
    feet = max(bottom, round(0.75 * scene.height))
    horizon = min(top + 0.35 * (bottom - top), 0.55 * scene.height)
    far = 1 - 1.5 * step(horizon, max(feet + 0.25 * scene.height, horizon + 2), y)
    for _, time in scene.clock():
        reach = way * at["reach"] * scene.width * ease(time)
        zoom = 1 + 2 * at["reach"] * ease(time)  # so that the borders that come into view stay small
        middle_x, middle_y = scene.middle
        from_x = middle_x + (x + reach * far - middle_x) / zoom
        from_y = middle_y + (y - middle_y) / zoom
        moved = seen_from(scene.behind, (from_x.astype(np.float32), from_y.astype(np.float32)))
        yield over(scene, moved, _turned(scene, reach / scene.width))


def over(scene: Scene, ground: UInt8[np.ndarray, "h w 3"], matrix: Matrix) -> UInt8[np.ndarray, "h w 3"]:
    """The subject after `matrix`, laid over a ground."""
    image, alpha = layer(as_floats(scene.still), scene.subject.astype(np.float32), matrix)
    return as_bytes(blend(as_floats(ground), image, _firm(alpha)))


def _firm(alpha: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    return np.clip(alpha, 0, 1)


def _turned(scene: Scene, part: float) -> Matrix:
    """The subject seen from the side: narrower, and leaning with the camera."""
    matrix = about(scene.middle, zoom=(1 - 0.9 * abs(part), 1 + 0.15 * abs(part)))
    matrix[0, 1] += 0.35 * part
    matrix[0, 2] -= 0.35 * part * scene.middle[1]
    return matrix
