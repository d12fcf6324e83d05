"""Planted bars are measured, and the crop removes them."""

import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import MissingInput
from vapdata.filters.letterbox import Letterbox, bars, inside

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=1.0, frames=8, fps=8.0, width=1280, height=720, codec="h264", whole=True
)


def _frames(top=0, bottom=0, left=0, right=0, count=3, low=60):
    random = np.random.default_rng(0)
    for _ in range(count):
        frame = random.integers(low, 256, (180, 320, 3), dtype=np.uint8)
        frame[:top] = frame[180 - bottom :] = 2
        frame[:, :left] = frame[:, 320 - right :] = 2
        yield frame


def _measured(frames):
    meter = Letterbox().open()(CLIP)
    for place, frame in enumerate(frames):
        meter.add(frame, float(place))
    share, crop = meter.finish()
    assert (share.filter, crop.filter) == ("letterbox", "letterbox_crop")
    return share.value, crop.label


def test_no_bar_is_nothing_and_the_whole_picture():
    assert _measured(_frames()) == (0, "1280:720:0:0")


def test_bars_above_and_below_are_their_share_and_the_crop_leaves_them_out():
    share, crop = _measured(_frames(top=22, bottom=22))
    assert share == pytest.approx(44 / 180)
    assert crop == "1280:536:0:92"  # 88 pixels of bar, and a line of four within


def test_bars_left_and_right():
    share, crop = _measured(_frames(left=40, right=40))
    assert share == pytest.approx(80 / 320)
    assert crop == "952:720:164:0"


def test_bars_on_four_sides_of_different_width():
    share, crop = _measured(_frames(top=10, bottom=20, left=16, right=0))
    assert share == pytest.approx(1 - 150 / 180 * 304 / 320)
    assert crop == "1212:592:68:44"


def test_a_bar_that_is_bright_at_any_time_is_none():
    frames = list(_frames(top=22, bottom=22))
    frames[1][:] = 200
    assert _measured(frames)[0] == 0


def test_a_dark_border_of_a_dark_picture_is_no_bar():
    ramp = np.minimum(np.arange(180), 179 - np.arange(180)) * 0.3
    assert _measured([np.broadcast_to(ramp[:, None, None], (180, 320, 3)).astype(np.uint8)] * 2)[0] == 0


def test_a_line_beside_the_bar_is_left_out_of_the_crop():
    assert inside(0, 0, 180, 720) == (0, 720)
    assert inside(22, 22, 180, 720) == (92, 536)
    assert inside(5, 0, 90, 90) == (6, 84)


def test_a_spot_of_light_is_no_bar():
    means, spots = np.full(100, 3.0, np.float32), np.full(100, 5.0, np.float32)
    means[20:80], spots[20:80] = 120, 255
    assert bars(means, spots) == (20, 20)
    spots[10] = 200
    assert bars(means, spots)[1] == 20
    assert bars(means, spots)[0] == 0


def test_a_black_clip_and_one_without_frames_are_errors():
    with pytest.raises(MissingInput, match="letterbox of d/a: the clip is black throughout"):
        _measured([np.zeros((180, 320, 3), np.uint8)])
    with pytest.raises(MissingInput, match="letterbox of d/a: got 0 frames"):
        _measured([])
