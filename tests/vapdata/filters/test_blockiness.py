"""Blocks of JPEG and MPEG-4 are seen; sharpness alone is not taken for them."""

import cv2
import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import CallError, MissingInput
from vapdata.filters.blockiness import Blockiness, blockiness
from vapdata.scan import fit_for, measure
from vapdata.video import frames, write

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=1.0, frames=8, fps=8.0, width=8, height=8, codec="h264", whole=True
)


def _picture(height=256, width=256, sigma=3):
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((height, width)), (0, 0), sigma)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def _compressed(picture, quality):
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def test_a_hand_computed_case():
    luma = np.zeros((16, 16), np.uint8)
    luma[:, 8:] = 10  # one of 15 column borders, one of them a block border, no row border: 160 / (16 + 16) of steps at borders
    assert blockiness(luma) == pytest.approx((5 + 0.5) / 0.5)


def test_a_flat_picture_and_noise_have_no_blocks():
    assert blockiness(np.full((64, 64), 90, np.uint8)) == 1
    assert blockiness(np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)) == pytest.approx(1, abs=0.02)


def test_each_loss_of_quality_raises_it():
    picture = _picture()
    values = [blockiness(picture)] + [blockiness(_compressed(picture, quality)) for quality in (60, 25, 8)]
    assert values[0] == pytest.approx(1, abs=0.03)
    assert values == sorted(values)
    assert values[-1] > 1.5


def test_blocks_elsewhere_than_on_the_grid_do_not_count():
    blocky = _compressed(_picture(264, 264), 8)
    assert blockiness(blocky[4:, 4:]) < 1.05 < blockiness(blocky)


def test_it_is_measured_on_the_unscaled_middle_of_a_stream(tmp_path):
    coarse, fine = tmp_path / "coarse.mp4", tmp_path / "fine.mp4"
    shown = [np.repeat(np.roll(_picture(480, 800), 3 * step, 1)[..., None], 3, -1) for step in range(9)]
    write(fine, shown, 8, crf=10)
    write(coarse, (np.repeat(_compressed(each[..., 0], 10)[..., None], 3, -1) for each in shown), 8, crf=10)
    step = Blockiness()
    fit = fit_for([step])
    assert fit.detail
    assert not fit.pixels
    values = []
    for path in (coarse, fine):
        (score,), failures = measure(frames(path, fit), CLIP, [(step, step.open())])
        assert failures == []
        values.append(score.value)
    assert values[0] > 1.3
    assert values[1] == pytest.approx(1, abs=0.06)


def test_no_frame_is_an_error_and_a_rate_of_zero_refused():
    with pytest.raises(MissingInput, match="blockiness of d/a: needs one frame of 16 x 16"):
        Blockiness().open()(CLIP).finish()
    with pytest.raises(CallError, match=r"--set blockiness\.fps=1"):
        Blockiness(fps=0)
