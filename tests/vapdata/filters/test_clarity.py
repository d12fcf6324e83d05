"""Variance of the Laplacian."""

import cv2
import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import MissingInput
from vapdata.filters.clarity import Clarity, laplacian_variance

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=1.0, frames=8, fps=8.0, width=8,
    height=8, codec="h264", whole=True,
)


def _measured(*frames):
    meter = Clarity().open()(CLIP)
    for place, frame in enumerate(frames):
        meter.add(frame, float(place))
    (score,) = meter.finish()
    assert score.filter == "clarity"
    return score.value


def _noise(height=90, width=160):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_flat_picture_has_no_clarity():
    assert _measured(np.full((20, 30, 3), 90, np.uint8)) == 0


def test_the_laplacian_is_the_sum_of_four_neighbours_less_four_times_the_middle():
    grey = _noise()[..., 0]
    padded = np.pad(grey.astype(np.float64), 1, mode="reflect")
    reference = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
    assert laplacian_variance(grey) == pytest.approx(reference.var(), rel=1e-9)


def test_each_step_of_blur_lowers_it():
    picture = _noise()
    values = [_measured(picture)] + [_measured(cv2.GaussianBlur(picture, (0, 0), sigma)) for sigma in (0.7, 1.5, 3)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] / 100


def test_one_blurred_frame_of_three_does_not_decide():
    picture = _noise()
    assert _measured(picture, cv2.GaussianBlur(picture, (0, 0), 3), picture) == _measured(picture)


def test_a_large_picture_is_measured_at_320_pixels():
    large = _noise(360, 640)
    assert _measured(large) == _measured(cv2.resize(large, (320, 180), interpolation=cv2.INTER_AREA))


def test_a_clip_without_frames_is_an_error_and_no_number():
    with pytest.raises(MissingInput, match="clarity of d/a: got 0 frames"):
        Clarity().open()(CLIP).finish()
