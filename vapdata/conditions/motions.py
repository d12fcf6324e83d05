"""Motion conditions: what a picture's subject does while everything else stands still.

A motion is where the subject's pixels are shown at a time: an affine matrix, or a field for what bends. `placed` gives
the subject's layer, `_over_ground` lays it over what was behind it; further than the inpainting's margin from where the
subject is or was, no pixel changes. Exercised by `pytest tests/vapdata/conditions/test_motions.py`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vapdata.conditions.easing import ease, hop, span, swing
from vapdata.conditions.picture import as_bytes, as_floats, blend, grid
from vapdata.conditions.program import Parameters, Program, Range, Scene
from vapdata.conditions.warps import Field, Matrix, about, layer, layer_from

Frames = Iterator[UInt8[np.ndarray, "h w 3"]]
Place = Callable[[Scene, Parameters, float], Matrix | Field]
Layer = tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]

PLACES: dict[str, Place] = {}
"""Each motion's place, by its name."""


def placed(name: str, scene: Scene, at: Parameters, time: float) -> Layer:
    """The subject's pixels and how much of each is there, at a time from 0 to 1."""
    place = PLACES[name](scene, at, time)
    image, mask = as_floats(scene.still), scene.subject.astype(np.float32)
    return layer_from(image, mask, place) if isinstance(place, tuple) else layer(image, mask, place)


def _over_ground(scene: Scene, at: Parameters, *, name: str) -> Frames:
    ground = as_floats(scene.behind)
    for _, time in scene.clock():
        yield as_bytes(blend(ground, *placed(name, scene, at, time)))


def _size(scene: Scene) -> tuple[int, int]:
    """(width, height) of the subject's box."""
    left, top, right, bottom = scene.box
    return right - left, bottom - top


def _foot(scene: Scene) -> tuple[float, float]:
    return scene.middle[0], float(scene.box[3] - 1)


def _levitate(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Rises, then hovers."""
    lift = at["rise"] * ease(time, 0.05, 0.65) + 0.02 * swing(time, 2) * span(time, 0.5, 0.7)
    return about(scene.middle, shift=(0.0, -lift * scene.height), degrees=4 * swing(time, 1))


def _spin(scene: Scene, at: Parameters, time: float) -> Matrix:
    return about(scene.middle, degrees=360 * at["turns"] * time)


def _shake(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Trembles sideways, fast; in a clip of few frames no faster than they can show."""
    cycles = min(at["cycles"], 0.3 * len(scene.frames))
    return about(scene.middle, shift=(at["reach"] * scene.height * swing(time, cycles), 0.0))


def _bounce(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Hops; flattened where it lands."""
    high = hop(time, at["count"])
    squash = 0.22 * max(0.0, 1 - 5 * high) * span(time, 0, 0.1)
    return about(_foot(scene), zoom=(1 + squash, 1 - squash), shift=(0.0, -at["rise"] * scene.height * high))


def _swing(scene: Scene, at: Parameters, time: float) -> Matrix:
    """A pendulum, hung at its top."""
    top = scene.middle[0], float(scene.box[1])
    return about(top, degrees=at["degrees"] * swing(time, at["cycles"]))


def _scale(scene: Scene, at: Parameters, time: float, *, way: int) -> Matrix:
    """Larger (way 1) or smaller, standing on its foot."""
    return about(_foot(scene), zoom=at["zoom"] ** (way * ease(time, 0.05, 0.85)))


def _stretch(scene: Scene, at: Parameters, time: float, *, way: int) -> Matrix:
    """Taller and thinner (way 1), or flatter and wider, standing on its foot."""
    tall = at["zoom"] ** (way * ease(time, 0.05, 0.8))
    return about(_foot(scene), zoom=(tall**-0.5, tall))


def _slide(scene: Scene, at: Parameters, time: float, *, way: int) -> Matrix:
    """Out of the picture sideways, ever faster."""
    left, _, right, _ = scene.box
    gone = (scene.width - left if way > 0 else right) * 1.02
    return about(scene.middle, shift=(way * gone * span(time, at["when"], 0.95) ** 1.6, 0.0))


def _heartbeat(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Two beats, a pause, two beats."""
    part = (time * at["cycles"]) % 1.0
    beat = math.exp(-(((part - 0.2) / 0.12) ** 2)) + 0.7 * math.exp(-(((part - 0.52) / 0.12) ** 2))
    return about(scene.middle, zoom=1 + at["depth"] * beat * span(time, 0, 0.05))


def _flip(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Turns around its upright axis like a card; seen from behind it is mirrored."""
    narrow = math.cos(2 * math.pi * at["turns"] * time)
    return about(scene.middle, zoom=(narrow if abs(narrow) > 0.04 else math.copysign(0.04, narrow), 1.0))


def _topple(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Falls over to the right and comes to lie on what it stood on."""
    part, (wide, tall) = span(time, 0.15, 0.7) ** 2, _size(scene)
    turned = math.radians(at["degrees"] * part)
    sunk = tall - (math.cos(turned) * tall + math.sin(turned) * wide)
    return about(scene.middle, degrees=at["degrees"] * part, shift=(0.2 * tall * part, sunk / 2))


def _circle(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Travels round in a circle without turning."""
    angle, reach = 2 * math.pi * at["turns"] * time, at["reach"] * scene.height
    return about(scene.middle, shift=(reach * math.sin(angle), reach * (math.cos(angle) - 1)))


def _drop(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Falls out of the picture."""
    gone = (scene.height - scene.box[1]) * 1.02
    return about(scene.middle, shift=(0.0, gone * span(time, at["when"], 0.9) ** 2))


def _launch(scene: Scene, at: Parameters, time: float) -> Matrix:
    """Crouches, then shoots up out of the picture."""
    crouch = 0.18 * ease(time, 0.05, at["when"]) * (1 - span(time, at["when"], at["when"] + 0.08))
    gone = scene.box[3] * 1.05 * span(time, at["when"], 0.9) ** 1.5
    return about(_foot(scene), zoom=(1 + crouch, 1 - crouch), shift=(0.0, -gone))


def _roll_away(scene: Scene, at: Parameters, time: float, *, way: int) -> Matrix:
    """Rolls out of the picture like a wheel."""
    left, _, right, _ = scene.box
    gone = (scene.width - left if way > 0 else right) * 1.1 * span(time, 0.08, 0.95) ** 1.3
    around = 180 / math.pi / max(4.0, 0.35 * sum(_size(scene)) / 2)
    return about(scene.middle, degrees=way * gone * around * at["grip"], shift=(way * gone, 0.0))


def _wobble(scene: Scene, at: Parameters, time: float) -> Field:
    """Like jelly: waves run up it, its foot stays."""
    y, x = grid(scene.height, scene.width)
    tall = np.clip((scene.box[3] - y) / max(1, _size(scene)[1]), 0, 1.2)
    wave = np.sin(2 * math.pi * (1.3 * tall - at["cycles"] * time)) + math.sin(2 * math.pi * at["cycles"] * time)
    return (x - at["reach"] * scene.height * span(time, 0, 0.15) * tall * wave).astype(np.float32), y


def _inflate(scene: Scene, at: Parameters, time: float) -> Field:
    """Swells like a balloon: its middle more than its border, and rounder."""
    y, x = grid(scene.height, scene.width)
    (middle_x, middle_y), (wide, tall) = scene.middle, _size(scene)
    part = ease(time, 0.05, 0.85)
    grown = 1 + (at["zoom"] - 1) * part
    round_x, round_y = (grown * (max(wide, tall) / side) ** (0.35 * part) for side in (wide, tall))
    across, down = (x - middle_x) / round_x, (y - middle_y) / round_y
    far = np.sqrt((across / max(1, wide / 2)) ** 2 + (down / max(1, tall / 2)) ** 2)
    bulge = 1 - 0.45 * part * np.clip(1 - far, 0, 1)
    return (middle_x + across * bulge).astype(np.float32), (middle_y + down * bulge).astype(np.float32)


def _twist(scene: Scene, at: Parameters, time: float) -> Field:
    """Wrung like a cloth: each row turns about the upright axis by another angle."""
    y, x = grid(scene.height, scene.width)
    middle_x, tall = scene.middle[0], np.clip((scene.box[3] - y) / max(1, _size(scene)[1]), 0, 1)
    narrow = np.cos(2 * math.pi * at["turns"] * tall * ease(time, 0.05, 0.9))
    firm = np.where(np.abs(narrow) < 0.12, np.where(narrow < 0, -0.12, 0.12), narrow)
    return (middle_x + (x - middle_x) / firm).astype(np.float32), y


def _motion(name: str, sentence: str, place: Place, ranges: Mapping[str, Range]) -> Program:
    PLACES[name] = place
    return Program(
        name=name, category="motion", sentence=sentence, takes="frame", needs_subject=True, ranges=ranges, paint=partial(_over_ground, name=name)
    )


MOTIONS = (
    _motion("levitate", "The subject levitates: it rises from its place and hovers.", _levitate, {"rise": (0.18, 0.24)}),
    _motion("spin", "The subject spins around in its place like a wheel.", _spin, {"turns": (1, 1.25)}),
    _motion("shake", "The subject trembles quickly from side to side.", _shake, {"reach": (0.025, 0.035), "cycles": (4.6, 5.6)}),
    _motion("bounce", "The subject bounces up and down like a ball.", _bounce, {"count": (2.6, 3.2), "rise": (0.16, 0.22)}),
    _motion("wobble", "The subject wobbles like jelly.", _wobble, {"reach": (0.05, 0.07), "cycles": (2.4, 3)}),
    _motion("swing", "The subject swings to and fro like a pendulum.", _swing, {"degrees": (34, 42), "cycles": (1.1, 1.4)}),
    _motion("inflate", "The subject inflates like a balloon.", _inflate, {"zoom": (1.4, 1.6)}),
    _motion("shrink", "The subject shrinks to a toy.", partial(_scale, way=-1), {"zoom": (2.4, 3)}),
    _motion("stretch", "The subject stretches and becomes tall and thin.", partial(_stretch, way=1), {"zoom": (1.55, 1.8)}),
    _motion("squash", "The subject is squashed flat and wide.", partial(_stretch, way=-1), {"zoom": (2.2, 2.8)}),
    _motion("slide_left", "The subject slides off to the left.", partial(_slide, way=-1), {"when": (0.05, 0.15)}),
    _motion("slide_right", "The subject slides off to the right.", partial(_slide, way=1), {"when": (0.05, 0.15)}),
    _motion("heartbeat", "The subject pulses like a beating heart.", _heartbeat, {"depth": (0.18, 0.24), "cycles": (2, 2.5)}),
    _motion("flip", "The subject turns around its upright axis like a revolving card.", _flip, {"turns": (1, 1.3)}),
    _motion("topple", "The subject topples over to the right and lies on its side.", _topple, {"degrees": (80, 90)}),
    _motion("circle", "The subject travels round and round in a circle.", _circle, {"turns": (1.8, 2.2), "reach": (0.1, 0.14)}),
    _motion("drop", "The subject falls straight down out of the picture.", _drop, {"when": (0.1, 0.25)}),
    _motion("launch", "The subject crouches and shoots up out of the picture like a rocket.", _launch, {"when": (0.3, 0.38)}),
    _motion("roll_off_left", "The subject rolls away to the left like a wheel.", partial(_roll_away, way=-1), {"grip": (0.8, 1)}),
    _motion("roll_off_right", "The subject rolls away to the right like a wheel.", partial(_roll_away, way=1), {"grip": (0.8, 1)}),
    _motion("twist", "The subject twists around itself like a wrung cloth.", _twist, {"turns": (0.8, 1)}),
)
"""In the order of a contact sheet."""


def coverage(program: Program, subject: Float[np.ndarray, "h w"], parameters: Parameters, count: int) -> Float[np.ndarray, "count h w"]:
    """Where a motion's subject is in each frame, 0-1: what a checker masks out before it compares grounds."""
    scene = Scene(frames=np.zeros((count, *subject.shape, 3), np.uint8), subject=subject.astype(np.float32))
    return np.stack([placed(program.name, scene, parameters, time)[1] for _, time in scene.clock()])
