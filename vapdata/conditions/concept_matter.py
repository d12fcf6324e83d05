"""Concepts by which a subject turns into something else: gold, stone, ice, light, fire, shadow.

Exercised by `pytest tests/vapdata/conditions/test_concepts.py`.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import UInt8

from vapdata.conditions.easing import ease, span
from vapdata.conditions.picture import Picture, Plane, as_bytes, as_floats, blend, blur, contrasted, edges, grid, luma, ramp, step
from vapdata.conditions.program import Parameters, Scene
from vapdata.conditions.textures import borders, noise, shards

Frames = Iterator[UInt8[np.ndarray, "h w 3"]]
GOLD = ((52, 26, 0), (150, 92, 8), (230, 170, 34), (255, 222, 96), (255, 252, 216))
STONE = ((38, 37, 35), (112, 110, 105), (172, 169, 160), (216, 213, 204))
ICE = ((24, 66, 120), (92, 158, 214), (176, 222, 244), (248, 254, 255))
FIRE = ((0, 0, 0), (110, 10, 0), (230, 70, 0), (255, 170, 20), (255, 246, 170))


def _within(scene: Scene) -> Plane:
    """The light of the subject, spread over all levels."""
    light = luma(as_floats(scene.still))
    low, high = np.percentile(light[scene.subject > 0.5], [3, 97])
    return np.clip((light - low) * (255 / max(20.0, float(high - low))), 0, 255).astype(np.float32)


def _creeping(scene: Scene, at: Parameters, matter: Picture, order: Plane, shine: tuple[int, int, int]) -> Frames:
    """`matter` covers the subject where `order` (0-1) is lowest first; a bright line runs ahead of it."""
    still = as_floats(scene.still)
    for _, time in scene.clock():
        front = 1.3 * span(time, 0.05, at["done"]) - 0.15
        covered = step(-0.05, 0.05, front - order) * scene.subject
        line = np.exp(-(((order - front) / 0.05) ** 2)) * scene.subject
        yield as_bytes(blend(still, matter, covered) + 0.55 * line[..., None] * np.array(shine, np.float32))


def _upwards(scene: Scene, at: Parameters, rough: float) -> Plane:
    """0 at the subject's foot, 1 at its top, its levels wavy."""
    y, _ = grid(scene.height, scene.width)
    _, top, _, bottom = scene.box
    waves = noise(np.random.default_rng(int(at["grain"])), scene.height, scene.width, scene.height / 6, 2)
    return (1 - rough) * np.clip((bottom - y) / max(1, bottom - top), 0, 1) + rough * waves


def turn_to_gold(scene: Scene, at: Parameters) -> Frames:
    """Polished gold pours over it from the top down."""
    light = contrasted(0.8 * _within(scene), 1.3, 100)
    polished = ramp(np.clip(light + 60 * edges(light, scene.height / 160) - 15, 0, 255), GOLD)
    return _creeping(scene, at, polished, 1 - _upwards(scene, at, 0.25), (255, 240, 170))


def petrify(scene: Scene, at: Parameters) -> Frames:
    """Grey, grainy, cracked stone climbs up it."""
    random = np.random.default_rng(int(at["grain"]))
    height, width = scene.height, scene.width
    grain = noise(random, height, width, max(1.5, height / 90)) - 0.5 + 0.8 * (noise(random, height, width, height / 10, 2) - 0.5)
    cracks = borders(shards(random, height, width, height / 5), 1) * (noise(random, height, width, height / 7) > 0.45)
    stone = ramp(np.clip(0.65 * _within(scene) + 60 + 38 * grain, 0, 255), STONE)
    return _creeping(scene, at, blend(stone, stone * 0.3, cracks.astype(np.float32)), _upwards(scene, at, 0.4), (40, 40, 40))


def freeze(scene: Scene, at: Parameters) -> Frames:
    """Blue ice with white needles closes in from its border."""
    random = np.random.default_rng(int(at["grain"]))
    height, width = scene.height, scene.width
    needles = 1 - np.abs(noise(random, height, width, height / 9, 3) * 2 - 1)
    ice = ramp(np.clip(0.55 * _within(scene) + 85 + 130 * step(0.86, 0.98, needles), 0, 255), ICE)
    inward = blur(scene.subject, height / 9)
    order = np.clip(0.65 * inward / max(1e-3, float(inward.max())) + 0.35 * noise(random, height, width, height / 6, 2), 0, 1)
    cold = np.array([0.86, 0.97, 1.12], np.float32)
    for image in _creeping(scene, at, ice, order.astype(np.float32), (230, 245, 255)):
        yield as_bytes(blend(as_floats(image), as_floats(image) * cold, 0.7 * scene.subject))


def turn_to_shadow(scene: Scene, at: Parameters) -> Frames:
    """Goes black, a silhouette with a faint bright rim."""
    still = as_floats(scene.still)
    rim = np.clip(blur(scene.subject, scene.height / 45) * (1 - scene.subject) * 2, 0, 1)
    for _, time in scene.clock():
        part = ease(time, 0.05, at["done"])
        yield as_bytes(blend(still, still * 0.03, part * scene.subject) + (45 * part * rim)[..., None])


def hologram(scene: Scene, at: Parameters) -> Frames:
    """See-through cyan light with scan lines, which flickers and slips."""
    random = np.random.default_rng(int(at["grain"]))
    ground, still = as_floats(scene.behind), as_floats(scene.still)
    light, lines = _within(scene), edges(luma(still), scene.height / 160)
    y, _ = grid(scene.height, scene.width)
    for index, time in scene.clock():
        part = ease(time, 0.05, at["done"])
        scan = 0.62 + 0.38 * np.cos(2 * np.pi * (y / max(3, round(scene.height / 32)) + 0.37 * index))
        slip = round(part * scene.width * 0.02 * float(random.choice([-1, 0, 0, 0, 1])))
        glow = (0.35 * light + 150 * lines + 55) * scan * (0.85 + 0.3 * random.random())
        beam = np.roll(glow[..., None] * np.array([0.25, 0.95, 1.0], np.float32) * scene.subject[..., None], slip, 1)
        seen = 0.45 * blend(ground, still, scene.subject * 0.25)
        aura = blur(scene.subject, scene.height / 16)[..., None] * np.array([0, 40, 55], np.float32)
        lit = blend(ground, seen, np.roll(scene.subject, slip, 1)) + beam + aura
        yield as_bytes(blend(still, np.clip(lit, 0, 255), part))


def engulf_in_flames(scene: Scene, at: Parameters) -> Frames:
    """Tongues of fire run up it and over its head."""
    height, width = scene.height, scene.width
    still = as_floats(scene.still)
    random = np.random.default_rng(int(at["grain"]))
    flicker = noise(random, 4 * height, width, height / at["tongues"], 3)
    y, _ = grid(height, width)
    _, top, _, bottom = scene.box
    for _, time in scene.clock():
        part = ease(time, 0.05, 0.6)
        down = int(2.4 * height * time)
        tongues = flicker[down : down + height]
        reach = _raised(scene.subject, 0.3 * height * part, height)
        high = np.clip((bottom - y) / max(1, bottom - top), 0, 1.5)
        heat = np.clip(reach * (1.9 * tongues + 0.15 - 0.45 * high) * part * 1.0 - 0.28, 0, 1)
        glow = blur(heat, height / 14)[..., None] * np.array([120, 55, 10], np.float32)
        flame = ramp(255 * heat, FIRE)
        yield as_bytes(still * (1 - 0.75 * heat[..., None]) * (1 - 0.25 * part) + flame + glow)


def _raised(mask: Plane, up: float, height: int) -> Plane:
    """`mask`, with a soft copy of it higher by so many pixels."""
    tall = mask.copy()
    for share in (0.35, 0.7, 1.0):
        shift = round(up * share)
        higher = np.zeros_like(mask)
        higher[: height - shift] = mask[shift:]
        tall = np.maximum(tall, (1 - 0.45 * share) * higher)
    return blur(tall, max(1.0, height / 50))


def electrify(scene: Scene, at: Parameters) -> Frames:
    """Blue-white lightning runs over it and it flashes."""
    still = as_floats(scene.still)
    for index, time in scene.clock():
        random = np.random.default_rng([int(at["grain"]), index])
        part = span(time, 0.05, 0.3)
        bolts = _bolts(random, scene, count=4)
        flash = 0.35 + 0.65 * random.random()
        lit = still * (1 - 0.35 * part) + (part * flash * 70 * scene.subject)[..., None] * np.array([0.5, 0.75, 1.3], np.float32)
        glow = blur(bolts, scene.height / 40)[..., None] * np.array([120, 190, 340], np.float32) * 2.2
        yield as_bytes(lit + part * (glow + 255 * bolts[..., None]))


def _bolts(random: np.random.Generator, scene: Scene, *, count: int) -> Plane:
    """Zigzag lines from border to border of the subject's box, 0-1."""
    canvas = np.zeros((scene.height, scene.width), np.uint8)
    left, top, right, bottom = scene.box
    for _ in range(count):
        ends = random.uniform([left, top], [right, bottom], (2, 2))
        ends[0, 1], ends[1, 1] = top, bottom
        along = np.linspace(0, 1, 9)[:, None]
        path = ends[0] + along * (ends[1] - ends[0]) + random.normal(0, 0.09 * (right - left), (9, 2)) * np.sin(np.pi * along) ** 0.5
        cv2.polylines(canvas, [np.rint(path).astype(np.int32)], False, 255, max(1, scene.height // 120), cv2.LINE_AA)
    return canvas.astype(np.float32) / 255
