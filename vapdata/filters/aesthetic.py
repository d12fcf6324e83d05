"""How pleasing a clip's frames are, by LAION's heads on CLIP. Exercised by `pytest tests/vapdata/filters/test_aesthetic.py`."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float64

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.clip import Look, Sample, Score
from vapdata.errors import CallError, ClipError
from vapdata.filters.clip_frames import MODEL, clip_look, clip_weight, tower
from vapdata.step import Judged, Product
from vapdata.weights import Weight

HEAD = "ttj/sac-logos-ava1-l14-linearMSE"
"""The head of LAION's improved aesthetic predictor as safetensors, which NVIDIA's curators use too."""
FRAMES = 3

Layer = tuple[Float64[np.ndarray, "_ _"], Float64[np.ndarray, " _"]]


@dataclass(frozen=True, kw_only=True)
class Aesthetic:
    """LAION's aesthetic score of three frames: mean and lowest.

    What: unit-length CLIP ViT-L/14 embedding through a linear head, or through an MLP's linear layers (it has no activation
        between them). Trained on people's votes from 1 to 10; 5.5 is fair and 6.5 high (Open-Sora).
    Reads: 3 of the frames that the other CLIP filters are shown, the middles of three equal parts.
    Writes: `aesthetic`, the mean, and `aesthetic_min`, the lowest of the three; about 1 to 10.
    Default: `head` from ttj/sac-logos-ava1-l14-linearMSE. Another: the path of a folder with model.safetensors, of a
        .safetensors file, or of LAION's own .pth (read with weights_only=True).
    Cost: none beside `embedding` in the same stage; alone 3 CLIP passes.
    Fails when: the clip shows no frame, or the score is not finite.
    Source: LAION-AI/aesthetic-predictor and christophschuhmann/improved-aesthetic-predictor. Thresholds: Open-Sora 4.5 to 5,
        NeMo Curator 3.5 of the lowest frame, OpenVid-1M the top fifth.
    """

    name: ClassVar[str] = "aesthetic"
    reads: ClassVar[frozenset[str]] = frozenset({"frames"})

    head: str = HEAD
    """Hub id, folder or file of the head."""
    model: str = MODEL
    """Hub id or local folder of the CLIP that the head was trained on, in open_clip's format."""
    fps: float = 2.0
    most: int = 9
    """Frames at most that the look shows; three of them are read."""
    batch: int = 16
    """Clips at once."""

    @property
    def look(self) -> Look:
        """The frames it is shown."""
        return clip_look(self.fps, self.most)

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """Mean and lowest."""
        return {"aesthetic": "value", "aesthetic_min": "value"}

    def products(self) -> tuple[Product, ...]:
        """None."""
        return ()

    def weights(self) -> Sequence[Weight]:
        """CLIP's folder and the head's file."""
        path = Path(self.head).expanduser()
        if path.suffix in (".pth", ".pt", ".safetensors"):
            return (clip_weight(self.model), Weight(repo=str(path.parent), files=(path.name,), alone=True))
        return (clip_weight(self.model), Weight(repo=self.head, files=(), stem="model", bytes=4_000_000))

    def open(self, device: str | None = None) -> "OpenAesthetic":
        """Loads CLIP and the head."""
        return OpenAesthetic(self, device)


class OpenAesthetic:
    """Aesthetic at work."""

    def __init__(self, spec: Aesthetic, device: str | None) -> None:
        weight = spec.weights()[1]
        path = stores.find(weight) / (weight.files[0] if weight.files else "model.safetensors")
        self._layers = layers(_tensors(path), str(path))
        self._tower = tower(spec.model, device)

    def judge(self, samples: Sequence[Sample]) -> dict[str, Judged]:
        """Two scores for each clip."""
        chosen = [middles(0 if sample.frames is None else len(sample.frames)) for sample in samples]
        answers = {}
        for sample, frames in zip(samples, self._tower.frames(samples, chosen), strict=True):
            try:
                votes = devices.finite(apply(self._layers, frames.astype(np.float64)), "aesthetic", sample.clip_id)
            except ClipError as error:
                answers[sample.clip_id] = Judged(failure=error)
                continue
            scores = (Score(filter="aesthetic", value=float(votes.mean())), Score(filter="aesthetic_min", value=float(votes.min())))
            answers[sample.clip_id] = Judged(scores=scores)
        return answers

    def close(self) -> None:
        """Lets go of CLIP."""
        self._tower.close()


def middles(count: int) -> list[int]:
    """Of `count` frames, those in the middles of three equal parts; all of them when there are fewer."""
    return list(range(count)) if count < FRAMES else [int((part + 0.5) * count / FRAMES) for part in range(FRAMES)]


def layers(tensors: Mapping[str, Any], where: str) -> list[Layer]:
    """The linear layers of a head, in order: `weight` and `bias` alone, or one pair per numbered layer.

    Raises CallError for a head whose layers do not lead from a vector to one number.
    """
    numbered = {}
    for name in tensors:
        match = re.fullmatch(r"(?:.*?(\d+)\.)?(?:.*\.)?weight", name)
        if match:
            numbered[int(match[1] or 0)] = name.removesuffix("weight")
    named = [numbered[k] for k in sorted(numbered) if f"{numbered[k]}bias" in tensors]
    found = [(np.asarray(tensors[f"{name}weight"], np.float64), np.asarray(tensors[f"{name}bias"], np.float64)) for name in named]
    shaped = all(weight.ndim == 2 and bias.shape == weight.shape[:1] for weight, bias in found)
    fits = shaped and all(after.shape[1] == before.shape[0] for (before, _), (after, _) in itertools.pairwise(found))
    if not found or not fits or found[-1][0].shape[0] != 1:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise CallError(f"aesthetic.head {where}: its tensors {shapes} are no linear layers from an embedding to one number; give one of LAION's heads")
    return found


def apply(head: Sequence[Layer], vectors: Float64[np.ndarray, "t d"]) -> Float64[np.ndarray, " t"]:
    """The head's score of each vector."""
    if head[0][0].shape[1] != vectors.shape[1]:
        remedy = "Type --set aesthetic.model=... with the CLIP that it was trained on"
        raise CallError(f"aesthetic.head reads embeddings of {head[0][0].shape[1]} numbers, the CLIP gives {vectors.shape[1]}. {remedy}")
    for weight, bias in head:
        vectors = vectors @ weight.T + bias
    return vectors[:, 0]


def _tensors(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CallError(f"aesthetic.head {path}: cannot be read as tensors alone ({type(error).__name__}); give the file that LAION released, or a .safetensors") from error
    if not isinstance(found, dict) or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise CallError(f"aesthetic.head {path}: holds {type(found).__name__}, wanted tensors by name (a state dict)")
    return {name: tensor.float().numpy() for name, tensor in found.items()}
