"""Motions move the subject alone: the ground outside it is the source's, and the subject is where its name says."""

import cv2
import numpy as np
import pytest

from vapdata.conditions.motions import MOTIONS, coverage
from vapdata.conditions.procedural import PROGRAMS

MARGIN = 0.07
"""Part of the height around the subject, where it was and where it is, that a motion may change."""


def _psnr(first, second, where):
    error = float(((first.astype(float) - second) ** 2)[where].mean())
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def _middles(name, drawn, seed=0, count=17):
    """(x, y) of the subject's middle and its (width, height) per frame, 0 where it is gone."""
    _, subject = drawn
    rows = []
    for there in coverage(PROGRAMS[name], subject, PROGRAMS[name].draw(seed), count) > 0.5:
        y, x = np.nonzero(there)
        rows.append((x.mean(), y.mean(), np.ptp(x) + 1, np.ptp(y) + 1) if len(x) else (0, 0, 0, 0))
    return np.array(rows)


@pytest.mark.parametrize("name", [program.name for program in MOTIONS])
def test_the_ground_stays_unchanged_outside_the_subject_and_a_margin(name, filmed, drawn):
    program = PROGRAMS[name]
    for seed, (frames, subject) in enumerate([drawn, *filmed(3)]):
        parameters, reach = program.draw(seed), 2 * round(MARGIN * len(subject)) + 1
        shown, there = program.render(frames, subject, parameters, 9), coverage(program, subject, parameters, 9)
        for frame, now in zip(shown, there, strict=True):
            outside = cv2.dilate(np.maximum(now, subject).astype(np.float32), np.ones((reach, reach), np.uint8)) < 0.02
            assert outside.sum() < 50 or _psnr(frame, frames[0], outside) > 35


@pytest.mark.parametrize(
    ("name", "axis", "way"),
    [("levitate", 1, -1), ("slide_left", 0, -1), ("slide_right", 0, 1), ("drop", 1, 1), ("topple", 0, 1), ("roll_off_left", 0, -1), ("roll_off_right", 0, 1)],
)
def test_the_subject_goes_where_the_name_says(name, axis, way, drawn):
    path = _middles(name, drawn)
    path = path[path[:, 2] > 0]
    assert (path[-1, axis] - path[0, axis]) * way > 5


@pytest.mark.parametrize("name", ["slide_left", "slide_right", "drop", "launch", "roll_off_left", "roll_off_right"])
def test_what_leaves_the_picture_is_gone_at_the_end(name, drawn):
    assert _middles(name, drawn)[-1, 2] == 0


@pytest.mark.parametrize(
    ("name", "wider", "taller"), [("inflate", 1, 1), ("shrink", -1, -1), ("stretch", -1, 1), ("squash", 1, -1)]
)
def test_the_subject_takes_the_form_that_the_name_says(name, wider, taller, drawn):
    sizes = _middles(name, drawn)[:, 2:]
    assert (sizes[-1, 0] / sizes[0, 0] - 1) * wider > 0.1
    assert (sizes[-1, 1] / sizes[0, 1] - 1) * taller > 0.1


@pytest.mark.parametrize(("name", "axis", "least"), [("shake", 0, 8), ("bounce", 1, 3), ("swing", 0, 2), ("circle", 0, 3), ("heartbeat", 2, 5), ("flip", 2, 2)])
def test_what_comes_and_goes_turns_round_often_enough(name, axis, least, drawn):
    moves = np.diff(_middles(name, drawn, count=49)[:, axis])
    assert (np.diff(np.sign(moves[np.abs(moves) > 0.05])) != 0).sum() >= least


def test_a_spin_turns_clockwise_and_keeps_its_place(drawn):
    path = _middles("spin", drawn, count=33)
    assert np.abs(path[:, :2] - path[0, :2]).max() < 1.5
    assert path[:, 2].max() > 1.3 * path[0, 2], "a square on its corner is wider"
