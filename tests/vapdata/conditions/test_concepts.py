"""Concepts do to the subject, or to the scene, what their sentence says; the rest of the picture stays."""

import cv2
import numpy as np
import pytest

from vapdata.conditions.inpaint import behind
from vapdata.conditions.procedural import PROGRAMS
from vapdata.conditions.statistics import picture_statistics


def _last(name, source, seed=0):
    frames, subject = source
    return PROGRAMS[name].render(frames, subject, PROGRAMS[name].draw(seed), 17)[-1].astype(float)


def _mean(image, subject):
    return image[subject > 0.99].mean(0)


@pytest.mark.parametrize("name", ["disappear", "pixel_dissolve", "burn_away", "vortex", "explode", "shatter", "turn_to_smoke"])
def test_what_vanishes_leaves_the_ground_behind_it(name, drawn):
    frames, subject = drawn
    assert np.abs(_last(name, drawn) - behind(frames[0], subject)).mean() < 1.5


@pytest.mark.parametrize("name", ["turn_to_gold", "petrify", "freeze", "turn_to_shadow"])
def test_what_turns_into_something_else_changes_the_subject_alone(name, drawn):
    frames, subject = drawn
    outside = cv2.dilate(subject, np.ones((13, 13), np.uint8)) < 0.02
    last = _last(name, drawn)
    assert np.abs(last - frames[0])[outside].mean() < 1
    assert np.abs(_mean(last, subject) - _mean(frames[0], subject)).max() > 25


def test_gold_is_yellow_stone_grey_ice_blue_and_shadow_black(drawn):
    _, subject = drawn
    red, green, blue = _mean(_last("turn_to_gold", drawn), subject)
    assert red > green > blue + 30
    assert np.ptp(_mean(_last("petrify", drawn), subject)) < 12
    red, green, blue = _mean(_last("freeze", drawn), subject)
    assert blue > green > red
    assert _mean(_last("turn_to_shadow", drawn), subject).max() < 12


def test_what_melts_or_crumbles_ends_low(drawn):
    frames, subject = drawn
    rows = np.flatnonzero((subject > 0.5).any(1))
    middle = rows.mean()
    for name in ("melt", "crumble"):
        changed = np.abs(_last(name, drawn) - behind(frames[0], subject)).mean(-1) > 12
        assert np.nonzero(changed)[0].mean() > middle + 0.2 * len(rows), name


def test_copies_stand_on_both_sides(drawn):
    frames, subject = drawn
    changed = np.abs(_last("duplicate", drawn) - frames[0]).mean(-1) > 12
    columns = np.flatnonzero((subject > 0.5).any(0))
    assert changed[:, : columns[0]].mean() > 0.1
    assert changed[:, columns[-1] + 1 :].mean() > 0.1
    assert changed[:, columns[0] + 2 : columns[-1] - 1].mean() < 0.02


def test_water_and_snow_come_from_below(drawn):
    frames, _ = drawn
    for name in ("flood", "snow_in"):
        shown = PROGRAMS[name].render(*drawn, PROGRAMS[name].draw(0), 17).astype(float)
        low, high = (np.abs(shown[7] - frames[0])[where].mean() for where in (np.s_[-20:], np.s_[:20]))
        assert low > 1.2 * high, name
    assert _last("snow_in", drawn)[-20:].mean() > 200


def test_night_rain_and_storm_darken_and_fog_brightens(drawn):
    frames, _ = drawn
    before = picture_statistics(frames[0])
    for name in ("nightfall", "rain"):
        assert picture_statistics(_last(name, drawn).astype(np.uint8))["brightness"] < before["brightness"] - 10, name
    after = picture_statistics(_last("fog_in", drawn).astype(np.uint8))
    assert after["brightness"] > before["brightness"] + 30
    assert after["saturation"] < 0.5 * before["saturation"]


def test_a_storm_flashes(drawn):
    shown = PROGRAMS["lightning_storm"].render(*drawn, PROGRAMS["lightning_storm"].draw(0), 49)
    light = shown.mean((1, 2, 3))
    assert (np.diff(light) > 20).sum() >= 3
    assert light.min() < 0.6 * light[0]
