"""Frozen frames, as a share of the time."""

import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import CallError, MissingInput
from vapdata.filters.static import Static, largest_change

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=1.0, frames=8, fps=8.0, width=8, height=8, codec="h264", whole=True
)
PICTURE = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)


def _measured(frames, gap_s=0.25):
    meter = Static().open()(CLIP)
    for place, frame in enumerate(frames):
        meter.add(frame, gap_s * place)
    return {score.filter: score.value for score in meter.finish()}


def test_frames_that_stop_changing_are_frozen_from_there_on():
    moving = [np.roll(PICTURE, 3 * step, 1) for step in range(4)]
    assert _measured([*moving, moving[-1], moving[-1], moving[-1]]) == {"static": 0.5, "static_longest_s": 0.75}


def test_the_longest_stretch_is_not_their_sum():
    other = PICTURE[::-1].copy()
    assert _measured([PICTURE, PICTURE, PICTURE, other, other]) == {"static": 0.75, "static_longest_s": 0.5}


def test_a_small_thing_that_moves_keeps_a_picture_from_being_frozen():
    frames = [PICTURE.copy() for _ in range(5)]
    for step, frame in enumerate(frames):
        frame[40:46, 50 + 4 * step : 56 + 4 * step] = 255
    assert _measured(frames)["static"] == 0


def test_noise_of_a_sensor_is_no_freeze_and_rounding_is():
    random = np.random.default_rng(1)
    still = np.full((90, 160, 3), 100, np.uint8)
    assert _measured([np.clip(still + random.normal(0, 3, still.shape), 0, 255).astype(np.uint8) for _ in range(4)])["static"] == 0
    assert _measured([still + (random.random(still.shape) > 0.5).astype(np.uint8) for _ in range(4)])["static"] == 1


def test_the_change_is_the_largest_block_mean():
    first = np.zeros((16, 16), np.uint8)
    second = first.copy()
    second[4:8, 4:8] = 32  # 16 of 64 pixels: 8 levels
    assert largest_change(first, second) == pytest.approx(8)


def test_one_frame_is_an_error_and_no_number():
    with pytest.raises(MissingInput, match="static of d/a: needs two frames"):
        _measured([PICTURE])


def test_a_rate_of_zero_is_refused():
    with pytest.raises(CallError, match=r"--set static\.fps=4"):
        Static(fps=0)
