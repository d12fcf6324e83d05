"""How alike neighbouring moments of a clip are. Exercised by `pytest tests/vapdata/filters/test_clip_filters.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from vapdata.clip import Look, Sample, Score
from vapdata.errors import MissingInput
from vapdata.filters.clip_frames import MODEL, clip_look, clip_weight, tower
from vapdata.step import Judged, Product
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class TemporalConsistency:
    """Mean CLIP cosine of adjacent shown frames.

    What: the cosine of the CLIP image embeddings of each shown frame and the next, averaged over the clip. Near 1: hardly
        anything changes; low: the scene jumps, e.g. a cut that was not found.
    Reads: frames: 2 a second, 3 to 9 in all, spread evenly, so half a second apart in clips of up to 4.5 s and further in longer ones.
    Writes: `temporal_consistency`, -1 to 1.
    Default: CLIP ViT-L/14 of OpenAI. OpenVid-1M cuts both tails of its quantiles.
    Cost: none beside `embedding` in the same stage; alone one CLIP pass per frame.
    Fails when: the look shows fewer than two frames.
    Source: OpenVid-1M (Nan et al. 2024) section 3, whose code is unreleased; EasyAnimate keeps 0.80 and more of key frames against the first.
    """

    name: ClassVar[str] = "temporal_consistency"
    reads: ClassVar[frozenset[str]] = frozenset({"frames"})

    model: str = MODEL
    """Hub id or local folder of a CLIP in open_clip's format."""
    fps: float = 2.0
    most: int = 9
    """Frames at most."""
    batch: int = 16
    """Clips at once."""

    @property
    def look(self) -> Look:
        """The frames it is shown."""
        return clip_look(self.fps, self.most)

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """One number."""
        return {"temporal_consistency": "value"}

    def products(self) -> tuple[Product, ...]:
        """None."""
        return ()

    def weights(self) -> Sequence[Weight]:
        """CLIP's folder."""
        return (clip_weight(self.model),)

    def open(self, device: str | None = None) -> "OpenTemporalConsistency":
        """Loads CLIP."""
        return OpenTemporalConsistency(self, device)


class OpenTemporalConsistency:
    """TemporalConsistency at work."""

    def __init__(self, spec: TemporalConsistency, device: str | None) -> None:
        self._tower = tower(spec.model, device)

    def judge(self, samples: Sequence[Sample]) -> dict[str, Judged]:
        """One score for each clip."""
        return {sample.clip_id: _answer(sample.clip_id, frames) for sample, frames in zip(samples, self._tower.frames(samples), strict=True)}

    def close(self) -> None:
        """Lets go of CLIP."""
        self._tower.close()


def _answer(clip_id: str, frames: np.ndarray) -> Judged:
    if len(frames) < 2:
        return Judged(failure=MissingInput(f"temporal_consistency of {clip_id}: got 1 frame, wants two. Type --set temporal_consistency.most=9"))
    cosines = (frames[:-1].astype(np.float64) * frames[1:]).sum(axis=1)
    return Judged(scores=(Score(filter="temporal_consistency", value=float(cosines.mean())),))
