"""Where a clip lies in CLIP's space: for search and for finding duplicates. Exercised by `pytest tests/vapdata/filters/test_clip_filters.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float32

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.clip import Look, Sample
from vapdata.errors import ClipError
from vapdata.filters.clip_frames import MODEL, clip_look, clip_weight, tower
from vapdata.step import Cell, Judged, Product
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The clip's mean CLIP image embedding.

    What: each shown frame's embedding, unit length; their mean, brought to unit length again.
    Reads: frames: 2 a second, 3 to 9 in all, spread evenly.
    Writes: product `embedding-<model>` in `features`: f32 (width,), 768 for ViT-L/14. No score.
    Default: CLIP ViT-L/14 of OpenAI.
    Cost: one CLIP pass per frame, shared with `aesthetic`, `temporal_consistency` and `text_match` in one stage; 3 KB a clip.
    Fails when: the clip shows no frame, or a value is not finite.
    Source: SemDeDup (Abbas et al. 2023) and NeMo Curator, which find duplicates among such vectors; CLIP (Radford et al. 2021).
    """

    name: ClassVar[str] = "embedding"
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
        """No score."""
        return {}

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        weight = clip_weight(self.model)
        revision = stores.revision(weight)
        name = f"embedding-{weight.model_id.rpartition('/')[2]}"
        settings = {"model_id": weight.model_id, "revision": revision, "pooling": "mean", **asdict(self.look)}
        return (Product(name=name, table="features", model_id=weight.model_id, revision=revision, dtype="f32", settings=settings),)

    def weights(self) -> Sequence[Weight]:
        """CLIP's folder."""
        return (clip_weight(self.model),)

    def open(self, device: str | None = None) -> "OpenEmbedding":
        """Loads CLIP."""
        return OpenEmbedding(self, device)


class OpenEmbedding:
    """Embedding at work."""

    def __init__(self, spec: Embedding, device: str | None) -> None:
        self._product = spec.products()[0].name
        self._tower = tower(spec.model, device)

    def judge(self, samples: Sequence[Sample]) -> dict[str, Judged]:
        """One cell for each clip."""
        answers = {}
        for sample, frames in zip(samples, self._tower.frames(samples), strict=True):
            try:
                mean = devices.finite(unit_mean(frames), self._product, sample.clip_id)
                answers[sample.clip_id] = Judged(cells=(Cell(product=self._product, clip_id=sample.clip_id, data=mean, shape=mean.shape),))
            except ClipError as error:
                answers[sample.clip_id] = Judged(failure=error)
        return answers

    def close(self) -> None:
        """Lets go of CLIP."""
        self._tower.close()


def unit_mean(vectors: Float32[np.ndarray, "t d"]) -> Float32[np.ndarray, " d"]:
    """The mean of `vectors`, brought to unit length."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    return (mean / np.linalg.norm(mean)).astype(np.float32)
