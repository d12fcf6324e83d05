"""LAION's heads, linear and MLP, from safetensors and from .pth, against torch's own layers."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vapdata import weights
from vapdata.clip import Sample
from vapdata.errors import CallError
from vapdata.filters.aesthetic import Aesthetic, apply, layers, middles
from vapdata.filters.clip_frames import tower

TINY = "tiny-cogvideox"


class Released(torch.nn.Module):
    """The improved aesthetic predictor's module, with its names, in small: linear layers and dropout, no activation."""

    def __init__(self) -> None:
        super().__init__()
        linear = torch.nn.Linear
        self.layers = torch.nn.Sequential(linear(32, 16), torch.nn.Dropout(0.2), linear(16, 8), torch.nn.Dropout(0.2), linear(8, 4), torch.nn.Dropout(0.1), linear(4, 1))


@pytest.fixture(scope="module")
def released() -> Released:
    torch.manual_seed(0)
    return Released().eval()


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample(clip_id="d/a", frames=np.random.default_rng(0).integers(0, 256, (9, 54, 96, 3), np.uint8))


def _scores(head: Path, sample: Sample) -> dict[str, float]:
    opened = Aesthetic(model=TINY, head=str(head)).open("cpu")
    answer = opened.judge([sample])[sample.clip_id]
    opened.close()
    return {score.filter: score.value for score in answer.scores}


@pytest.mark.parametrize("form", ["pth", "safetensors", "folder"])
def test_an_mlp_head_gives_what_its_module_gives_on_three_frames(form: str, released: Released, sample: Sample, tmp_path: Path) -> None:
    if form == "pth":
        head = tmp_path / "sac+logos+ava1-l14-linearMSE.pth"
        torch.save(released.state_dict(), head)
    else:
        head = tmp_path / "model.safetensors"
        save_file(released.state_dict(), head)
    clip = tower(TINY, "cpu")
    (frames,) = clip.frames([sample], [[1, 4, 7]])
    clip.close()
    with torch.no_grad():
        votes = released.double().layers(torch.from_numpy(frames).double())[:, 0]
    released.float()
    scores = _scores(tmp_path if form == "folder" else head, sample)
    assert scores == {"aesthetic": pytest.approx(float(votes.mean()), abs=1e-6), "aesthetic_min": pytest.approx(float(votes.min()), abs=1e-6)}


def test_a_linear_head_of_ones_sums_the_embedding() -> None:
    head = layers({"weight": np.ones((1, 3), np.float32), "bias": np.array([0.5], np.float32)}, "head")
    assert apply(head, np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])).tolist() == [6.5, 0.5]


@pytest.mark.parametrize(("count", "chosen"), [(9, [1, 4, 7]), (4, [0, 2, 3]), (3, [0, 1, 2]), (2, [0, 1]), (0, [])])
def test_three_frames_are_the_middles_of_three_parts(count: int, chosen: list[int]) -> None:
    assert middles(count) == chosen


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"weight": np.ones((2, 3)), "bias": np.ones(2)},
        {"0.weight": np.ones((4, 3)), "0.bias": np.ones(4), "1.weight": np.ones((1, 5)), "1.bias": np.ones(1)},
    ],
)
def test_tensors_that_are_no_head_are_refused(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(CallError, match=r"aesthetic\.head x: its tensors .* are no linear layers from an embedding to one number"):
        layers(tensors, "x")


def test_a_head_of_another_clip_is_refused(released: Released) -> None:
    head = layers({name: tensor.detach().numpy() for name, tensor in released.state_dict().items()}, "x")
    with pytest.raises(CallError, match=r"reads embeddings of 32 numbers, the CLIP gives 5\. Type --set aesthetic\.model"):
        apply(head, np.zeros((1, 5)))


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("/tmp/vapdata-must-never-exist",)


def test_a_head_that_would_run_code_is_refused_unread(tmp_path: Path, sample: Sample) -> None:
    torch.save({"weight": Evil()}, tmp_path / "head.pth")
    with pytest.raises(CallError, match=r"head\.pth: cannot be read as tensors alone"):
        _scores(tmp_path / "head.pth", sample)
    assert not Path("/tmp/vapdata-must-never-exist").exists()


def test_a_heads_version_is_that_of_its_own_file(tmp_path: Path, released: Released) -> None:
    save_file(released.state_dict(), tmp_path / "one.safetensors")
    (_, weight) = Aesthetic(model=TINY, head=str(tmp_path / "one.safetensors")).weights()
    before = weights.revision(weight)
    (tmp_path / "another.safetensors").write_bytes(b"x")
    assert weights.revision(weight) == before
    save_file({name: tensor + 1 for name, tensor in released.state_dict().items()}, tmp_path / "one.safetensors")
    assert weights.revision(weight) != before


def test_a_head_that_is_not_here_is_named(tmp_path: Path) -> None:
    (missing,) = weights.missing(Aesthetic(model=TINY, head=str(tmp_path / "head.pth")).weights())
    assert missing.file == "head.pth"
