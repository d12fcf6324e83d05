"""Behind a subject lies what its surroundings continue; nothing else changes."""

import cv2
import numpy as np

from vapdata.conditions.inpaint import MARGIN, behind


def test_a_plain_ground_continues(drawn):
    image = np.full((96, 160, 3), (80, 120, 160), np.uint8)
    _, subject = drawn
    image[subject > 0.5] = (250, 0, 0)
    assert np.abs(behind(image, subject).astype(int) - (80, 120, 160)).max() <= 1


def test_a_slope_continues():
    slope = np.repeat(np.linspace(40, 200, 160)[None, :, None], 96, 0).repeat(3, 2).astype(np.uint8)
    image, subject = slope.copy(), np.zeros((96, 160), np.float32)
    image[30:66, 60:100], subject[30:66, 60:100] = 0, 1
    assert np.abs(behind(image, subject).astype(int) - slope).mean(-1)[subject > 0].mean() < 8


def test_nothing_beyond_the_margin_changes_and_the_subject_is_gone(drawn):
    frames, subject = drawn
    filled = behind(frames[0], subject)
    reach = 2 * (round(MARGIN * 96) + 1) + 1
    outside = cv2.dilate((subject > 0.02).astype(np.uint8), np.ones((reach, reach), np.uint8)) == 0
    assert np.array_equal(filled[outside], frames[0][outside])
    red, green, _ = filled[subject > 0.5].mean(0)
    assert green > red + 30, "the square was red, the ground is green"


def test_a_subject_that_is_the_whole_picture_is_answered():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert behind(image, np.ones((40, 50), np.float32)).shape == image.shape


def test_the_same_picture_gives_the_same_ground(drawn):
    frames, subject = drawn
    assert np.array_equal(behind(frames[0], subject), behind(frames[0].copy(), subject.copy()))
