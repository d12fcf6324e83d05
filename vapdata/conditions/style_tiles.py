"""Styles that put a picture together from pieces: pixels, dots, tiles, facets, glass, stitches.

Each function prepares a look for a clip and returns what is done to one frame.
Exercised by `pytest tests/vapdata/conditions/test_styles.py`.
"""

import math

import cv2
import numpy as np
from jaxtyping import UInt8

from vapdata.conditions.picture import Picture, as_floats, blend, contrasted, grey, grid, luma, saturated, step, stretched
from vapdata.conditions.program import Parameters, Scene
from vapdata.conditions.style_drawing import Look
from vapdata.conditions.textures import borders, means, shards, triangles


def pixel_art(scene: Scene, at: Parameters) -> Look:
    """Large square pixels of few colours."""
    cell = max(3, round(scene.height / at["cells"]))
    size = math.ceil(scene.width / cell), math.ceil(scene.height / cell)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        small = cv2.resize(as_floats(frame), size, interpolation=cv2.INTER_AREA)
        few = np.rint(saturated(contrasted(small, 1.15), 1.35) / 51) * 51
        return np.kron(few, np.ones((cell, cell, 1), np.float32))[: scene.height, : scene.width]

    return look


def halftone(scene: Scene, at: Parameters) -> Look:
    """Cyan, magenta and yellow dots of newsprint on white, each colour's grid turned."""
    y, x = grid(scene.height, scene.width)
    pitch = max(5.0, scene.height / at["dots"])
    screens = []
    for degrees in (15, 75, 0):
        u = (x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))) * (2 * math.pi / pitch)
        v = (y * math.cos(math.radians(degrees)) - x * math.sin(math.radians(degrees))) * (2 * math.pi / pitch)
        screens.append((np.cos(u) + np.cos(v)) / 4 + 0.5)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        strong = saturated(contrasted(cv2.blur(as_floats(frame), (3, 3)), 1.2), 1.3)
        ink = [step(-0.13, 0.13, (1 - strong[..., band] / 255) * 1.02 - 0.05 - screens[band]) for band in range(3)]
        return (250 - 232 * np.stack(ink, axis=-1)).astype(np.float32)

    return look


def mosaic(scene: Scene, at: Parameters) -> Look:
    """Square ceramic tiles of one colour each, with pale joints."""
    y, x = grid(scene.height, scene.width)
    pitch = max(6, round(scene.height / at["tiles"]))
    labels = (y // pitch * math.ceil(scene.width / pitch) + x // pitch).astype(np.int32)
    in_x, in_y = x % pitch / (pitch - 1), y % pitch / (pitch - 1)
    joint = ((x % pitch < max(1, pitch // 7)) | (y % pitch < max(1, pitch // 7))).astype(np.float32)
    lit = 1.12 - 0.24 * (in_x + in_y) / 2
    random = np.random.default_rng(int(at["grain"]))
    glaze = (1 + 0.16 * (random.random(int(labels.max()) + 1) - 0.5)).astype(np.float32)[labels]

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        tiles = saturated(means(as_floats(frame), labels), 1.3) * (lit * glaze)[..., None]
        return blend(np.clip(tiles, 0, 255), grey(np.full_like(joint, 205)), joint)

    return look


def low_poly(scene: Scene, at: Parameters) -> Look:
    """Flat triangles, as of a coarse three-dimensional model."""
    random = np.random.default_rng(int(at["grain"]))
    labels = triangles(random, scene.height, scene.width, scene.height / at["cells"])
    facing = (1 + 0.22 * (random.random(int(labels.max()) + 1) - 0.5)).astype(np.float32)[labels]

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        return np.clip(saturated(means(as_floats(frame), labels), 1.25) * facing[..., None], 0, 255)

    return look


def stained_glass(scene: Scene, at: Parameters) -> Look:
    """Glowing panes of pure colour between black leads."""
    random = np.random.default_rng(int(at["grain"]))
    labels = shards(random, scene.height, scene.width, scene.height / at["cells"])
    leads = np.clip(1.2 * borders(labels, max(2, round(scene.height / 60))), 0, 1)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        panes = means(as_floats(frame), labels)
        light = stretched(luma(panes))
        pure = saturated(panes * ((60 + 0.75 * light) / np.maximum(luma(panes), 12))[..., None], 2.6)
        return blend(pure, grey(np.full_like(light, 6)), leads)

    return look


def cross_stitch(scene: Scene, at: Parameters) -> Look:
    """Coloured crosses of thread on linen."""
    y, x = grid(scene.height, scene.width)
    pitch = max(6, round(scene.height / at["stitches"]))
    labels = (y // pitch * math.ceil(scene.width / pitch) + x // pitch).astype(np.int32)
    u, v = x % pitch / (pitch - 1) - 0.5, y % pitch / (pitch - 1) - 0.5
    over, under = 1 - step(0.2, 0.34, np.abs(u - v)), 1 - step(0.2, 0.34, np.abs(u + v))
    thread = np.maximum(over, under) * (np.maximum(np.abs(u), np.abs(v)) < 0.48)
    shade = (0.74 + 0.36 * over).astype(np.float32)
    linen = np.array([226, 214, 190], np.float32) * (0.9 + 0.1 * (((x + y) % 2)[..., None]))

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        colours = saturated(means(as_floats(frame), labels), 1.35)
        return blend(linen.astype(np.float32), np.clip(colours * shade[..., None], 0, 255), thread)

    return look


def knitted(scene: Scene, at: Parameters) -> Look:
    """Rows of V-shaped wool stitches."""
    y, x = grid(scene.height, scene.width)
    pitch = max(6, round(scene.height / at["stitches"]))
    u = np.abs(x % pitch / (pitch - 1) - 0.5) * 2
    row = np.floor((y + 0.7 * pitch * (1 - u)) / pitch)
    v = (y + 0.7 * pitch * (1 - u)) / pitch - row
    columns = math.ceil(scene.width / pitch)
    labels = (np.clip(row, 0, None) * columns + x // pitch).astype(np.int32)
    lit = (0.55 + 0.6 * np.sin(np.pi * v) * (0.35 + 0.65 * np.sin(np.pi * np.clip(u, 0.08, 1)))).astype(np.float32)

    def look(frame: UInt8[np.ndarray, "h w 3"], index: int) -> Picture:
        return np.clip(saturated(means(as_floats(frame), labels), 1.15) * lit[..., None], 0, 255)

    return look
