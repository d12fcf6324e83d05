"""Concepts that befall the whole scene: weather, water, night, broken signal. The clip's own motion goes on.

Exercised by `pytest tests/vapdata/conditions/test_concepts.py`.
"""

import math
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import UInt8

from vapdata.conditions.easing import ease, span
from vapdata.conditions.picture import as_bytes, as_floats, blend, blur, grey, grid, luma, saturated, step
from vapdata.conditions.program import Parameters, Scene
from vapdata.conditions.textures import noise
from vapdata.conditions.warps import seen_from

Frames = Iterator[UInt8[np.ndarray, "h w 3"]]


def glitch(scene: Scene, at: Parameters) -> Frames:
    """Digital interference in bursts: slices slip aside, colours part."""
    height, width = scene.height, scene.width
    for index, time in scene.clock():
        random = np.random.default_rng([int(at["grain"]), index])
        strength = ease(time, 0.05, 0.4) * (0.45 + 0.55 * random.random()) * at["strength"]
        image = scene.frames[index].copy()
        for _ in range(round(9 * strength)):
            top, tall = int(random.integers(height)), int(random.integers(max(2, height // 30), max(3, height // 6)))
            image[top : top + tall] = np.roll(image[top : top + tall], round(float(random.normal(0, 0.16 * strength)) * width), 1)
        apart = round(0.035 * width * strength)
        image = np.stack([np.roll(image[..., 0], apart, 1), image[..., 1], np.roll(image[..., 2], -apart, 1)], axis=-1)
        for _ in range(round(3 * strength)):
            top, left = int(random.integers(height)), int(random.integers(width))
            block = image[top : top + height // 10, left : left + width // 5]
            block[..., int(random.integers(3))] = 255 - block[..., int(random.integers(3))]
        yield image


def flood(scene: Scene, at: Parameters) -> Frames:
    """Water rises from below: waves on its surface, everything under it blue and unsteady."""
    y, x = grid(scene.height, scene.width)
    for index, time in scene.clock():
        frame = scene.frames[index]
        level = scene.height * (1.04 - at["level"] * ease(time, 0.0, 1.0))
        wave = 0.016 * scene.height * (np.sin(12 * x / scene.width + 21 * time) + 0.6 * np.sin(29 * x / scene.width - 27 * time))
        surface = level + wave
        sway = 0.02 * scene.height * np.sin(0.16 * 96 / scene.height * y * 2.4 + 25 * time)
        under = as_floats(seen_from(frame, ((x + sway).astype(np.float32), y)))
        deep = np.clip((y - surface) / (0.7 * scene.height), 0, 1)
        water = blend(under * np.array([0.45, 0.75, 0.85], np.float32), np.zeros_like(under) + np.array([6, 66, 104], np.float32), 0.35 + 0.45 * deep)
        crest = np.exp(-(((y - surface) / (0.018 * scene.height)) ** 2))
        yield as_bytes(blend(as_floats(frame), water, step(-0.8, 0.8, y - surface)) + 120 * crest[..., None])


def snow_in(scene: Scene, at: Parameters) -> Frames:
    """Snow falls and piles up from the lower border; the scene turns pale."""
    random = np.random.default_rng(int(at["grain"]))
    height, width = scene.height, scene.width
    y, _ = grid(height, width)
    heap = blur(noise(random, height, width, height / 3)[:1].repeat(height, 0), 2)
    flakes = random.random((_whole(1.2 * 160 * at["flakes"]), 4))
    for index, time in scene.clock():
        part = ease(time, 0.0, 0.9)
        frame = as_floats(scene.frames[index])
        pale = blend(frame, grey(np.clip(0.75 * luma(frame) + 78, 0, 255)), 0.55 * part)
        top = height * (1.08 - at["depth"] * part * (0.7 + 0.4 * heap))
        cover = step(-0.02 * height, 0.02 * height, y - top)
        snow = 238 + 14 * np.clip((top + 0.12 * height - y) / (0.12 * height), -1, 1)
        canvas = blend(pale, grey(snow) * np.array([0.97, 0.985, 1.0], np.float32), cover)
        yield as_bytes(canvas + (255 - canvas) * (span(time, 0.0, 0.25) * _specks(flakes, time, height, width))[..., None])


def _whole(count: float) -> int:
    """A whole number of things to draw, one or more."""
    return max(1, round(count))


def _specks(flakes: np.ndarray, time: float, height: int, width: int) -> np.ndarray:
    """Falling snow, 0-1: rows of flakes are (x, y, size, sway)."""
    canvas = np.zeros((height, width), np.uint8)
    for place_x, place_y, size, sway in flakes:
        down = (place_y + time * (0.9 + 0.9 * size)) % 1.0
        across = (place_x + 0.03 * math.sin(2 * math.pi * (time * 1.5 + sway))) % 1.0
        radius = height / 96 * (0.5 + 1.3 * size)
        middle = round(across * width * 16), round(down * height * 16)
        cv2.circle(canvas, middle, round(radius * 16), 255, -1, cv2.LINE_AA, 4)
    return blur(canvas.astype(np.float32) / 255, height / 240)


def rain(scene: Scene, at: Parameters) -> Frames:
    """It darkens and pours: slanting streaks."""
    random = np.random.default_rng(int(at["grain"]))
    height, width = scene.height, scene.width
    drops = random.random((_whole(150 * at["drops"]), 3))
    for index, time in scene.clock():
        part = ease(time, 0.0, 0.35)
        frame = as_floats(scene.frames[index])
        dull = blend(frame, saturated(frame, 0.45) * np.array([0.5, 0.57, 0.68], np.float32), part)
        canvas = np.zeros((height, width), np.uint8)
        for place_x, place_y, size in drops[: _whole(len(drops) * part)]:
            down = (place_y + time * (5 + 2 * size)) % 1.2 - 0.1
            long = 0.1 + 0.09 * size
            start = (place_x + 0.22 * down) % 1.1 - 0.05
            ends = ((start * width, down * height), ((start - 0.22 * long) * width, (down - long) * height))
            cv2.line(canvas, *((round(ex * 16), round(ey * 16)) for ex, ey in ends), 255, max(1, height // 160), cv2.LINE_AA, 4)
        yield as_bytes(dull + (105 * part / 255 * canvas.astype(np.float32))[..., None])


def fog_in(scene: Scene, at: Parameters) -> Frames:
    """Banks of white fog drift in until little is left to see."""
    random = np.random.default_rng(int(at["grain"]))
    height, width = scene.height, scene.width
    banks = noise(random, height, 2 * width, height / 2, 3)
    y, _ = grid(height, width)
    for index, time in scene.clock():
        left = int(0.8 * width * time)
        low = 0.75 + 0.35 * y / height
        thick = np.clip((1.5 * ease(time, 0.0, 0.95) - 0.75 * (1 - banks[:, left : left + width])) * low * at["thick"], 0, 0.94)
        frame = as_floats(scene.frames[index])
        yield as_bytes(blend(frame, np.zeros_like(frame) + np.array([222, 225, 228], np.float32), blur(thick, height / 60)))


def nightfall(scene: Scene, at: Parameters) -> Frames:
    """Dusk, then moonlit night."""
    height, width = scene.height, scene.width
    random = np.random.default_rng(int(at["grain"]))
    y, _ = grid(height, width)
    stars = blur((random.random((height, width)) > 0.9975).astype(np.float32), 0.6) * 3 * np.clip(1 - 2.6 * y / height, 0, 1)
    for index, time in scene.clock():
        frame = as_floats(scene.frames[index])
        dusk, night = math.sin(math.pi * span(time, 0.0, 0.7)), ease(time, 0.25, 0.95)
        warm = frame * (1 + dusk * np.array([0.15, -0.12, -0.3], np.float32) * (1 - night))
        dark = luma(frame)[..., None] ** 1.15 * np.array([0.1, 0.16, 0.34], np.float32) * at["moon"] + np.array([2, 4, 14], np.float32)
        yield as_bytes(blend(warm.astype(np.float32), dark.astype(np.float32), night) + (190 * night * stars)[..., None])


def ripple(scene: Scene, at: Parameters) -> Frames:
    """The picture is a water surface: rings run out from its middle."""
    y, x = grid(scene.height, scene.width)
    across, down = x - scene.width / 2, y - scene.height / 2
    far = np.sqrt(across**2 + down**2) + 1e-3
    length = scene.height * at["length"]
    for index, time in scene.clock():
        front = 1.6 * scene.width * span(time, 0.0, 0.8)
        alive = step(0.0, 1.5 * length, front - far) * ease(time, 0, 0.15)
        slope = np.cos(2 * math.pi * (far / length - 5 * time)) * alive
        push = 0.03 * scene.height * slope
        field = (x + push * across / far).astype(np.float32), (y + push * down / far).astype(np.float32)
        yield as_bytes(as_floats(seen_from(scene.frames[index], field)) + (26 * slope)[..., None])


def lightning_storm(scene: Scene, at: Parameters) -> Frames:
    """It darkens; flashes light the scene white for moments."""
    flashes = np.sort(np.random.default_rng(int(at["grain"])).uniform(0, 1, 4) * 0.16 + np.array([0.22, 0.42, 0.62, 0.82]))
    for index, time in scene.clock():
        part = ease(time, 0.0, 0.2)
        frame = as_floats(scene.frames[index])
        dark = blend(frame, saturated(frame, 0.5) * np.array([0.32, 0.36, 0.48], np.float32), part)
        flash = max(math.exp(-max(0.0, time - each) / 0.035) if time >= each - 0.03 else 0.0 for each in flashes)
        yield as_bytes(blend(dark, np.clip(frame * 1.9 + 60, 0, 255), 0.9 * flash * at["glare"]))


def kaleidoscope(scene: Scene, at: Parameters) -> Frames:
    """The picture folds into turning mirrored wedges."""
    y, x = grid(scene.height, scene.width)
    across, down = x - scene.width / 2, y - scene.height / 2
    far, angle = np.sqrt(across**2 + down**2), np.arctan2(down, across)
    wedge = math.pi / round(at["wedges"])
    for index, time in scene.clock():
        turn = 1.2 * time
        folded = np.abs((angle + turn) % (2 * wedge) - wedge) + 0.5 * turn
        field = (scene.width / 2 + far * np.cos(folded)).astype(np.float32), (scene.height / 2 + far * np.sin(folded)).astype(np.float32)
        frame = as_floats(scene.frames[index])
        yield as_bytes(blend(frame, as_floats(seen_from(scene.frames[index], field)), ease(time, 0.05, 0.4)))
