"""Clips of the miniature world straight from their formulas: what tiny VAEs and CLIPs are trained and judged on.

Held-out subjects and held-out turns never come up unless they are asked for. Exercised by
`pytest tests/train/miniature/test_clips.py`.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from vapdata import shapes
from vapdata.scenes import CONDITIONS, FURTHER, HELD_OUT_TURNS, Condition, Scene, draw_scene, render

FRAMES, SIDE = 9, 32
"""Pixel frames and side of the grid that tiny models are trained on: what the recipe `miniature` samples."""
CLOSE_UP = (96, 160)
"""Height and width of the larger pictures that crops are cut from, so that a VAE sees soft edges and slow motion as well."""
MOST_TURN = 20.0
"""Degrees that slides and tints may be off."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One drawn clip and what it shows."""

    scene: Scene
    condition: Condition
    strength: float
    frames: UInt8[np.ndarray, "t h w 3"]


def trained_scene(random: np.random.Generator, *, two: bool) -> Scene:
    """A scene whose subject is no held-out one; the other object neither. Now and then in a colour that the dataset leaves out."""
    while True:
        scene = draw_scene(random, two=two)
        if random.random() < 0.1:
            scene = replace(scene, subject=replace(scene.subject, colour=str(random.choice(list(FURTHER)))))
        if not scene.subject.held_out and not (scene.other and scene.other.held_out):
            return scene


def held_out_scene(random: np.random.Generator, *, two: bool) -> Scene:
    """A scene whose subject is a held-out one."""
    while True:
        scene = draw_scene(random, two=two)
        if scene.subject.held_out:
            return scene


def happening(random: np.random.Generator) -> tuple[Condition, float]:
    """A condition in one of the directions or hues that are trained on, and its strength."""
    condition = CONDITIONS[str(random.choice(list(CONDITIONS)))]
    return condition.turned(trained_turn(random)), float(random.uniform(0.85, 1.15))


def trained_turn(random: np.random.Generator) -> float:
    """Degrees off, none of the sector that is held out."""
    while HELD_OUT_TURNS[0] <= (turn := float(random.uniform(-MOST_TURN, MOST_TURN))) < HELD_OUT_TURNS[1]:
        pass
    return turn


def clip(random: np.random.Generator, scene: Scene, *, height: int = SIDE, width: int = SIDE) -> Shown:
    """The scene under a drawn condition."""
    condition, strength = happening(random)
    return Shown(scene=scene, condition=condition, strength=strength, frames=render(scene, condition, frames=FRAMES, height=height, width=width, strength=strength))


def batch(random: np.random.Generator, count: int) -> UInt8[np.ndarray, "b t h w 3"]:
    """`count` clips to train a VAE on: three in four at the grid itself, the others crops of larger pictures, shapes among them."""
    made = []
    for place in range(count):
        if place % 4:
            made.append(clip(random, trained_scene(random, two=random.random() < 0.3)).frames)
        elif random.random() < 0.5:
            made.append(_cropped(random, clip(random, trained_scene(random, two=random.random() < 0.3), height=CLOSE_UP[0], width=CLOSE_UP[1]).frames))
        else:
            shot = shapes.plan(0, int(random.integers(2**31)), frames=FRAMES, height=CLOSE_UP[0], width=CLOSE_UP[1])[0]
            made.append(_cropped(random, np.stack(list(shapes.draw(shot)))))
    return np.stack(made)


def held_out(seed: int, count: int) -> UInt8[np.ndarray, "b t h w 3"]:
    """`count` clips of held-out subjects at the grid, one condition after the other: what a VAE is judged on."""
    random = np.random.default_rng([seed, 1])
    names = list(CONDITIONS)
    scenes = [held_out_scene(random, two=place % 3 == 2) for place in range(count)]
    return np.stack([render(scene, CONDITIONS[names[place % len(names)]], frames=FRAMES, height=SIDE, width=SIDE) for place, scene in enumerate(scenes)])


def _cropped(random: np.random.Generator, frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t side side 3"]:
    top, left = (int(random.integers(0, length - SIDE + 1)) for length in frames.shape[1:3])
    return frames[:, top : top + SIDE, left : left + SIDE]
