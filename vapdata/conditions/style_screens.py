"""Styles of cameras, films and screens: what light becomes in other apparatus than ours.

Each function prepares a look for a clip and returns what is done to one frame.
Exercised by `pytest tests/vapdata/conditions/test_styles.py`.
"""

import cv2
import numpy as np
from jaxtyping import UInt8

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
    ramp,
    smoothed,
    stretched,
    vignette,
)
from vapdata.conditions.program import Parameters, Scene
from vapdata.conditions.style_drawing import Look
from vapdata.conditions.textures import noise

HEAT = ((8, 0, 40), (70, 0, 130), (170, 20, 120), (235, 80, 40), (255, 180, 20), (255, 255, 200))
SEPIA = ((30, 16, 6), (112, 76, 40), (200, 164, 112), (255, 240, 205))
POP = ((36, 20, 110), (230, 20, 130), (255, 160, 20), (255, 246, 120))


def thermal(scene: Scene, at: Parameters) -> Look:
    """False colours from cold violet to hot yellow, soft as heat is."""

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        return ramp(contrasted(stretched(blur(luma(as_floats(frame)), scene.height / 120)), at["contrast"]), HEAT)

    return look


def night_vision(scene: Scene, at: Parameters) -> Look:
    """Green light amplifier: noisy, with a dark round border."""
    dark = vignette(scene.height, scene.width)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        random = np.random.default_rng([int(at["grain"]), index])
        light = stretched(luma(as_floats(frame))) * 0.8 + 40 + 16 * random.standard_normal(dark.shape).astype(np.float32)
        return (np.clip(light * dark, 0, 255)[..., None] * np.array([0.16, 1.0, 0.28], np.float32)).astype(np.float32)

    return look


def vhs(scene: Scene, at: Parameters) -> Look:
    """Worn video tape: smeared shifted colours, scan lines, a noisy band that travels."""
    y, x = grid(scene.height, scene.width)
    lines = 0.86 + 0.14 * np.cos(np.pi * (y // max(1, scene.height // 240)))
    smear = max(1.5, scene.width / 60)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        random = np.random.default_rng([int(at["grain"]), index])
        band = (y / scene.height - (at["band"] + 0.11 * index)) % 1.0
        torn = np.where(band < 0.12, 1.0, 0.0) * (random.random((scene.height, 1)) - 0.3) * 0.1 * scene.width
        wander = (0.012 * scene.width * (random.random((scene.height, 1)) - 0.5) + torn).astype(np.float32)
        image = as_floats(cv2.remap(frame, (x + wander).astype(np.float32), y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
        light = luma(image)
        colour = cv2.GaussianBlur(image - light[..., None], (0, 0), smear, sigmaY=0.8)
        shifted = np.stack([np.roll(colour[..., 0], round(smear * 1.4), 1), colour[..., 1], np.roll(colour[..., 2], -round(smear * 1.4), 1)], axis=-1)
        snow = 9 * random.standard_normal(light.shape) + np.where(band < 0.12, 70 * (random.random(light.shape) > 0.82), 0)
        sharp = light + 0.8 * (light - cv2.GaussianBlur(light, (0, 0), smear / 2, sigmaY=0.5))
        return np.clip((0.82 * sharp + 30 + snow)[..., None] * lines[..., None] + 1.3 * shifted, 0, 255).astype(np.float32)

    return look


def sepia_film(scene: Scene, at: Parameters) -> Look:
    """Brown old film with flicker, scratches and dust."""
    dark = vignette(scene.height, scene.width)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        random = np.random.default_rng([int(at["grain"]), index])
        light = stretched(luma(as_floats(frame))) * dark * (0.92 + 0.16 * random.random()) + 7 * random.standard_normal(dark.shape).astype(np.float32)
        film = ramp(light, SEPIA)
        for _ in range(random.integers(1, 4)):
            column = int(random.integers(scene.width))
            film[:, column : column + max(1, scene.width // 320)] += float(random.choice([-70, 70]))
        for _ in range(random.integers(2, 7)):
            spot = int(random.integers(scene.width)), int(random.integers(scene.height))
            cv2.circle(film, spot, max(1, scene.height // 90), (25, 16, 8), -1)
        return np.clip(film, 0, 255)

    return look


def noir(scene: Scene, at: Parameters) -> Look:
    """Black and white of deep shadows and hard light."""

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        random = np.random.default_rng([int(at["grain"]), index])
        light = contrasted(stretched(luma(as_floats(frame))), at["contrast"], 150) * (0.35 + 0.65 * vignette(scene.height, scene.width))
        return grey(np.clip(light + 6 * random.standard_normal(light.shape).astype(np.float32), 0, 255))

    return look


def pop_art(scene: Scene, at: Parameters) -> Look:
    """Four flat inks, from violet shadows over pink and orange to yellow light."""
    inks = np.array(POP, np.float32)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        light = stretched(luma(as_floats(smoothed(frame, 2))))
        return inks[np.clip(light / 64 * at["lift"], 0, 3.99).astype(int)]

    return look


def neon_edges(scene: Scene, at: Parameters) -> Look:
    """Glowing contours in the dark, their colour changing over the picture."""
    y, x = grid(scene.height, scene.width)
    hue = ((x / scene.width + 0.6 * y / scene.height + at["hue"]) * 180 % 180).astype(np.uint8)
    full = np.full_like(hue, 255)
    tubes = as_floats(cv2.cvtColor(cv2.merge([hue, full, full]), cv2.COLOR_HSV2RGB))

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        lines = edges(stretched(luma(as_floats(smoothed(frame, 1)))), max(0.6, scene.height / 240)) ** 1.5
        glow = blur(lines, scene.height / 50)
        return np.clip(tubes * np.clip(0.9 * lines + 0.7 * glow, 0, 1)[..., None] + 120 * (lines**3)[..., None] + [6, 4, 16], 0, 255).astype(np.float32)

    return look


def blueprint(scene: Scene, at: Parameters) -> Look:
    """White lines and a faint grid on blue paper."""
    y, x = grid(scene.height, scene.width)
    pitch = max(8, round(scene.height / at["squares"]))
    ruled = 0.16 * ((x % pitch < 1) | (y % pitch < 1)).astype(np.float32)
    paper = np.array([18, 58, 140], np.float32) * (0.9 + 0.2 * noise(np.random.default_rng(0), scene.height, scene.width, scene.height / 5)[..., None])

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        light = stretched(luma(as_floats(smoothed(frame, 1))))
        lines = np.maximum(ruled, edges(light, max(0.6, scene.height / 240)) ** 1.3)
        return blend(paper.astype(np.float32) * (0.85 + light / 900)[..., None], grey(np.full_like(light, 244)), lines)

    return look


def negative(scene: Scene, at: Parameters) -> Look:
    """Light and dark, and every colour, turned into their opposites."""

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        return contrasted(255 - as_floats(frame), at["contrast"])

    return look


def emboss(scene: Scene, at: Parameters) -> Look:
    """A grey relief lit from the upper left."""
    fine = max(0.7, scene.height / 160)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        light = blur(stretched(luma(as_floats(frame))), fine)
        slope = cv2.Sobel(light, cv2.CV_32F, 1, 0) + cv2.Sobel(light, cv2.CV_32F, 0, 1)
        return grey(np.clip(132 + at["depth"] * slope * fine, 20, 245).astype(np.float32))

    return look
