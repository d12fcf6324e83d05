"""Styles made by hand: pencil, ink, oil, water, paint. Exercised by `pytest tests/vapdata/conditions/test_styles.py`.

Each function prepares a look for a clip (its textures, which stay put) and returns what is done to one frame.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vapdata.conditions.picture import (
    Picture,
    as_floats,
    blend,
    blur,
    contrasted,
    edges,
    grey,
    grid,
    luma,
    outlines,
    saturated,
    smoothed,
    step,
    stretched,
)
from vapdata.conditions.program import Parameters, Scene
from vapdata.conditions.textures import noise

Look = Callable[[UInt8[np.ndarray, "h w 3"], int], Float32[np.ndarray, "h w 3"]]
"""(frame, its number) -> the frame in the style."""


def pencil(scene: Scene, at: Parameters) -> Look:
    """Grey lines and hatching on white paper."""
    random = np.random.default_rng(int(at["grain"]))
    fine = max(0.7, scene.height / 260)
    strokes = _strokes(random, scene.height, scene.width, fine * 5)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        light = stretched(luma(as_floats(frame)))
        dodged = np.minimum(255, light * 255 / np.maximum(1, blur(light, fine * 6)))
        shade = (1 - light / 255) ** 1.3 * at["hatch"] * (0.35 + 0.65 * (strokes < 0.95 - light / 255))
        drawn = contrasted(dodged, 1.5, 235) * (1 - 0.6 * shade) - 150 * outlines(light, fine)
        return grey(np.clip(drawn, 30, 246)) * np.array([1.0, 0.995, 0.98], np.float32)

    return look


def charcoal(scene: Scene, at: Parameters) -> Look:
    """Black smudges on rough grey paper."""
    random = np.random.default_rng(int(at["grain"]))
    fine = max(0.8, scene.height / 160)
    rough = noise(random, scene.height, scene.width, 1.6 * fine)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        light = stretched(blur(luma(as_floats(frame)), fine))
        dark = np.clip(1.25 - light / 150 + 0.9 * edges(light, fine), 0, 1.35) * at["strength"]
        covered = step(-0.3, 0.3, dark - 0.3 - 0.65 * rough)
        return grey(208 - 170 * covered - 22 * rough).astype(np.float32)

    return look


def engraving(scene: Scene, at: Parameters) -> Look:
    """Black lines on cream paper, thicker where it is darker."""
    y, x = grid(scene.height, scene.width)
    pitch = max(4.0, scene.height / at["lines"])
    wave = np.abs(((y + 0.35 * pitch * np.sin(2 * np.pi * x / (9 * pitch)) + 0.35 * x) / pitch) % 1.0 - 0.5) * 2

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        light = stretched(blur(luma(as_floats(frame)), 0.6)) / 255
        ink = np.maximum(step(-0.22, 0.22, 1 - 0.98 * light**0.8 - wave), 0.8 * outlines(255 * light, max(0.7, scene.height / 200)))
        return blend(grey(np.full_like(light, 1)) * np.array([240, 230, 205], np.float32), grey(np.full_like(light, 24)), ink)

    return look


def oil(scene: Scene, at: Parameters) -> Look:
    """Thick brush strokes of strong colour."""
    random = np.random.default_rng(int(at["grain"]))
    radius = max(2, round(scene.height * at["brush"]))
    relief = blur(_strokes(random, scene.height, scene.width, 2.5 * radius) - 0.5, radius / 4) * radius / 2

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        painted = saturated(_kuwahara(as_floats(frame), radius), 1.45)
        thick = luma(painted) * 0.4 + at["relief"] * relief
        slope = cv2.Sobel(thick, cv2.CV_32F, 0, 1) + 0.5 * cv2.Sobel(thick, cv2.CV_32F, 1, 0)
        return np.clip(painted + np.clip(0.3 * slope, -24, 24)[..., None], 0, 255)

    return look


def watercolour(scene: Scene, at: Parameters) -> Look:
    """Pale washes that pool at their borders, on white paper."""
    random = np.random.default_rng(int(at["grain"]))
    height, width = scene.height, scene.width
    paper, pools = noise(random, height, width, max(1.5, height / 70)), noise(random, height, width, height / 6, 3)
    y, x = grid(height, width)
    reach = height / 60
    bleed = (x + reach * (noise(random, height, width, height / 16) - 0.5) * 2, y + reach * (noise(random, height, width, height / 16) - 0.5) * 2)
    bleed = bleed[0].astype(np.float32), bleed[1].astype(np.float32)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        wet = cv2.remap(smoothed(frame, 2), *bleed, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        wash = saturated(_kuwahara(as_floats(wet), max(2, height // 40)), 1.25)
        pigment = (1 - wash / 255) * (0.55 + 0.4 * pools + 0.7 * edges(luma(wash), 1.0) * at["pooling"])[..., None]
        return np.clip(255 * (1 - 0.82 * pigment) - 12 * paper[..., None], 0, 255).astype(np.float32)

    return look


def cartoon(scene: Scene, at: Parameters) -> Look:
    """Flat strong colours within black outlines."""
    fine = max(0.7, scene.height / 180)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        flat = as_floats(smoothed(frame, 3))
        light = luma(flat)
        steps = 255 / at["levels"]
        level = (np.floor(light / steps) + 0.5) * steps
        coloured = saturated(flat * (level / np.maximum(light, 8))[..., None], 1.7)
        lines = np.clip(3.0 * outlines(luma(as_floats(frame)), fine) - 0.3, 0, 1)
        return blend(coloured, grey(np.full_like(light, 8)), lines)

    return look


def _kuwahara(image: Picture, radius: int) -> Picture:
    """Each pixel becomes the mean of the calmest of the four squares that have it at a corner."""
    height, width, _ = image.shape
    half = (radius + 1) // 2
    framed = cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_REFLECT_101)
    light, size = luma(framed), (2 * half + 1, 2 * half + 1)
    mean, mean_light, mean_square = (cv2.blur(each, size, borderType=cv2.BORDER_REFLECT_101) for each in (framed, light, light * light))
    spread = mean_square - mean_light * mean_light
    best, least = image, np.full((height, width), np.inf, np.float32)
    for corner in ((0, 0), (0, 2 * half), (2 * half, 0), (2 * half, 2 * half)):
        window = np.s_[corner[0] : corner[0] + height, corner[1] : corner[1] + width]
        closer = spread[window] < least
        least = np.where(closer, spread[window], least)
        best = np.where(closer[..., None], mean[window], best)
    return best


def _strokes(random: np.random.Generator, height: int, width: int, length: float) -> Float32[np.ndarray, "h w"]:
    """Noise drawn out along a diagonal, 0-1."""
    reach = 2 * max(2, round(length)) + 1
    kernel = np.eye(reach, dtype=np.float32)[::-1] / reach
    drawn = cv2.filter2D(random.standard_normal((height, width)).astype(np.float32), -1, kernel)
    return np.clip(0.5 + drawn * (reach**0.5) / 5, 0, 1)
