"""Equal frames have equal hashes, and nothing else has."""

import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import MissingInput
from vapdata.filters.content import Content

CLIP = Clip(clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0, end_s=1, frames=3, fps=3, width=8, height=6, codec="h264", whole=True)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)


def _hash(frames: np.ndarray, times: tuple[float, ...] = (0.0, 0.3, 0.7)) -> str:
    meter = Content().open()(CLIP)
    for frame, time_s in zip(frames, times, strict=True):
        meter.add(frame, time_s)
    (score,) = meter.finish()
    return score.label


def test_equal_frames_have_equal_hashes_whenever_they_are_shown() -> None:
    assert _hash(FRAMES) == _hash(FRAMES, (0.0, 0.5, 0.9))
    assert len(_hash(FRAMES)) == 32


@pytest.mark.parametrize("other", [FRAMES[::-1], FRAMES[:, ::-1], FRAMES.reshape(3, 8, 6, 3), FRAMES ^ np.uint8(1)])
def test_any_other_frame_order_or_shape_has_another(other: np.ndarray) -> None:
    assert _hash(other) != _hash(FRAMES)


def test_a_frame_that_is_given_twice_counts_once() -> None:
    assert _hash(FRAMES[[0, 0, 1, 2]], (0.0, 0.0, 0.3, 0.7)) == _hash(FRAMES)


def test_a_clip_without_frames_has_none() -> None:
    with pytest.raises(MissingInput, match="got 0 frames"):
        Content().open()(CLIP).finish()
