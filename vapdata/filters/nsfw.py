"""Whether a clip is unfit for work. Exercised by `pytest tests/vapdata/filters/test_picture_classes.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from vapdata.clip import Look
from vapdata.filters.picture_classes import OpenClassifier, classifier_weight
from vapdata.step import Product
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Nsfw:
    """The probability of nudity or the like, by an image classifier.

    What: the probability of class `label` that the classifier gives each shown frame; the highest over frames, since one is enough.
    Reads: frames: 1 a second, 3 to 8 in all, spread evenly.
    Writes: `nsfw`, 0 to 1.
    Default: Falconsai/nsfw_image_detection; any image classifier of transformers with safetensors will do (`model`, `label`).
    Cost: one pass of the classifier per frame; a ViT-B/16 by default.
    Fails when: the clip shows no frame, or a value is not finite.
    Source: Data-Juicer's video_nsfw_filter keeps clips under 0.5 with this classifier (it takes the mean).
    """

    name: ClassVar[str] = "nsfw"
    reads: ClassVar[frozenset[str]] = frozenset({"frames"})

    model: str = "Falconsai/nsfw_image_detection"
    """Hub id or local folder."""
    label: str | None = None
    """The class that counts; None takes class 1 of two, as Data-Juicer does."""
    fps: float = 1.0
    most: int = 8
    """Frames at most."""
    batch: int = 8
    """Clips at once."""

    @property
    def look(self) -> Look:
        """The frames it is shown."""
        return Look(fps=self.fps, least=min(3, self.most), most=self.most)

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """One number."""
        return {"nsfw": "value"}

    def products(self) -> tuple[Product, ...]:
        """None."""
        return ()

    def weights(self) -> Sequence[Weight]:
        """The classifier's folder."""
        return (classifier_weight(self.model, bytes=343_000_000),)

    def open(self, device: str | None = None) -> OpenClassifier:
        """Loads the classifier; the highest over frames counts."""
        return OpenClassifier(self.name, self.weights()[0], self.label, np.max, device)
