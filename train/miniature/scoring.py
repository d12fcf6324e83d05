"""Which condition a made clip shows, without a learned judge: the scene is known, so every condition is rendered, and the nearest is taken.

Near is the mean squared error of the frames behind the first. `fade` attracts blurred clips, for a subject that is half gone is near to
one that is smeared: figures are given with it and without. Exercised by `pytest tests/train/miniature/test_scoring.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vapdata.scenes import CONDITIONS, Scene, render

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


def seen(scene: Scene, wanted: str, frames: UInt8[np.ndarray, "t h w 3"], names: Sequence[str] = tuple(CONDITIONS)) -> Seen:
    """What `frames` show of the scene, among the conditions `names`."""
    count, height, width = frames.shape[:3]
    made = frames[1:].astype(np.float32)
    errors = {name: float(np.square(render(scene, CONDITIONS[name], frames=count, height=height, width=width)[1:] - made).mean()) for name in {*names, wanted}}
    left = {name: error for name, error in errors.items() if name in names}
    psnr = 10 * np.log10(255**2 / max(errors[wanted], 1e-6))
    return Seen(wanted=wanted, nearest=_least(left), nearest_but_fade=_least({name: error for name, error in left.items() if name != FADE}), psnr_db=float(psnr))


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
