"""How well a clip's caption fits its frames. Exercised by `pytest tests/vapdata/filters/test_clip_filters.py`."""

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
class TextMatch:
    """Mean CLIP cosine of the shown frames and the caption.

    What: the cosine of each shown frame's CLIP embedding and the caption's, averaged over the frames.
    Reads: frames (2 a second, 3 to 9 in all, spread evenly) and the caption that the recipe prefers; of a long one the first 77 tokens.
    Writes: `text_match`, -1 to 1, with the text's hash; another caption makes the row stale. A clip without caption gets none.
    Default: CLIP ViT-L/14 of OpenAI.
    Cost: one pass of the small text tower beside `embedding` in the same stage.
    Fails when: the clip shows no frame.
    Source: Data-Juicer's video_frames_text_similarity_filter keeps 0.1 and more (ViT-B/32, mean); Open-Sora matches the middle frame (ViT-L/14).
    """

    name: ClassVar[str] = "text_match"
    reads: ClassVar[frozenset[str]] = frozenset({"frames", "caption"})

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
        return {"text_match": "value"}

    def products(self) -> tuple[Product, ...]:
        """None."""
        return ()

    def weights(self) -> Sequence[Weight]:
        """CLIP's folder."""
        return (clip_weight(self.model),)

    def open(self, device: str | None = None) -> "OpenTextMatch":
        """Loads CLIP."""
        return OpenTextMatch(self, device)


class OpenTextMatch:
    """TextMatch at work."""

    def __init__(self, spec: TextMatch, device: str | None) -> None:
        self._tower = tower(spec.model, device)

    def judge(self, samples: Sequence[Sample]) -> dict[str, Judged]:
        """One score for each clip."""
        return {sample.clip_id: self._one(sample, frames) for sample, frames in zip(samples, self._tower.frames(samples), strict=True)}

    def close(self) -> None:
        """Lets go of CLIP."""
        self._tower.close()

    def _one(self, sample: Sample, frames: np.ndarray) -> Judged:
        if sample.caption is None:
            return Judged(failure=MissingInput(f"text_match of {sample.clip_id}: got no caption, wants one. Fill captions in first: vapdata backfill"))
        cosines = frames.astype(np.float64) @ self._tower.text(sample.caption.text)
        return Judged(scores=(Score(filter="text_match", value=float(cosines.mean())),))
