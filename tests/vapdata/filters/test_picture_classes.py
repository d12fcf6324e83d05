"""Classifiers over frames: a tiny ViT of transformers, saved and loaded as real ones are, against its own logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from vapdata.clip import Sample
from vapdata.errors import CallError, MissingInput
from vapdata.filters.nsfw import Nsfw
from vapdata.filters.picture_classes import chosen_label
from vapdata.filters.watermark import Watermark
from vapdata.step import Judge

LABELS = {0: "normal", 1: "Bad"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
    config = ViTConfig(**size, id2label=LABELS, label2id={label: k for k, label in LABELS.items()})
    ViTForImageClassification(config).save_pretrained(path, safe_serialization=True)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample(clip_id="d/a", frames=np.random.default_rng(0).integers(0, 256, (4, 54, 96, 3), np.uint8))


@pytest.fixture(scope="module")
def shares(folder: Path, sample: Sample) -> np.ndarray:
    """The probability of class 1 of every frame, from the logits."""
    model, processor = ViTForImageClassification.from_pretrained(folder).eval(), ViTImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**processor([Image.fromarray(frame) for frame in sample.frames], return_tensors="pt")).logits.double()
    return (logits.exp() / logits.exp().sum(-1, keepdim=True))[:, 1].numpy()


@pytest.mark.parametrize(("spec", "over_frames"), [(Watermark, np.mean), (Nsfw, np.max)])
def test_the_score_is_the_class_probability_over_frames(spec: type, over_frames: object, folder: Path, sample: Sample, shares: np.ndarray) -> None:
    opened = spec(model=str(folder)).open("cpu")
    (score,) = opened.judge([sample])["d/a"].scores
    assert score.filter == spec.name
    assert score.value == pytest.approx(float(over_frames(shares)), abs=1e-6)
    named = spec(model=str(folder), label="NORMAL").open("cpu").judge([sample])["d/a"].scores[0].value
    assert named == pytest.approx(float(over_frames(1 - shares)), abs=1e-6)


def test_a_clip_without_frames_is_its_own_failure(folder: Path, sample: Sample) -> None:
    empty = Sample(clip_id="d/empty", frames=np.zeros((0, 54, 96, 3), np.uint8))
    answers = Nsfw(model=str(folder)).open("cpu").judge([empty, sample])
    assert isinstance(answers["d/empty"].failure, MissingInput)
    assert len(answers["d/a"].scores) == 1


def test_a_class_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(CallError, match=r"nsfw\.label = rude: some/model knows the classes normal, Bad\. Type --set nsfw\.label"):
        chosen_label(LABELS, "rude", "nsfw", "some/model")
    with pytest.raises(CallError, match="knows the classes a, b, c"):
        chosen_label({0: "a", 1: "b", 2: "c"}, None, "nsfw", "some/model")


@pytest.mark.parametrize("spec", [Watermark(), Nsfw()])
def test_they_are_judges_with_weights_to_be_found(spec: Judge) -> None:
    assert isinstance(spec, Judge)
    assert [weight.stem for weight in spec.weights()] == ["model"]
