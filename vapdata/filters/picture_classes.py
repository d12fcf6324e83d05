"""Any image classifier of transformers over a clip's frames: what `watermark` and `nsfw` share.

Exercised by `pytest tests/vapdata/filters/test_picture_classes.py`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.clip import Sample, Score
from vapdata.errors import CallError, ClipError, MissingInput
from vapdata.step import Judged
from vapdata.weights import Weight


def classifier_weight(model: str, bytes: int | None = None) -> Weight:
    """The files of an image classifier in transformers' format."""
    return Weight(repo=model, files=("config.json", "preprocessor_config.json"), stem="model", bytes=bytes)


class OpenClassifier:
    """A classifier at work: the probability of one class in each shown frame, made one number per clip by `over_frames`."""

    def __init__(self, name: str, weight: Weight, label: str | None, over_frames: Callable[[Float64[np.ndarray, " t"]], float], device: str | None) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

        folder = stores.find(weight)
        self._name, self._over_frames = name, over_frames
        self._device = devices.pick(device)
        model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self._label = chosen_label(model.config.id2label, label, name, weight.model_id)
        self._classify = pipeline("image-classification", model=model, image_processor=processor, device=self._device)

    def judge(self, samples: Sequence[Sample]) -> dict[str, Judged]:
        """One score for each clip."""
        return {sample.clip_id: self._one(sample) for sample in samples}

    def close(self) -> None:
        """Nothing outlives the object."""

    def _one(self, sample: Sample) -> Judged:
        from PIL import Image

        try:
            if sample.frames is None or not len(sample.frames):
                raise MissingInput(f"{self._name} of {sample.clip_id}: no frames to look at, wanted one or more. Scan the file again.")
            with devices.out_of_memory(self._name, "Run again when the GPU is free."):
                answers = self._classify([Image.fromarray(frame) for frame in sample.frames], top_k=None, function_to_apply="softmax", batch_size=1)
            shares = np.array([each["score"] for answer in answers for each in answer if each["label"] == self._label], np.float64)
            value = self._over_frames(devices.finite(shares, self._name, sample.clip_id))
        except ClipError as error:
            return Judged(failure=error)
        return Judged(scores=(Score(filter=self._name, value=float(value)),))


def chosen_label(labels: dict[int, str], wanted: str | None, name: str, model_id: str) -> str:
    """The class called `wanted`, whatever its case; without one class 1 of a classifier of two. Raises CallError."""
    if wanted is None and len(labels) == 2:
        return labels[1]
    found = [label for label in labels.values() if wanted is not None and label.lower() == wanted.lower()]
    if not found:
        raise CallError(f"{name}.label = {wanted}: {model_id} knows the classes {', '.join(labels.values())}. Type --set {name}.label=... with one of them")
    return found[0]
