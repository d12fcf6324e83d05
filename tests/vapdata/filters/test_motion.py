"""Optical flow: known shifts come back in pixels per 1/fps seconds."""

import csv

import cv2
import numpy as np
import pytest

from vapdata.clip import Clip, Video
from vapdata.errors import CallError, MissingInput
from vapdata.filters.motion import Motion
from vapdata.scan import SCAN_FIT, Scanner
from vapdata.video import frames, probe

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=1.0, frames=8, fps=8.0, width=8,
    height=8, codec="h264", whole=True,
)
MOVES = ("hand-held", "pan", "tracking", "moving camera", "fast motion", "fast camera motion")


def _texture(height=180, width=400):
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((height, width, 3)), (0, 0), 3)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def _shifted(world, pixels):
    """A view into a wider world, its content moved right by this many pixels."""
    return np.ascontiguousarray(world[:, 80 - pixels : world.shape[1] - pixels])


def _measured(shots, fps=2.0):
    meter = Motion(fps=fps).open()(CLIP)
    for frame, time_s in shots:
        meter.add(frame, time_s)
    (score,) = meter.finish()
    assert score.filter == "motion"
    return score.value


@pytest.mark.parametrize("pixels", [1, 3, 8, 20])
def test_a_known_shift_is_answered_within_ten_percent(pixels):
    picture = _texture()
    shots = [(_shifted(picture, pixels * step), 0.5 * step) for step in range(4)]
    assert _measured(shots) == pytest.approx(pixels, rel=0.1)


def test_a_still_picture_does_not_move():
    picture = _texture()
    assert _measured([(picture, 0.5 * step) for step in range(4)]) == 0


def test_the_unit_holds_for_a_clip_shorter_than_the_grid():
    picture = _texture()
    assert _measured([(_shifted(picture, 0), 0.0), (_shifted(picture, 4), 0.25)]) == pytest.approx(8, rel=0.1)


def test_a_frame_given_again_counts_once():
    picture = _texture()
    once = _measured([(_shifted(picture, 0), 0.0), (_shifted(picture, 6), 1.0)])
    assert _measured([(_shifted(picture, 0), 0.0), (_shifted(picture, 0), 0.0), (_shifted(picture, 6), 1.0)]) == once
    assert once == pytest.approx(3, rel=0.1)


def test_a_large_picture_is_measured_at_320_pixels():
    large = cv2.resize(_texture(), (720, 324), interpolation=cv2.INTER_CUBIC)
    assert _measured([(_shifted(large, 0), 0.0), (_shifted(large, 16), 0.5)]) == pytest.approx(8, rel=0.1)


def test_a_tiny_picture_is_measured_too():
    assert _measured([(_texture(10, 12), 0.0), (_texture(10, 12), 0.5)]) == pytest.approx(0, abs=1e-3)


def test_the_same_frames_give_the_same_bits_wherever_they_lie_in_memory():
    picture, values, held = _texture(48, 144), set(), []
    for repeat in range(40):
        held.append(np.empty(1000 + 40 * repeat, np.uint8))
        values.add(_measured([(_shifted(picture, 3 * step), 0.5 * step) for step in range(4)]))
    assert len(values) == 1


def test_one_frame_is_an_error_and_no_number():
    meter = Motion().open()(CLIP)
    meter.add(_texture(), 0.0)
    with pytest.raises(MissingInput, match="motion of d/a: needs two frames"):
        meter.finish()


def test_a_rate_of_zero_is_refused():
    with pytest.raises(CallError, match=r"--set motion\.fps=2"):
        Motion(fps=0)


@pytest.mark.slow
def test_static_clips_score_lower_than_moving_ones(real_clips):
    scanner = Scanner(filters=[Motion()])
    static, moving = [], []
    with open(real_clips / "clips" / "clips.csv", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            tags = row["tags"].split(";")
            group = static if "static camera" in tags else moving
            if group is moving and not any(tag.startswith(MOVES) for tag in tags):
                continue
            path = real_clips / "clips" / row["file"]
            video = Video(video_id=row["file"], dataset="d", name=row["file"], uri=row["file"], split_group=".")
            (scores,) = scanner.scan(frames(path, SCAN_FIT), probe(path), video).scores.values()
            group.append(scores[0].value)
    assert len(static) == 34
    assert len(moving) == 10
    assert np.median(static) < np.median(moving) / 3
    assert np.mean([low < high for low in static for high in moving]) > 0.9
