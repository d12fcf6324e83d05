"""Planted camera moves get their labels, alone and together."""

import functools
import math

import cv2
import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import CallError, MissingInput
from vapdata.filters.camera_motion import CameraMotion
from vapdata.shapes import CAMERAS, Shot, draw

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=2.0, frames=16, fps=8.0, width=320,
    height=180, codec="h264", whole=True,
)
HEIGHT, WIDTH, FRAMES = 180, 320, 17
MOVES = {
    "static": lambda part: {},
    "pan_left": lambda part: {"right": 60 * part},
    "pan_right": lambda part: {"right": -60 * part},
    "tilt_up": lambda part: {"down": 60 * part},
    "tilt_down": lambda part: {"down": -60 * part},
    "zoom_in": lambda part: {"zoom": 1.5**part},
    "zoom_out": lambda part: {"zoom": 1.5 ** (1 - part)},
    "roll": lambda part: {"degrees": 20 * part},
    "shake": lambda part: {"right": 8 * math.sin(2 * math.pi * 4 * part), "down": 6 * math.sin(2 * math.pi * 5 * part)},
}
"""Where the content goes in 320 x 180 pixels, at a time from 0 to 1."""


@functools.cache
def _world():
    noise = cv2.GaussianBlur(np.random.default_rng(3).standard_normal((2 * HEIGHT, 2 * WIDTH, 3)), (0, 0), 3)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def _view(world, right=0.0, down=0.0, degrees=0.0, zoom=1.0):
    matrix = cv2.getRotationMatrix2D((WIDTH, HEIGHT), -degrees, zoom)
    matrix[:, 2] += (right - WIDTH / 2, down - HEIGHT / 2)
    return cv2.warpAffine(world, matrix, (WIDTH, HEIGHT))


def _filmed(move):
    world = _world()
    return [_view(world, **move(step / (FRAMES - 1))) for step in range(FRAMES)]


def _labels(shown, **settings):
    meter = CameraMotion(**settings).open()(CLIP)
    for step, frame in enumerate(shown):
        meter.add(frame, step / 8)
    scores = meter.finish()
    assert {score.filter for score in scores} == {"camera_motion"}
    assert all(0 <= score.value <= 1 for score in scores)
    return {score.label: score.value for score in scores}


@pytest.mark.parametrize("label", MOVES)
def test_a_planted_move_gets_its_label_and_no_other(label):
    found = _labels(_filmed(MOVES[label]))
    assert list(found) == [label]
    assert found[label] > 0.8


@pytest.mark.parametrize(("first", "second"), [("pan_left", "zoom_in"), ("tilt_down", "pan_right"), ("roll", "zoom_out")])
def test_a_composite_is_two_labels(first, second):
    assert set(_labels(_filmed(lambda part: MOVES[first](part) | MOVES[second](part)))) == {first, second}


def test_there_and_back_again_is_both_labels():
    assert set(_labels(_filmed(lambda part: {"right": 60 * math.sin(math.pi * part)}))) == {"pan_left", "pan_right"}


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_labels_are_those_of_the_synthetic_source(camera):
    shot = Shot(
        frames=24, height=96, width=160, shape="circle", colour="red", ground="blue", direction="right", speed_px=1, camera=camera,
        pan_px=2 * camera.startswith("pan"), texture_seed=5,
    )  # fmt: skip
    assert list(_labels(draw(shot))) == [camera]


def test_an_object_that_moves_before_a_standing_camera_is_static():
    filmed = _filmed(MOVES["static"])
    for step, frame in enumerate(filmed):
        cv2.rectangle(frame, (20 + 10 * step, 50), (100 + 10 * step, 140), (200, 30, 30), -1)
    assert list(_labels(filmed)) == ["static"]


def test_noise_is_undetermined():
    random = np.random.default_rng(0)
    assert list(_labels(random.integers(0, 256, (9, HEIGHT, WIDTH, 3), dtype=np.uint8))) == ["undetermined"]


def test_a_black_clip_is_undetermined_with_full_confidence():
    assert _labels(np.zeros((9, HEIGHT, WIDTH, 3), np.uint8)) == {"undetermined": 1.0}


def test_a_threshold_of_its_own_is_kept():
    filmed = _filmed(lambda part: {"right": 30 * part})
    assert list(_labels(filmed)) == ["pan_left"]
    assert list(_labels(filmed, least=0.2)) == ["static"]


def test_a_frame_given_again_counts_once():
    filmed = _filmed(MOVES["pan_left"])
    meter = CameraMotion().open()(CLIP)
    for step, frame in enumerate(filmed):
        meter.add(frame, step / 8)
        meter.add(frame, step / 8)
    assert {score.label: score.value for score in meter.finish()} == _labels(filmed)


def test_one_frame_is_an_error_and_no_label():
    meter = CameraMotion().open()(CLIP)
    meter.add(_view(_world()), 0.0)
    with pytest.raises(MissingInput, match="camera_motion of d/a: needs two frames"):
        meter.finish()


@pytest.mark.parametrize(("settings", "words"), [({"fps": 0}, r"--set camera_motion\.fps=8"), ({"least": 5}, r"--set camera_motion\.least=0\.05")])
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(CallError, match=words):
        CameraMotion(**settings)
