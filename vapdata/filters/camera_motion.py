"""What the camera does in a clip. Exercised by `pytest tests/vapdata/filters/test_camera_motion.py`.

A label is the camera's own direction: a camera that pans left shows its picture moving right, as in OpenVid's labels, in the
sources `synthetic` and `miniature` and in the camera conditions that are rendered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, UInt8

from vapdata.clip import Clip, Score
from vapdata.errors import CallError, MissingInput
from vapdata.filters.global_motion import PathTracker
from vapdata.filters.shrink import grey_at_most
from vapdata.step import Meter

LONG_SIDE = 160
"""Pixels on the longer side that motion is tracked at."""
DECIMALS = 3
DIRECTIONS = (("pan_left", "pan_right"), ("tilt_up", "tilt_down"), ("roll", "roll"), ("zoom_in", "zoom_out"))
"""The labels of a content that goes right, down, clockwise, larger, and of the opposites."""
TO_SHARE = np.array([1.0, 1.0, np.pi / 360, 0.5])
"""From (right, down, degrees, log zoom) to what each does at the end of the longer side, in parts of that side."""
BARELY = 0.01
"""Parts of the longer side: to and fro below this is no turn."""
LEAST_TURNS = 3
TURNS_PER_S = 1.0
"""So often, summed over both directions, a camera that shakes changes its mind."""
SMOOTH_S = 1.0
SETTLED = 0.6
"""Support, of the picture's cells, that counts in full: subjects cover the rest."""


@dataclass(frozen=True, kw_only=True)
class CameraMotion:
    """Labels of the camera's motion.

    What: the global motion (shift, turn, zoom) that most tracked points follow from frame to frame, added up to a path.
        A label for each direction in which the path goes by `least` of the longer side or more and by two fifths of the
        strongest: `pan_left` / `pan_right`, `tilt_up` / `tilt_down`, `zoom_in` / `zoom_out`, `roll` (either way).
        `shake` where it turns round three times and once a second or more; the rest is then judged on the path averaged
        over a second. None of them: `static`. Where fewer than half of the steps can be tracked, or
        what is tracked does not agree: `undetermined`. The direction is the camera's: `pan_left` shows the content moving right,
        `tilt_up` moving down; a camera that travels sideways looks like one that pans.
    Reads: frames at `fps`, longer side at most 160 px.
    Writes: `camera_motion`, one row per label; several labels are a composite move. The value is a confidence, 0-1: the share
        of the picture that follows (0.6 and more counts in full), less where the motion is near the threshold.
    Default: 8 frames per second, 5 % of the longer side.
    Cost: 1.5 ms per sampled frame, so 0.4 ms per frame of a 30 fps video: near half of what its decoding costs, too much for
        every scan. Half the rate costs half and misses most crash zooms and a third of the jolts.
    Fails when: the clip has fewer than two frames.
    Source: Shi and Tomasi, "Good features to track", 1994; Lucas and Kanade, 1981; names and direction as the point-track classifier
        of VBench and Open-Sora has them (content to the left: pan_right), whose threshold on the picture's edge is 4 %.
    """

    name: ClassVar[str] = "camera_motion"
    fps: float = 8.0
    least: float = 0.05
    """Parts of the longer side."""

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise CallError(f"camera_motion.fps: got {self.fps:g}, wants more than 0; type --set camera_motion.fps=8")
        if not 0 < self.least < 1:
            raise CallError(f"camera_motion.least: got {self.least:g}, wants parts of the picture between 0 and 1; type --set camera_motion.least=0.05")

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """Labels with their confidence."""
        return {"camera_motion": "label"}

    def open(self) -> Callable[[Clip], Meter]:
        """Needs nothing loaded."""
        return lambda clip: CameraMotionMeter(clip, self.least)


class CameraMotionMeter:
    """Follows one clip's picture."""

    def __init__(self, clip: Clip, least: float) -> None:
        self._clip = clip
        self._least = least
        self._tracker = PathTracker()
        self._times: list[float] = []

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes the next frame and its time; a frame given again (same time) is skipped."""
        if self._times and time_s <= self._times[-1]:
            return
        self._tracker.add(grey_at_most(frame, LONG_SIDE))
        self._times.append(time_s)

    def finish(self) -> list[Score]:
        """A score per label. Raises MissingInput for a clip of one frame."""
        if len(self._times) < 2:
            raise MissingInput(
                f"camera_motion of {self._clip.clip_id}: needs two frames, the clip has fewer. Nothing to do; "
                "leave such clips out with --where \"camera_motion is not null\""
            )
        found = labels_of(self._times, self._tracker, self._least)
        return [Score(filter="camera_motion", label=label, value=round(value, DECIMALS)) for label, value in found.items()]


def labels_of(times: Sequence[float], tracked: PathTracker, least: float) -> dict[str, float]:
    """Label -> confidence, the strongest first; at least one."""
    known = [support for support in tracked.supports if support is not None]
    if len(known) < max(1.0, 0.5 * len(tracked.supports)):
        return {"undetermined": 1 - len(known) / len(tracked.supports)}
    agreed = min(1.0, float(np.mean(known)) / SETTLED)
    path = np.array(tracked.path) * TO_SHARE
    shaken = _turns(path[:, 0]) + _turns(path[:, 1])
    duration_s = times[-1] - times[0]
    shakes = shaken >= LEAST_TURNS and shaken >= TURNS_PER_S * duration_s
    moves = _moves(_steadied(path, times) if shakes else path, least)
    labels = {label: agreed * min(1.0, 0.5 * size / least) for label, size in moves.items()}
    if shakes:
        labels["shake"] = agreed * min(1.0, shaken / (2 * LEAST_TURNS))
    if labels:
        return labels
    if np.mean(tracked.rivals) >= 0.28 or (np.mean(tracked.stills) < 0.6 and np.mean(known) < 0.6):
        return {"undetermined": 1 - float(np.mean(known))}
    furthest = float(np.ptp(path, axis=0).max())
    return {"static": agreed * (1 - 0.5 * min(1.0, furthest / least))}


def _moves(path: Float[np.ndarray, "n 4"], least: float) -> dict[str, float]:
    """Label -> the longest way that the path goes in its direction, those that count, the longest first."""
    ways: dict[str, float] = {}
    for column, (forth, back) in enumerate(DIRECTIONS):
        for label, sign in ((forth, 1.0), (back, -1.0)):
            ways[label] = max(ways.get(label, 0.0), _rise(sign * path[:, column]))
    enough = max(least, 0.4 * max(ways.values()))
    return {label: way for label, way in sorted(ways.items(), key=lambda each: -each[1]) if way >= enough}


def _rise(path: Float[np.ndarray, " n"]) -> float:
    """The most that a path gains from any point to a later one."""
    return float((path - np.minimum.accumulate(path)).max())


def _turns(path: Float[np.ndarray, " n"]) -> int:
    """How often a path turns round, ways shorter than BARELY left out."""
    turns, way, extreme = 0, 0, float(path[0])
    for place in path[1:].tolist():
        if way == 0 and abs(place - extreme) >= BARELY:
            way, extreme = (1 if place > extreme else -1), place
        elif way and (place - extreme) * way > 0:
            extreme = place
        elif way and (extreme - place) * way >= BARELY:
            turns, way, extreme = turns + 1, -way, place
    return turns


def _steadied(path: Float[np.ndarray, "n 4"], times: Sequence[float]) -> Float[np.ndarray, "n 4"]:
    """Shifts without the shake: each the mean of those within half a second before and after. Turn and zoom stay."""
    at = np.array(times)
    near = (np.abs(at[:, None] - at[None]) <= SMOOTH_S / 2 + 1e-6).astype(np.float64)
    return np.column_stack([near @ path[:, :2] / near.sum(1, keepdims=True), path[:, 2:]])
