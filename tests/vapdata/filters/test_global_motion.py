"""A known similarity comes back from tracked points; what stands still does not drift."""

import math

import cv2
import numpy as np
import pytest

from vapdata.filters.global_motion import PathTracker, corners_of, pose

HEIGHT, WIDTH = 90, 160


def _texture(seed=0, height=HEIGHT, width=WIDTH):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((height, width)), (0, 0), 2)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def _moved(world, right=0.0, down=0.0, degrees=0.0, zoom=1.0):
    """The middle of a larger picture, turned clockwise and enlarged about the view's middle, then shifted; pixels."""
    cosine, sine = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    x, y = world.shape[1] / 2, world.shape[0] / 2
    linear = np.array([[cosine, -sine], [sine, cosine]])
    shift = np.array([WIDTH / 2 + right, HEIGHT / 2 + down]) - linear @ np.array([x, y])
    return cv2.warpAffine(world, np.column_stack([linear, shift]), (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)


WORLD = _texture(1, 2 * HEIGHT, 2 * WIDTH)


@pytest.mark.parametrize(
    "motion",
    [{"right": 3.0}, {"down": -2.5}, {"degrees": 4.0}, {"zoom": 1.06}, {"zoom": 0.95}, {"right": -2.0, "down": 1.0, "degrees": -3.0, "zoom": 1.04}, {"right": 25.0}],
)
def test_a_known_similarity_is_found(motion):
    first = _moved(WORLD)
    found = pose(first, corners_of(first), _moved(WORLD, **motion))
    assert found.right * WIDTH == pytest.approx(motion.get("right", 0.0), abs=0.15)
    assert found.down * WIDTH == pytest.approx(motion.get("down", 0.0), abs=0.15)
    assert found.degrees == pytest.approx(motion.get("degrees", 0.0), abs=0.15)
    assert found.log_zoom == pytest.approx(math.log(motion.get("zoom", 1.0)), abs=0.003)
    assert found.support > 0.8
    assert not found.still


def test_a_large_object_that_moves_over_a_still_ground_is_no_motion_of_the_camera():
    first, second = _moved(WORLD), _moved(WORLD)
    thing = _texture(2, 60, 70)
    first[15:75, 30:100], second[15:75, 36:106] = thing, thing
    found = pose(first, corners_of(first), second)
    assert found.still
    assert (found.right, found.down, found.degrees, found.log_zoom) == (0, 0, 0, 0)
    assert found.rival > 0.2


def test_a_picture_without_texture_has_no_corners():
    assert corners_of(np.full((HEIGHT, WIDTH), 90, np.uint8)) is None


def test_noise_on_a_still_picture_does_not_drift():
    random, tracker, still = np.random.default_rng(0), PathTracker(), _moved(WORLD)
    for _ in range(40):
        tracker.add(np.clip(still + random.normal(0, 4, still.shape), 0, 255).astype(np.uint8))
    assert np.abs(np.array(tracker.path)[:, :2]).max() * WIDTH < 0.35
    assert all(tracker.stills)


def test_a_motion_of_a_tenth_of_a_pixel_per_frame_adds_up():
    tracker = PathTracker()
    for step in range(60):
        tracker.add(_moved(WORLD, right=0.1 * step))
    assert tracker.path[-1][0] * WIDTH == pytest.approx(5.9, abs=0.6)


def test_what_cannot_be_tracked_has_no_support_and_the_path_goes_on_from_there():
    tracker = PathTracker()
    for picture in (_moved(WORLD), np.zeros((HEIGHT, WIDTH), np.uint8), _moved(WORLD), _moved(WORLD, right=4.0)):
        tracker.add(picture)
    assert tracker.supports[:2] == [None, None]
    assert tracker.path[-1][0] * WIDTH == pytest.approx(4.0, abs=0.15)


def test_the_same_frames_give_the_same_path():
    paths = []
    for _ in range(2):
        tracker = PathTracker()
        for step in range(6):
            tracker.add(_moved(WORLD, right=2.0 * step, degrees=1.0 * step))
        paths.append(tracker.path)
    assert paths[0] == paths[1]
