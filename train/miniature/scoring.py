"""Which condition a made clip shows, without a learned judge: the scene is known, so every condition is rendered, and the nearest is taken.

Near is the mean squared error of the frames behind the first. `fade` attracts blurred clips, for a subject that is half gone is near to
one that is smeared: figures are given with it and without. Exercised by `pytest tests/train/miniature/test_scoring.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vapdata.scenes import CONDITIONS, Condition, Scene, render, then

FADE = "fade"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one made clip was meant to show, and what it is nearest to."""

    wanted: str
    nearest: str
    nearest_but_fade: str
    psnr_db: float
    """Against the rendered clip of the condition that was wanted, frame 0 left out."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Shares of clips. Without any clip a share is None."""

    clips: int
    accuracy: float | None
    but_fade: float | None
    """Of clips that are not meant to fade, with `fade` no answer."""
    psnr_db: float | None


def seen(scene: Scene, wanted: str, frames: UInt8[np.ndarray, "t h w 3"], among: Mapping[str, Condition] = CONDITIONS) -> Seen:
    """What `frames` show of the scene, among conditions of which `wanted` is one."""
    count, height, width = frames.shape[:3]
    made = frames[1:].astype(np.float32)
    errors = {name: float(np.square(render(scene, each, frames=count, height=height, width=width)[1:] - made).mean()) for name, each in among.items()}
    psnr = 10 * np.log10(255**2 / max(errors[wanted], 1e-6))
    return Seen(wanted=wanted, nearest=_least(errors), nearest_but_fade=_least({name: error for name, error in errors.items() if name != FADE}), psnr_db=float(psnr))


def orders(name: str) -> dict[str, Condition]:
    """What a clip of the ordered event `name`, "first>second", may be taken for: that, the other order, and either condition alone."""
    first, second = name.split(">")
    both = [then(CONDITIONS[one], CONDITIONS[other]) for one, other in ((first, second), (second, first))]
    return {**{each.name: each for each in both}, first: CONDITIONS[first], second: CONDITIONS[second]}


def score(found: Sequence[Seen]) -> Score:
    """The shares of a row."""
    unfading = [each for each in found if each.wanted != FADE]
    return Score(
        clips=len(found),
        accuracy=_mean([each.nearest == each.wanted for each in found]),
        but_fade=_mean([each.nearest_but_fade == each.wanted for each in unfading]),
        psnr_db=_mean([each.psnr_db for each in found]),
    )


def _least(errors: dict[str, float]) -> str:
    return min(errors, key=lambda name: (errors[name], name))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
