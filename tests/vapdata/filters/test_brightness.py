"""Mean luma."""

import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import MissingInput
from vapdata.filters.brightness import Brightness

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=1.0, frames=8, fps=8.0, width=8,
    height=8, codec="h264", whole=True,
)


def _measured(*frames):
    meter = Brightness().open()(CLIP)
    for place, frame in enumerate(frames):
        meter.add(frame, float(place))
    (score,) = meter.finish()
    assert score.filter == "brightness"
    return score.value


@pytest.mark.parametrize("level", [0, 17, 255])
def test_a_grey_picture_has_its_own_level(level):
    assert _measured(np.full((9, 7, 3), level, np.uint8)) == pytest.approx(level)


def test_it_equals_the_weighted_sum_in_float64():
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    reference = (frames.astype(np.float64) @ [0.299, 0.587, 0.114]).mean()
    assert _measured(*frames) == pytest.approx(reference, abs=1e-9)


def test_a_clip_without_frames_is_an_error_and_no_number():
    with pytest.raises(MissingInput, match="brightness of d/a: got 0 frames"):
        Brightness().open()(CLIP).finish()
