"""Drawing one shot: a shape that moves over a textured ground while the camera stands, pans or zooms.

All positions are those of frame 0 plus whole steps, so motion, boxes and camera are known exactly.
Exercised by `pytest tests/vapdata/test_shapes.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 90, 190),
    "yellow": (240, 200, 40),
    "purple": (130, 60, 170),
    "orange": (250, 120, 20),
    "white": (240, 240, 240),
    "grey": (110, 110, 110),
}
"""RGB."""
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
"""Step (x, y) in pixels, y downwards."""
CAMERAS = ("static", "pan_left", "pan_right", "zoom_in", "zoom_out")
ZOOM = 0.015
"""Part by which a zoom scales the picture from one frame to the next."""
TWO_SHOTS_EVERY = 6

Camera = Literal["static", "pan_left", "pan_right", "zoom_in", "zoom_out"]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One shot in full. Pixels and frames; the object's steps are on the screen, whatever the camera does."""

    frames: int
    height: int
    width: int
    shape: str
    colour: str
    ground: str
    direction: str | None
    """None for an object at rest."""
    speed_px: int
    """Pixels per frame; 0 at rest."""
    camera: Camera
    pan_px: int
    """Pixels per frame by which the ground moves on the screen under a pan."""
    texture_seed: int

    @property
    def caption(self) -> str:
        """What is seen, e.g. "a red circle moves right on a blue background while the camera pans left"."""
        doing = f"moves {self.direction}" if self.direction else "rests"
        camera = {"static": "", "pan": " while the camera pans ", "zoom": " while the camera zooms "}
        kind, _, way = self.camera.partition("_")
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape} {doing} on a {self.ground} background{camera[kind]}{way}"

    @property
    def radius(self) -> int:
        """Half the object's side, in pixels."""
        return min(self.height, self.width) // 6

    @property
    def camera_px(self) -> float:
        """Mean length of the ground's motion over the picture, px per frame."""
        if self.camera.startswith("zoom"):
            y, x = np.mgrid[: self.height, : self.width]
            from_middle = np.hypot(y - (self.height - 1) / 2, x - (self.width - 1) / 2)
            return float(from_middle.mean() * ZOOM)
        return float(self.pan_px)

    @property
    def motion_px(self) -> float:
        """True mean flow length, px per frame: the object's share of the picture moves its way, the rest the camera's."""
        share = float(mask(self, 0).mean())
        return share * self.speed_px + (1 - share) * self.camera_px

    def middle(self, frame: int) -> tuple[int, int]:
        """The object's middle (x, y) in a frame: half of its way lies before the picture's middle."""
        step_x, step_y = DIRECTIONS[self.direction] if self.direction else (0, 0)
        gone = self.speed_px * frame - self.speed_px * (self.frames - 1) // 2
        return self.width // 2 + step_x * gone, self.height // 2 + step_y * gone

    def box(self, frame: int) -> tuple[int, int, int, int]:
        """[x0, y0, x1, y1) around the object's pixels in a frame."""
        rows, columns = np.nonzero(mask(self, frame))
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1

    def facts(self) -> dict[str, Any]:
        """Everything known, JSON-able."""
        names = ("frames", "caption", "shape", "colour", "ground", "direction", "speed_px", "camera")
        return {
            **{name: getattr(self, name) for name in names},
            "camera_px": round(self.camera_px, 4),
            "motion_px": round(self.motion_px, 4),
            "boxes": [list(self.box(frame)) for frame in range(self.frames)],
        }


def plan(index: int, seed: int, *, frames: int, height: int, width: int) -> list[Shot]:
    """The shots of video `index`: one, or two that differ in both colours for every sixth video."""
    random = np.random.default_rng([seed, index])
    colours = [str(colour) for colour in random.permutation(list(COLOURS))]
    count = 2 if index % TWO_SHOTS_EVERY == TWO_SHOTS_EVERY - 1 else 1
    return [
        _shot(random, index + place, colours[2 * place : 2 * place + 2], frames, height, width) for place in range(count)
    ]


def draw(shot: Shot) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames, RGB, in order."""
    world = _world(shot)
    for frame in range(shot.frames):
        image = _view(shot, world, frame)
        image[mask(shot, frame)] = COLOURS[shot.colour]
        yield image


def mask(shot: Shot, frame: int) -> np.ndarray:
    """Boolean (height, width): the object's pixels in a frame."""
    canvas = np.zeros((shot.height, shot.width), np.uint8)
    (x, y), r = shot.middle(frame), shot.radius
    if shot.shape == "circle":
        cv2.circle(canvas, (x, y), r, 1, -1)
    elif shot.shape == "square":
        cv2.rectangle(canvas, (x - r, y - r), (x + r, y + r), 1, -1)
    else:
        cv2.fillConvexPoly(canvas, np.array([(x, y - r), (x + r, y + r), (x - r, y + r)], np.int32), 1)
    return canvas.astype(bool)


def _shot(random: np.random.Generator, turn: int, colours: list[str], frames: int, height: int, width: int) -> Shot:
    camera = CAMERAS[turn % len(CAMERAS)]
    moves = turn % 4 != 0
    direction = str(random.choice(list(DIRECTIONS))) if moves else None
    room = (width if direction in ("left", "right") else height) - 2 * (min(height, width) // 6) - 4
    fastest = max(1, room // max(1, frames - 1))
    return Shot(
        frames=frames,
        height=height,
        width=width,
        shape=str(random.choice(SHAPES)),
        colour=colours[0],
        ground=colours[1],
        direction=direction,
        speed_px=int(random.integers(1, min(3, fastest) + 1)) if moves else 0,
        camera=camera,
        pan_px=int(random.integers(1, 4)) if camera.startswith("pan") else 0,
        texture_seed=int(random.integers(2**31)),
    )


def _world(shot: Shot) -> UInt8[np.ndarray, "h wide 3"]:
    """The ground: its colour, lighter and darker in soft blobs; wide enough for the whole pan."""
    random = np.random.default_rng(shot.texture_seed)
    wide = shot.width + shot.pan_px * shot.frames
    noise = cv2.GaussianBlur(random.standard_normal((shot.height, wide)).astype(np.float32), (0, 0), 2.5)
    shade = 1 + 0.25 * noise / max(float(np.abs(noise).max()), 1e-6)
    return np.clip(shade[..., None] * np.array(COLOURS[shot.ground], np.float32), 0, 255).astype(np.uint8)


def _view(shot: Shot, world: UInt8[np.ndarray, "h wide 3"], frame: int) -> UInt8[np.ndarray, "h w 3"]:
    """What the camera sees of the ground. A camera that pans right sees the ground move left."""
    if shot.camera.startswith("zoom"):
        power = frame if shot.camera == "zoom_in" else shot.frames - 1 - frame
        scale = (1 + ZOOM) ** power
        turn = cv2.getRotationMatrix2D(((shot.width - 1) / 2, (shot.height - 1) / 2), 0, scale)
        return cv2.warpAffine(world, turn, (shot.width, shot.height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    gone = shot.pan_px * frame
    left = gone if shot.camera == "pan_right" else world.shape[1] - shot.width - gone
    return world[:, left : left + shot.width].copy()
