"""How well masks of the tiny CLIP find the object that a caption names, in scenes of two: the planted truth says where it is.

Pointing: the grid's highest cell lies on the named object. IoU: the grid above its own mean plus a deviation, against the cells that the
object covers at least half of. Visual prompt: how often CLIP, shown the picture sharp where a mask is high and blurred elsewhere,
finds the named object's words more alike than the other's; with the right mask, and with that for the other object's words.
Exercised by `pytest tests/train/miniature/test_masks.py`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from train.miniature import clips
from vapdata.clip import Sampling
from vapdata.encoders.clip_mask import GRIDS, ClipMask
from vapdata.encoders.visual_prompt import visual_prompt
from vapdata.scenes import Scene, draw_scene, render, thing_mask

BLUR_PX = 5.0
"""Deviation of the visual prompt's blur: the 2 % of larger pictures would leave 32 pixels as sharp as they are."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What masks of one kind found. Shares, 0 to 1."""

    kind: str
    """One of GRIDS; `chance`: what any place would score."""
    pointing: float
    iou: float


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """What the visual prompt does to CLIP's preference. Shares of scenes."""

    plain: float
    """The picture as it is."""
    right: float
    shuffled: float
    """The mask made for the other object's words."""
    truth: float
    """The planted mask: what a perfect one would do."""


def scenes(seed: int, count: int) -> list[Scene]:
    """Scenes of two objects, subjects and others never trained on among them as the dataset has them."""
    random = np.random.default_rng([seed, 5])
    return [draw_scene(random, two=True) for _ in range(count)]


class Judge:
    """The tiny CLIP's masks for both objects of every scene, and what they are worth."""

    def __init__(self, made: list[Scene], *, side: int = clips.SIDE, model: str | None = None) -> None:
        """`model`: another folder in open_clip's format than the one that ships."""
        self.made, self.side = made, side
        self.mask = ClipMask(backbone="tiny-cogvideox", sampling=Sampling(frames=9, height=side, width=side, fps=8), model=model).open("cpu")
        self.frames = [render(scene, None, frames=1, height=side, width=side)[0] for scene in made]
        self.grids = [self._masks([_words(scene, place) for scene in made]) for place in (0, 1)]

    def _masks(self, words: list[str]) -> Float[np.ndarray, "n 3 gh gw"]:
        parts = np.array_split(np.arange(len(words)), max(1, len(words) // 50))
        return np.concatenate([self.mask.masks([self.frames[each] for each in some], [words[each] for each in some]) for some in parts])

    def found(self) -> list[Found]:
        """Pointing and IoU per kind of grid, over both objects, and what chance gives."""
        covered = np.stack([self._covered(scene, place) for place in (0, 1) for scene in self.made])
        grids = np.concatenate(self.grids)
        rows = [Found(kind=kind, pointing=pointing(grids[:, number], covered), iou=iou(grids[:, number], covered)) for number, kind in enumerate(GRIDS)]
        share = float((covered > 0.5).mean())
        return [*rows, Found(kind="chance", pointing=share, iou=share)]

    def prompted(self, kind: str = "attention") -> Prompted:
        """The visual prompt's effect with masks of this kind."""
        number = GRIDS.index(kind)
        shares = {"plain": [], "right": [], "shuffled": [], "truth": []}
        for place in (0, 1):
            own, others = self.grids[place][:, number], self.grids[1 - place][:, number]
            truth = [thing_mask(_thing(scene, place), self.side, self.side) for scene in self.made]
            words = [[_words(scene, each) for each in (place, 1 - place)] for scene in self.made]
            for name, masks in (("plain", None), ("right", own), ("shuffled", others), ("truth", truth)):
                shown = self.frames if masks is None else [visual_prompt(frame, mask, blur_sigma=BLUR_PX) for frame, mask in zip(self.frames, masks, strict=True)]
                shares[name] += self._prefers(shown, words)
        return Prompted(**{name: float(np.mean(values)) for name, values in shares.items()})

    def _prefers(self, shown: list[np.ndarray], words: list[list[str]]) -> list[bool]:
        """Whether CLIP finds the first of two texts more alike to each picture."""
        from PIL import Image

        model: Any = self.mask._model
        with torch.inference_mode():
            images = model.encode_image(torch.stack([self.mask._picture(Image.fromarray(each)) for each in shown]), normalize=True)
            texts = [model.encode_text(self.mask._tokenizer([pair[each] for pair in words]), normalize=True) for each in (0, 1)]
            alike = [(images * each).sum(1) for each in texts]
        return (alike[0] > alike[1]).tolist()

    def _covered(self, scene: Scene, place: int) -> Float[np.ndarray, "gh gw"]:
        """Share of each cell of the grid that the object covers."""
        full = torch.from_numpy(np.ascontiguousarray(thing_mask(_thing(scene, place), 96, 96)))
        return functional.adaptive_avg_pool2d(full[None].float(), self.grids[0].shape[-2:])[0].numpy()


def pointing(grids: Float[np.ndarray, "n gh gw"], covered: Float[np.ndarray, "n gh gw"]) -> float:
    """Share of grids whose highest cell is covered at least half."""
    highest = grids.reshape(len(grids), -1).argmax(1)
    return float((covered.reshape(len(covered), -1)[np.arange(len(grids)), highest] >= 0.5).mean())


def iou(grids: Float[np.ndarray, "n gh gw"], covered: Float[np.ndarray, "n gh gw"]) -> float:
    """Mean overlap over union of the cells above a grid's mean plus its deviation and the cells covered at least half."""
    flat, truth = grids.reshape(len(grids), -1), covered.reshape(len(covered), -1) >= 0.5
    high = flat > flat.mean(1, keepdims=True) + flat.std(1, keepdims=True)
    return float(((high & truth).sum(1) / np.maximum(1, (high | truth).sum(1))).mean())


def _thing(scene: Scene, place: int) -> Any:
    return scene.other if place else scene.subject


def _words(scene: Scene, place: int) -> str:
    return _thing(scene, place).words
