"""Styles move plain picture statistics the way they say they do, on filmed clips, and leave the clip's motion."""

import numpy as np
import pytest

from vapdata.conditions.procedural import PROGRAMS
from vapdata.conditions.statistics import end_statistics
from vapdata.conditions.styles import ARRIVES, STYLES


@pytest.mark.parametrize("name", [program.name for program in STYLES])
@pytest.mark.slow
def test_a_style_moves_its_documented_statistics_on_filmed_clips(name, filmed):
    program = PROGRAMS[name]
    for seed, (frames, subject) in enumerate(filmed(4)):
        change = end_statistics(frames, program.render(frames, subject, program.draw(seed), 17))
        wrong = {key: change[key] for key, way in program.moves.items() if change[key] * way <= 0}
        assert wrong == {}


@pytest.mark.parametrize("name", [program.name for program in STYLES])
def test_a_style_fades_in_and_then_stays(name, drawn):
    frames, subject = drawn
    shown = PROGRAMS[name].render(frames, subject, PROGRAMS[name].draw(4), 25).astype(float)
    away = np.abs(shown - shown[0]).mean((1, 2, 3))
    complete = int(np.ceil(ARRIVES[1] * 24))
    assert away[0] == 0
    assert away[1] < 0.35 * away[complete]
    assert np.abs(away[complete:] - away[-1]).max() < 0.25 * away[-1]


def test_textures_stay_put_over_a_still_clip(drawn):
    frames, subject = drawn
    still = np.repeat(frames[:1], 9, 0)
    for name in ("pencil", "charcoal", "engraving", "oil_painting", "watercolour", "mosaic", "low_poly", "stained_glass", "knitted", "blueprint"):
        shown = PROGRAMS[name].render(still, subject, PROGRAMS[name].draw(0), 9)
        assert np.array_equal(shown[-1], shown[-2]), name


def test_other_seeds_give_other_textures(drawn):
    first, second = (PROGRAMS["stained_glass"].render(*drawn, PROGRAMS["stained_glass"].draw(seed), 5)[-1] for seed in (0, 1))
    assert np.abs(first.astype(int) - second).mean() > 5
