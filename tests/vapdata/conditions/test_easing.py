"""Curves of time begin, meet and end where they say."""

import pytest

from vapdata.conditions.easing import ease, hop, overshoot, span, swing


@pytest.mark.parametrize(("time", "value"), [(0.0, 0), (0.2, 0), (0.4, 0.5), (0.6, 1), (1.0, 1)])
def test_span_and_ease_go_from_0_to_1_between_their_times(time, value):
    assert span(time, 0.2, 0.6) == pytest.approx(value)
    assert ease(time, 0.2, 0.6) == pytest.approx(value)


def test_ease_sets_off_gently():
    assert ease(0.05) < 0.5 * span(0.05, 0, 1)


def test_overshoot_goes_too_far_and_comes_back():
    later = [overshoot(time / 100, 0.2, 0.4) for time in range(40, 101)]
    assert later[0] == pytest.approx(1)
    assert 1.02 < max(later) < 1.1
    assert later[-1] == pytest.approx(1, abs=0.001)


def test_swing_begins_at_0_and_hop_touches_the_ground_between():
    assert swing(0.0, 3) == 0
    assert swing(0.25, 1) == pytest.approx(1)
    assert [hop(time, 2) for time in (0.0, 0.25, 0.5, 0.75)] == pytest.approx([0, 1, 0, 1])
