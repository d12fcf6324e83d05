"""Planted fades are measured in seconds."""

import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import CallError, MissingInput
from vapdata.filters.fade import Fade, fade_in

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=3.0, frames=24, fps=8.0, width=8, height=8, codec="h264", whole=True
)


def _faded(parts, colour=0):
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (90, 160, 3)).astype(np.float64)
    return [(colour + part * (picture - colour)).astype(np.uint8) for part in parts]


def _measured(frames):
    meter = Fade().open()(CLIP)
    for place, frame in enumerate(frames):
        meter.add(frame, place / 8)
    start, end = meter.finish()
    assert (start.filter, end.filter) == ("fade_in_s", "fade_out_s")
    return start.value, end.value


@pytest.mark.parametrize("colour", [0, 255])
def test_a_fade_in_of_a_second_and_none_out(colour):
    start, end = _measured(_faded([*np.linspace(0, 1, 9), *[1.0] * 15], colour))
    assert start == pytest.approx(1.0, abs=0.26)
    assert end == 0


def test_a_fade_out_is_the_mirror():
    start, end = _measured(_faded([*[1.0] * 15, *np.linspace(1, 0, 9)]))
    assert start == 0
    assert end == pytest.approx(1.0, abs=0.26)


def test_the_black_before_a_fade_is_not_part_of_it():
    assert _measured(_faded([*[0.0] * 6, *np.linspace(0, 1, 9), *[1.0] * 9]))[0] == pytest.approx(1.0, abs=0.26)


def test_a_cut_from_black_is_no_fade():
    assert _measured(_faded([*[0.0] * 4, *[1.0] * 20])) == (0, 0)


def test_a_picture_that_only_gets_dimmer_does_not_fade_out():
    assert _measured(_faded(np.linspace(1, 0.4, 24))) == (0, 0)


def test_a_black_clip_has_nothing_that_could_fade():
    assert _measured(_faded([0.0] * 10)) == (0, 0)


def test_the_length_is_from_the_last_empty_to_the_first_full_frame():
    assert fade_in([0, 1, 2, 3, 4, 5], [0, 0, 20, 40, 40, 40]) == 2


def test_one_frame_is_an_error_and_a_low_rate_refused():
    with pytest.raises(MissingInput, match="fade of d/a: needs two frames"):
        _measured(_faded([1.0]))
    with pytest.raises(CallError, match=r"--set fade\.fps=8"):
        Fade(fps=1)
