"""Statistics of pictures whose answers are known, and motions that were put there."""

import cv2
import numpy as np
import pytest

from vapdata.conditions.statistics import STATISTICS, clip_statistics, end_statistics, global_motion, net_motion, picture_statistics
from vapdata.conditions.warps import about, shown


def _texture(height=120, width=200):
    plane = cv2.GaussianBlur(np.random.default_rng(3).standard_normal((height, width, 3)), (0, 0), 2)
    return cv2.normalize(plane, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def test_a_plain_orange_picture_has_the_numbers_of_orange():
    found = picture_statistics(np.full((60, 80, 3), (250, 150, 50), np.uint8))
    assert found["brightness"] == pytest.approx(0.299 * 250 + 0.587 * 150 + 0.114 * 50, abs=0.01)
    assert (found["saturation"], found["warmth"], found["green"]) == (200, 200, 0)
    assert (found["contrast"], found["detail"], found["colours"], found["flatness"]) == pytest.approx((0, 0, 0, 1), abs=1e-4)


def test_a_ruled_picture_is_more_of_a_grid_than_noise():
    ruled = np.full((96, 160, 3), 200, np.uint8)
    ruled[::8], ruled[:, ::8] = 0, 0
    assert picture_statistics(ruled)["grid"] > 1.5 * picture_statistics(_texture(96, 160))["grid"]


def test_end_statistics_have_every_key_and_see_an_inversion():
    frames = np.repeat(_texture()[None], 9, 0)
    assert set(end_statistics(frames, frames)) == set(STATISTICS)
    assert end_statistics(frames, frames)["inversion"] == pytest.approx(0, abs=1e-6)
    assert end_statistics(frames, 255 - frames)["inversion"] == pytest.approx(2, abs=1e-3)


def test_flicker_is_the_mean_change():
    frames = np.full((9, 48, 64, 3), 100, np.uint8)
    blinking = frames.copy()
    blinking[::2] = 110
    assert end_statistics(frames, blinking)["flicker"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("zoom", "degrees", "shift"), [(1.0, 0.0, (6.0, 0.0)), (1.0, 0.0, (0.0, -3.0)), (1.06, 0.0, (0.0, 0.0)), (1.0, 4.0, (0.0, 0.0))]
)
def test_a_known_motion_is_found_between_neighbours_and_from_first_to_last(zoom, degrees, shift):
    texture, middle = _texture(), (100.0, 60.0)
    frames = np.stack([shown(texture, about(middle, zoom=zoom**k, degrees=degrees * k, shift=(shift[0] * k, shift[1] * k))) for k in range(3)])
    true = np.array([shift[0] / 120, shift[1] / 120, degrees, np.log(zoom)])
    near = np.array([0.005, 0.005, 0.3, 0.01])
    assert (np.abs(global_motion(frames).mean(0) - true) < near).all()
    assert (np.abs(net_motion(frames[0], frames[-1]) - 2 * true) < 2 * near).all()


def test_a_plain_picture_moves_nowhere():
    plain = np.full((4, 60, 80, 3), 90, np.uint8)
    assert np.array_equal(global_motion(plain), np.zeros((3, 4)))
    assert np.array_equal(net_motion(plain[0], plain[1]), np.zeros(4))


def test_a_clips_row_repeats_and_has_no_gaps(drawn):
    frames, subject = drawn
    row = clip_statistics(frames, frames, subject)
    assert np.isfinite(row).all()
    assert np.array_equal(row, clip_statistics(frames.copy(), frames.copy(), subject))
