"""Camera conditions: what the viewer's camera does over a picture that stands still.

Every name is the camera's own direction: a camera that pans left shows the picture moving right, one that rolls
clockwise shows it turning counter-clockwise. Moves that would show what lies beyond the picture begin from its enlarged
middle (`starts_from_source=False`), pans and tilts from the same middle whatever their direction.
Exercised by `pytest tests/vapdata/conditions/test_camera_moves.py`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from jaxtyping import UInt8

from vapdata.conditions.easing import ease, overshoot, span, swing
from vapdata.conditions.parallax import dolly_zoom, orbit
from vapdata.conditions.picture import as_bytes, as_floats, blend, blur
from vapdata.conditions.program import GRAIN, Painter, Parameters, Program, Range, Scene
from vapdata.conditions.warps import Matrix, about, covering_zoom, shown

Frames = Iterator[UInt8[np.ndarray, "h w 3"]]
Pose = Callable[[Scene, Parameters, float], Matrix]
"""Where the picture lies on the screen at a time from 0 to 1."""

EXPOSURES = 9
"""Moments that a frame of a very fast move adds up, over part of the time to the next frame."""


def _moving(pose: Pose) -> Painter:
    """The still picture under a pose that changes."""

    def paint(scene: Scene, at: Parameters) -> Frames:
        for _, time in scene.clock():
            yield shown(scene.still, pose(scene, at, time))

    return paint


def _blurred(pose: Pose) -> Painter:
    """As `_moving`, with the blur that a shutter gives: for moves of many pixels per frame."""

    def paint(scene: Scene, at: Parameters) -> Frames:
        gap = 0.6 / max(1, len(scene.frames) - 1)
        for _, time in scene.clock():
            moments = [time + gap * (k / (EXPOSURES - 1) - 0.5) for k in range(EXPOSURES)]
            total = sum(shown(scene.still, pose(scene, at, moment)).astype(np.float32) for moment in moments)
            yield as_bytes(np.asarray(total, np.float32) / EXPOSURES)

    return paint


def _centre(scene: Scene) -> tuple[float, float]:
    return (scene.width - 1) / 2, (scene.height - 1) / 2


def _slide(scene: Scene, at: Parameters, time: float, *, x: int, y: int) -> Matrix:
    """From the enlarged picture's middle to its border; x and y say where the picture goes."""
    room = (at["zoom"] - 1) / 2 * at["reach"] * time
    return about(_centre(scene), zoom=at["zoom"], shift=(x * room * scene.width, y * room * scene.height))


def _whip(scene: Scene, at: Parameters, time: float, *, x: int) -> Matrix:
    """Stands at one border, is torn to the other, stands."""
    part = 2 * ease(time, at["when"], at["when"] + at["takes"]) - 1
    return about(_centre(scene), zoom=at["zoom"], shift=(x * part * (at["zoom"] - 1) / 2 * scene.width, 0.0))


def _zoom(scene: Scene, at: Parameters, time: float, *, inward: bool) -> Matrix:
    return about(_centre(scene), zoom=at["zoom"] ** (time if inward else 1 - time))


def _crash(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Stands, leaps close within a tenth of the clip, stands."""
    return about(_centre(scene), zoom=at["zoom"] ** overshoot(time, at["when"], at["when"] + at["takes"]))


def _pulse(scene: Scene, at: Parameters, time: float) -> Matrix:
    """In and out, several times."""
    return about(_centre(scene), zoom=1 + at["depth"] * (0.5 - 0.5 * math.cos(2 * math.pi * at["cycles"] * time)))


def _roll(scene: Scene, at: Parameters, time: float, *, way: int) -> Matrix:
    """The picture turns the other way, from straight."""
    zoom = covering_zoom(at["degrees"], scene.height, scene.width)
    return about(_centre(scene), zoom=zoom, degrees=-way * at["degrees"] * time)


def _sway(scene: Scene, at: Parameters, time: float) -> Matrix:
    """From side to side like a ship."""
    zoom = covering_zoom(at["degrees"], scene.height, scene.width) * 1.06
    lift = 0.02 * scene.height * swing(time, 2 * at["cycles"])
    return about(_centre(scene), zoom=zoom, degrees=at["degrees"] * swing(time, at["cycles"]), shift=(0.0, lift))


def _corkscrew(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Closer and turning at once, always just covering the frame."""
    degrees = at["degrees"] * ease(time)
    return about(_centre(scene), zoom=covering_zoom(degrees, scene.height, scene.width) * (1 + 0.25 * time), degrees=-degrees)


def _jolt(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Stands; a blow throws the picture up and down; it settles."""
    after = time - at["when"]
    lift = 0.0 if after < 0 else at["strength"] * math.exp(-5 * after) * math.sin(2 * math.pi * 4 * after)
    return about(_centre(scene), zoom=1 + 2.2 * at["strength"], shift=(0.15 * lift * scene.width, lift * scene.height), degrees=12 * lift)


def _handheld(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Drifts and trembles on two sines per direction, whose phases are drawn."""
    phases = np.random.default_rng(int(at["grain"])).random(6)
    x, y, turn = (
        0.6 * swing(time, cycles, phases[2 * k]) + 0.4 * swing(time, 2.2 * cycles, phases[2 * k + 1])
        for k, cycles in enumerate((1.7, 2.3, 1.5))
    )
    reach = at["strength"]
    return about(
        _centre(scene), zoom=1 + 2.6 * reach, degrees=40 * reach * turn, shift=(reach * x * scene.width, reach * y * scene.height)
    )


def _rack_focus(scene: Scene, at: Parameters, *, away: bool) -> Frames:
    """Sharpness goes from the subject to what is behind it (`away`), or comes from there."""
    still, far, mask = as_floats(scene.still), as_floats(scene.behind), scene.subject
    for _, time in scene.clock():
        part = ease(time, at["when"], at["when"] + 0.4)
        near_blur, far_blur = (at["blur"] * scene.height * (each if away else 1 - each) for each in (part, 1 - part))
        alpha = blur(mask, near_blur)
        near = blur(still * mask[..., None], near_blur) / np.maximum(alpha, 1e-3)[..., None]
        yield as_bytes(blend(blur(far, far_blur), near, alpha))


def _defocus(scene: Scene, at: Parameters) -> Frames:
    still = as_floats(scene.still)
    for _, time in scene.clock():
        yield as_bytes(blur(still, at["blur"] * scene.height * ease(time, 0.1, 0.9)))


def _focus_pull(scene: Scene, at: Parameters) -> Frames:
    """Out of focus at first, sharp at the end."""
    still = as_floats(scene.still)
    for _, time in scene.clock():
        yield as_bytes(blur(still, at["blur"] * scene.height * (1 - span(time, 0.1, 0.8))))


def _camera(name: str, sentence: str, paint: Painter, ranges: Mapping[str, Range], *, starts: bool = False, subject: bool = False) -> Program:
    return Program(
        name=name, category="camera", sentence=sentence, takes="frame", needs_subject=subject, starts_from_source=starts,
        ranges=ranges, paint=paint,
    )  # fmt: skip


SLIDE = {"zoom": (1.45, 1.6), "reach": (0.85, 1.0)}
WHIP = {"zoom": (1.5, 1.6), "when": (0.35, 0.45), "takes": (0.24, 0.28)}

CAMERA_MOVES = (
    _camera("pan_left", "The camera pans steadily to the left.", _moving(partial(_slide, x=1, y=0)), SLIDE),
    _camera("pan_right", "The camera pans steadily to the right.", _moving(partial(_slide, x=-1, y=0)), SLIDE),
    _camera("tilt_up", "The camera tilts steadily upwards.", _moving(partial(_slide, x=0, y=1)), SLIDE),
    _camera("tilt_down", "The camera tilts steadily downwards.", _moving(partial(_slide, x=0, y=-1)), SLIDE),
    _camera("zoom_in", "The camera zooms in slowly and steadily.", _moving(partial(_zoom, inward=True)), {"zoom": (1.5, 1.8)}, starts=True),
    _camera("zoom_out", "The camera zooms out slowly and steadily.", _moving(partial(_zoom, inward=False)), {"zoom": (1.5, 1.8)}),
    _camera(
        "crash_zoom", "The camera stands still, then suddenly crash-zooms in and stops.", _blurred(_crash),
        {"zoom": (1.9, 2.3), "when": (0.35, 0.5), "takes": (0.12, 0.16)}, starts=True,
    ),
    _camera("zoom_pulse", "The camera zooms in and out rhythmically, again and again.", _moving(_pulse), {"depth": (0.18, 0.26), "cycles": (3, 3.6)}, starts=True),
    _camera("whip_pan_left", "The camera whips around to the left in one fast, blurred pan.", _blurred(partial(_whip, x=1)), WHIP),
    _camera("whip_pan_right", "The camera whips around to the right in one fast, blurred pan.", _blurred(partial(_whip, x=-1)), WHIP),
    _camera("roll_clockwise", "The camera rolls clockwise around its axis, so the picture turns counter-clockwise.", _moving(partial(_roll, way=1)), {"degrees": (18, 26)}),
    _camera("roll_counterclockwise", "The camera rolls counter-clockwise around its axis, so the picture turns clockwise.", _moving(partial(_roll, way=-1)), {"degrees": (18, 26)}),
    _camera("ship_sway", "The camera sways from side to side as if on a ship.", _moving(_sway), {"degrees": (6, 9), "cycles": (1.5, 2)}),
    _camera("corkscrew", "The camera pushes in while it spins like a corkscrew.", _moving(_corkscrew), {"degrees": (50, 70)}, starts=True),
    _camera("handheld", "The camera is handheld and shakes.", _moving(_handheld), {"strength": (0.025, 0.035), "grain": GRAIN}),
    _camera("impact_jolt", "A sudden impact jolts the camera, which then settles.", _moving(_jolt), {"strength": (0.09, 0.13), "when": (0.25, 0.4)}),
    _camera("dolly_zoom", "A dolly zoom: the subject keeps its size while the background swells towards the viewer.", dolly_zoom, {"zoom": (1.6, 1.9)}, starts=True, subject=True),
    _camera("orbit_left", "The camera orbits to the left around the subject.", partial(orbit, way=1), {"reach": (0.14, 0.18)}, starts=True, subject=True),
    _camera("orbit_right", "The camera orbits to the right around the subject.", partial(orbit, way=-1), {"reach": (0.14, 0.18)}, starts=True, subject=True),
    _camera(
        "rack_focus_to_background", "The focus racks from the subject to the background.", partial(_rack_focus, away=True),
        {"blur": (0.035, 0.05), "when": (0.25, 0.35)}, subject=True,
    ),
    _camera(
        "rack_focus_to_subject", "The focus racks from the background to the subject.", partial(_rack_focus, away=False),
        {"blur": (0.035, 0.05), "when": (0.25, 0.35)}, subject=True,
    ),
    _camera("defocus", "The whole picture drifts out of focus.", _defocus, {"blur": (0.05, 0.07)}, starts=True),
    _camera("focus_pull", "The picture begins out of focus and becomes sharp.", _focus_pull, {"blur": (0.05, 0.07)}),
)  # fmt: skip
"""In the order of a contact sheet."""
