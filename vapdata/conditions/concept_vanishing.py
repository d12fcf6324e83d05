"""Concepts by which a subject goes: it melts, breaks, burns, blows away, or is more than one.

Exercised by `pytest tests/vapdata/conditions/test_concepts.py`.
"""

import math
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vapdata.conditions.easing import ease, span
from vapdata.conditions.picture import as_bytes, as_floats, blend, blur, grid, step
from vapdata.conditions.pieces import paste, pieces
from vapdata.conditions.program import Parameters, Scene
from vapdata.conditions.textures import borders, noise, shards
from vapdata.conditions.warps import about, layer, layer_from

Frames = Iterator[UInt8[np.ndarray, "h w 3"]]
EMBER = np.array([255, 150, 30], np.float32)


def _random(at: Parameters) -> np.random.Generator:
    return np.random.default_rng(int(at["grain"]))


def _layer(scene: Scene) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """(ground, picture, mask) in floats."""
    return as_floats(scene.behind), as_floats(scene.still), scene.subject.astype(np.float32)


def melt(scene: Scene, at: Parameters) -> Frames:
    """Sinks from the top, drips in strands and spreads into a puddle at its foot."""
    ground, still, mask = _layer(scene)
    y, x = grid(scene.height, scene.width)
    left, top, right, bottom = scene.box
    tall, middle = bottom - top, scene.middle[0]
    strands = noise(_random(at), 1, scene.width, max(3.0, (right - left) / 6), 2)
    foot = min(bottom, scene.height - 0.04 * scene.height)
    for _, time in scene.clock():
        part = ease(time, 0.05, 1.0)
        upper = top + tall * at["sinks"] * part * (0.88 + 0.24 * strands)
        lower = foot + (bottom - foot) * (1 - part) + tall * 0.12 * part * (strands - 0.5)
        inside = (y - upper) / np.maximum(1, lower - upper)
        spread = 1 + part * (0.25 + 1.1 * np.clip(inside, 0, 1.2) ** 3)
        from_y = top + np.sign(inside) * np.abs(inside) ** (1 + 0.4 * part) * tall
        ripple = 0.03 * tall * part * np.sin(inside * 9 + 6 * strands)
        field = (middle + (x + ripple - middle) / spread).astype(np.float32), from_y.astype(np.float32)
        image, alpha = layer_from(still, mask, field)
        yield as_bytes(blend(ground, np.clip(image * (1 + 0.12 * part * np.cos(7 * inside))[..., None], 0, 255), alpha))


def crumble(scene: Scene, at: Parameters) -> Frames:
    """Small bits come loose from the top down and fall onto a heap."""
    random = _random(at)
    ground, _, _ = _layer(scene)
    _, top, _, bottom = scene.box
    bits = [*pieces(scene, shards(random, scene.height, scene.width, scene.height / at["bits"]))]
    drawn = random.random((len(bits), 4))
    floor = min(bottom, scene.height) - 0.02 * scene.height
    for _, time in scene.clock():
        canvas = ground.copy()
        for bit, (late, side, turn, rest) in sorted(zip(bits, drawn, strict=True), key=lambda each: -each[0].middle[1]):
            high = (bit.middle[1] - top) / max(1, bottom - top)
            after = max(0.0, time - 0.06 - 0.5 * high - 0.12 * late)
            room = max(0.0, floor - bit.middle[1] - 0.14 * (bottom - top) * rest)
            fall = min(room, 3.2 * scene.height * after**2)
            landed = fall / room if room else 1.0
            aside = (side - 0.5) * scene.height * 0.5 * min(landed, 3 * after)
            paste(canvas, bit, shift=(aside, fall), degrees=(turn - 0.5) * 400 * min(after, 0.5) * (room > 0), zoom=1 - 0.35 * min(1.0, 4 * after))
        yield as_bytes(canvas)


def shatter(scene: Scene, at: Parameters) -> Frames:
    """Cracks like glass at one moment, then the shards drop, turning."""
    random = _random(at)
    labels = shards(random, scene.height, scene.width, scene.height / at["shards"])
    ground, still, mask = _layer(scene)
    cracks = borders(labels, 1) * mask
    bits = [*pieces(scene, labels)]
    drawn = random.random((len(bits), 3))
    middle_x, _ = scene.middle
    for _, time in scene.clock():
        after = time - at["when"]
        if after < 0.1:
            shown = span(time, at["when"] - 0.12, at["when"])
            yield as_bytes(blend(still, np.full_like(still, 235), cracks * shown))
            continue
        flown, canvas = after - 0.1, ground.copy()
        for bit, (pushed, turn, late) in zip(bits, drawn, strict=True):
            aside = ((bit.middle[0] - middle_x) * 1.6 + (pushed - 0.5) * 0.3 * scene.width) * flown
            fall = scene.height * (-0.25 * flown + 4.4 * max(0.0, flown - 0.05 * late) ** 2)
            paste(canvas, bit, shift=(aside, fall), degrees=(turn - 0.5) * 700 * flown)
        yield as_bytes(canvas)


def explode(scene: Scene, at: Parameters) -> Frames:
    """A flash; the pieces fly out on all sides, towards the viewer too."""
    random = _random(at)
    ground, still, _ = _layer(scene)
    bits = [*pieces(scene, shards(random, scene.height, scene.width, scene.height / at["bits"]))]
    drawn = random.random((len(bits), 3))
    y, x = grid(scene.height, scene.width)
    middle_x, middle_y = scene.middle
    flash = np.exp(-((x - middle_x) ** 2 + (y - middle_y) ** 2) / (2 * (0.38 * scene.height) ** 2))
    for _, time in scene.clock():
        after = time - at["when"]
        if after < 0:
            trembling = 0.012 * scene.height * span(time, at["when"] - 0.2, at["when"]) * math.sin(90 * time)
            image, alpha = layer(still, scene.subject.astype(np.float32), about(scene.middle, shift=(trembling, 0.0)))
            yield as_bytes(blend(ground, image, alpha))
            continue
        canvas = ground.copy()
        out = 1 - math.exp(-3 * after)
        for bit, (speed, turn, near) in zip(bits, drawn, strict=True):
            from_middle = bit.middle[0] - middle_x, bit.middle[1] - middle_y
            far = math.hypot(*from_middle) + 1e-3
            reach = scene.height * (0.5 + 1.3 * speed) * out
            shift = from_middle[0] / far * reach, from_middle[1] / far * reach + 0.5 * scene.height * after**2
            paste(canvas, bit, shift=shift, degrees=(turn - 0.5) * 900 * out, zoom=1 + 0.8 * near * out, there=1 - span(after, 0.3, 0.6))
        yield as_bytes(canvas + (flash * math.exp(-9 * after))[..., None] * np.array([330, 260, 150], np.float32))


def burn_away(scene: Scene, at: Parameters) -> Frames:
    """Eaten from below by a glowing, charred front."""
    ground, still, mask = _layer(scene)
    y, _ = grid(scene.height, scene.width)
    _, top, _, bottom = scene.box
    high = np.clip((bottom - y) / max(1, bottom - top), 0, 1)
    order = 0.7 * high + 0.3 * noise(_random(at), scene.height, scene.width, scene.height / at["tongues"], 3)
    for _, time in scene.clock():
        front = 1.3 * span(time, 0.02, 0.92) - 0.2
        left = step(0.0, 0.03, order - front)
        charred = step(0.03, 0.22, front + 0.22 - order)
        glow = np.exp(-(((order - front - 0.02) / 0.045) ** 2)) * mask
        burnt = blend(still, still * 0.12, charred)
        yield as_bytes(blend(ground, burnt, mask * left) + (glow * (1.1 + 0.2 * math.sin(40 * time)))[..., None] * EMBER
                       + blur(glow, scene.height / 24)[..., None] * np.array([150, 60, 0], np.float32))  # fmt: skip


def pixel_dissolve(scene: Scene, at: Parameters) -> Frames:
    """Becomes coarse pixels, which then go out one by one."""
    ground, still, mask = _layer(scene)
    cell = max(3, round(scene.height / at["cells"]))
    rows, columns = math.ceil(scene.height / cell), math.ceil(scene.width / cell)
    order = _random(at).random((rows, columns)).astype(np.float32)
    coarse, coarse_mask = (
        cv2.resize(each, (columns, rows), interpolation=cv2.INTER_AREA) for each in (still * mask[..., None], mask)
    )
    colours = coarse / np.maximum(coarse_mask, 1e-3)[..., None]
    blocks, block_mask, turn = (
        np.kron(each, np.ones((cell, cell) + (1,) * (each.ndim - 2), np.float32))[: scene.height, : scene.width]
        for each in (colours, (coarse_mask > 0.3).astype(np.float32), order)
    )
    for _, time in scene.clock():
        made = span(time, 0.05, 0.25)
        image, alpha = blend(still, blocks, made), mask + made * (block_mask - mask)
        yield as_bytes(blend(ground, image, alpha * (turn >= 1.05 * span(time, 0.3, 0.95))))


def dust_away(scene: Scene, at: Parameters) -> Frames:
    """Turns to dust from left to right; the wind carries it off to the upper right."""
    random = _random(at)
    ground, still, mask = _layer(scene)
    _, x = grid(scene.height, scene.width)
    left, _, right, _ = scene.box
    order = 0.75 * np.clip((x - left) / max(1, right - left), 0, 1) + 0.25 * noise(random, scene.height, scene.width, scene.height / 8, 2)
    size = max(1, round(scene.height / 110))
    points = np.argwhere(mask[::size, ::size] > 0.5) * size
    colours, release = still[points[:, 0], points[:, 1]], order[points[:, 0], points[:, 1]]
    drawn = random.random((3, len(points))).astype(np.float32)
    for _, time in scene.clock():
        front = 1.15 * span(time, 0.05, 0.8)
        canvas = blend(ground, still, mask * step(-0.02, 0.02, order - front))
        after = np.maximum(0, front - release)
        flown = after * (1 + 1.5 * after)
        to_x = points[:, 1] + scene.width * flown * (0.25 + 0.5 * drawn[0]) + scene.height * 0.05 * np.sin(9 * after + 6 * drawn[1])
        to_y = points[:, 0] - scene.height * flown * (0.55 * drawn[1] - 0.12)
        shown = (after > 0) & (after < 0.25 + 0.5 * drawn[2]) & (to_x < scene.width - size) & (to_y >= 0) & (to_y < scene.height - size)
        at_x, at_y = to_x[shown].astype(int), to_y[shown].astype(int)
        for down in range(size):
            for across in range(size):
                canvas[at_y + down, at_x + across] = 0.85 * colours[shown] + 0.15 * 120
        yield as_bytes(canvas)


def turn_to_smoke(scene: Scene, at: Parameters) -> Frames:
    """Loses its shape, curls upward as grey smoke and thins out."""
    ground, still, mask = _layer(scene)
    random = _random(at)
    y, x = grid(scene.height, scene.width)
    curl_x, curl_y = (noise(random, 2 * scene.height, scene.width, scene.height / at["curls"], 2) * 2 - 1 for _ in range(2))
    for _, time in scene.clock():
        part = ease(time, 0.08, 1.0)
        rise, down = 0.55 * scene.height * part, int(scene.height * 0.9 * time)
        wind = 0.3 * scene.height * part
        field = (
            (x + wind * curl_x[down : down + scene.height]).astype(np.float32),
            (y + rise * (0.7 + 0.3 * curl_x[down : down + scene.height]) + wind * curl_y[down : down + scene.height]).astype(np.float32),
        )
        image, alpha = layer_from(still, mask, field)
        sigma = 0.03 * scene.height * part
        smoke = blend(image, np.full_like(image, 190), min(1.0, 1.4 * part))
        yield as_bytes(blend(ground, blur(smoke, sigma), blur(alpha, sigma) * (1 - span(time, 0.45, 1.0) * 0.95)))


def disappear(scene: Scene, at: Parameters) -> Frames:
    """Simply fades, like a ghost."""
    ground, still, mask = _layer(scene)
    for _, time in scene.clock():
        yield as_bytes(blend(ground, still, mask * (1 - ease(time, at["when"], at["when"] + 0.45))))


def vortex(scene: Scene, at: Parameters) -> Frames:
    """A whirl sucks the subject into its own middle."""
    ground, still, mask = _layer(scene)
    y, x = grid(scene.height, scene.width)
    middle_x, middle_y = scene.middle
    across, down = x - middle_x, y - middle_y
    far = np.sqrt(across**2 + down**2) / scene.height
    for _, time in scene.clock():
        part = ease(time, 0.05, 0.95)
        size = max(0.03, 1 - part)
        angle = at["turns"] * 2 * math.pi * part * np.exp(-1.6 * far / size)
        cosine, sine = np.cos(angle) / size, np.sin(angle) / size
        field = (middle_x + across * cosine + down * sine).astype(np.float32), (middle_y + down * cosine - across * sine).astype(np.float32)
        yield as_bytes(blend(ground, *layer_from(still, mask, field)))


def duplicate(scene: Scene, at: Parameters) -> Frames:
    """Copies of it step out to the left and to the right."""
    _, still, mask = _layer(scene)
    left, _, right, _ = scene.box
    for _, time in scene.clock():
        canvas = still
        away = at["apart"] * max(right - left, 0.2 * scene.width) * ease(time, 0.1, 0.7)
        for step_away in (2, -2, 1, -1):
            image, alpha = layer(still, mask, about(scene.middle, shift=(step_away * away, 0.0)))
            canvas = blend(canvas, image, alpha)
        yield as_bytes(blend(canvas, still, mask))
