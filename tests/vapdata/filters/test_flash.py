"""Planted flashes are counted."""

import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import CallError, MissingInput
from vapdata.filters.flash import Flash

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=2.0, frames=60, fps=30.0, width=8, height=8, codec="h264", whole=True
)


def _counted(levels):
    meter = Flash().open()(CLIP)
    for place, level in enumerate(levels):
        meter.add(np.full((18, 32, 3), level, np.uint8), place / 30)
    (score,) = meter.finish()
    assert score.filter == "flash"
    return score.value


@pytest.mark.parametrize("length", [1, 2, 6])
def test_a_burst_of_light_is_one_flash(length):
    assert _counted([100] * 30 + [180] * length + [100] * 30) == 1


def test_a_burst_of_dark_is_one_too():
    assert _counted([150] * 30 + [20] * 2 + [150] * 30) == 1


def test_a_strobe_is_counted_burst_by_burst():
    assert _counted([60] * 10 + ([220] * 2 + [60] * 4) * 5 + [60] * 10) == 5


def test_a_lamp_that_stays_on_is_none():
    assert _counted([60] * 30 + [200] * 30) == 0


def test_a_slow_swell_is_none():
    assert _counted([*range(60, 160, 2), *range(160, 60, -2)]) == 0


def test_less_than_a_tenth_of_the_range_is_none():
    assert _counted([100] * 10 + [124] + [100] * 10) == 0
    assert _counted([100] * 10 + [127] + [100] * 10) == 1


def test_two_frames_are_an_error_and_a_low_rate_refused():
    with pytest.raises(MissingInput, match="flash of d/a: needs three frames"):
        _counted([0, 255])
    with pytest.raises(CallError, match=r"--set flash\.fps=30"):
        Flash(fps=2)
