"""What the codec says of motion, or that it says nothing."""

import cv2
import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import CallError, MissingInput
from vapdata.filters.brightness import Brightness
from vapdata.filters.codec_motion import CodecMotion
from vapdata.scan import SCAN_FIT, fit_for, measure
from vapdata.video import Frame, frames, write

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=2.0, frames=40, fps=20.0, width=320, height=180, codec="h264", whole=True
)


def _frame(lengths, index=0):
    return Frame(index=index, time_s=0.05 * index, image=np.empty((0, 0, 3), np.uint8), vectors=None if lengths is None else np.array(lengths, float))


def _measured(shown, clip=CLIP, **settings):
    step = CodecMotion(**settings)
    scores, failures = measure(shown, clip, [(step, step.open())])
    assert failures == []
    return {score.filter: score.value for score in scores}


def _film(path, shift, codec="libx264"):
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((180, 700, 3)), (0, 0), 2)
    world = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    write(path, (world[:, 360 - shift * step : 680 - shift * step] for step in range(40)), 20, codec=codec)
    return path


def test_it_is_the_mean_over_patches_and_time_in_parts_of_width_and_height():
    shown = [_frame(None), _frame([[1.0, 3.0]], 1), _frame([[2.0, 6.0]], 2), _frame(None, 3)]
    assert _measured(shown, fps=20) == {"codec_motion": pytest.approx(3 / 500), "codec_motion_min": pytest.approx(1.5 / 500)}


def test_where_every_sample_falls_on_a_key_frame_the_frames_after_them_count():
    """Two a second of 20 frames a second are frames 0, 10, 20 and 30: the very ones that are coded whole."""
    shown = [_frame(None if index % 10 == 0 else [[5.0, 5.0]] if index % 10 == 1 else [[99.0, 99.0]], index) for index in range(40)]
    assert _measured(shown) == {"codec_motion": pytest.approx(5 / 500), "codec_motion_min": pytest.approx(5 / 500)}


def test_a_faster_pan_scores_higher_and_a_still_picture_nearly_nothing(tmp_path):
    fit = fit_for([CodecMotion()])
    still, slow, fast = (_measured(frames(_film(tmp_path / f"{shift}.mp4", shift), fit))["codec_motion"] for shift in (0, 1, 6))
    assert still < 0.00002
    assert 0.00098 < slow < fast / 3


def test_a_codec_that_exports_none_is_an_error_that_names_another_filter(tmp_path):
    path = _film(tmp_path / "a.webm", 2, codec="libvpx")
    step = CodecMotion()
    scores, failures = measure(frames(path, fit_for([step])), CLIP, [(step, step.open())])
    assert scores == []
    ((name, error),) = failures
    assert name == "codec_motion"
    assert isinstance(error, MissingInput)
    assert "gave no motion vectors. Nothing to do; the filter motion measures every codec" in str(error)


def test_alone_it_needs_no_pixels_and_beside_others_they_come():
    assert fit_for([CodecMotion()]).pixels is False
    assert fit_for([CodecMotion(), Brightness()]).pixels is True
    assert fit_for([CodecMotion()], pixels=True).pixels is True
    assert fit_for([Brightness()]) == SCAN_FIT


def test_a_rate_of_zero_is_refused():
    with pytest.raises(CallError, match=r"--set codec_motion\.fps=2"):
        CodecMotion(fps=0)
