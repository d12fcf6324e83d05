"""Frames blended into fewer, as Seer's loader makes its clips: against torch's own interpolation over time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vapdata import video
from vapdata.clip import Sampling
from vapdata.errors import CallError, MissingInput

LINEAR = Sampling(frames=4, height=16, width=24, fps=2, short="slow", between="linear")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 frames of noise at 10 fps, small enough to be kept nearly as drawn."""
    path = tmp_path_factory.mktemp("blend") / "clip.mp4"
    images = np.random.default_rng(0).integers(0, 256, (13, 16, 24, 3), dtype=np.uint8)
    video.write(path, iter(images), 10.0, crf=1)
    return path


def shown(clip: Path) -> np.ndarray:
    """Every frame on the grid."""
    return np.stack([frame.image for frame in video.frames(clip, video.Fit(height=16, width=24))])


@pytest.mark.parametrize("frames", [4, 5, 12])
def test_blended_frames_are_torchs_interpolation_of_all_frames(clip: Path, frames: int) -> None:
    every = torch.from_numpy(shown(clip)).permute(3, 0, 1, 2)[None].float()
    wanted = torch.nn.functional.interpolate(every, size=(frames, 16, 24), mode="trilinear")[0].permute(1, 2, 3, 0).numpy()
    sampling = Sampling(frames=frames, height=16, width=24, fps=2, short="slow", between="linear")
    assert np.abs(video.sample(clip, 0.0, 1.3, sampling).astype(float) - wanted).max() <= 0.51, "rounded to whole numbers"


def test_a_clip_with_fewer_frames_is_kept_and_filled_with_grey(clip: Path) -> None:
    made = video.sample(clip, 0.0, 0.3, LINEAR)
    np.testing.assert_array_equal(made[:3], shown(clip)[:3])
    assert (made[3] == 128).all(), "0 of Seer's -1..1"


def test_a_span_without_frames_is_refused(clip: Path) -> None:
    with pytest.raises(MissingInput, match=r"shows no frame between 5\.000 s and 6\.000 s"):
        video.sample(clip, 5.0, 6.0, LINEAR)


def test_every_frame_has_two_neighbours_and_a_share() -> None:
    """By hand: 6 frames into 2 lie at 1 and 4; 5 into 2 at 0.75 and 3.25."""
    assert video.blend(6, 2) == [(1, 2, 0.0), (4, 5, 0.0)]
    assert video.blend(5, 2) == [(0, 1, 0.75), (3, 4, 0.25)]
    assert video.blend(2, 4) == [(0, 1, 0.0), (1, 1, 0.0)]


def test_it_is_told_apart_and_asks_for_short_slow() -> None:
    assert (LINEAR.label(), LINEAR.pictures) == ("4x16x24-2fps-linear", "stretch+linear")
    usual = Sampling(frames=4, height=16, width=24, fps=2)
    assert (usual.label(), usual.pictures, usual.between) == ("4x16x24-2fps", "stretch", "nearest")
    with pytest.raises(CallError, match=r"--set sampling\.short=slow before it"):
        Sampling(frames=4, height=16, width=24, fps=2, between="linear")
