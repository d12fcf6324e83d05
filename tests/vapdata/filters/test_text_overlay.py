"""Planted subtitles are found where they are and for how long, by the real detector."""

import sys

import cv2
import numpy as np
import pytest

from vapdata.clip import Clip
from vapdata.errors import CallError, MissingInput
from vapdata.filters.text_overlay import TextOverlay

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=3.0, frames=24, fps=8.0, width=320, height=180, codec="h264", whole=True
)


def _picture(seed=0):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((180, 320, 3)), (0, 0), 6)
    return cv2.normalize(noise, None, 20, 140, cv2.NORM_MINMAX).astype(np.uint8)


def _subtitled(text, at=(60, 165)):
    return cv2.putText(_picture(), text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2, cv2.LINE_AA)


@pytest.fixture(scope="module")
def measured():
    start = TextOverlay().open()

    def of(*frames):
        meter = start(CLIP)
        for place, frame in enumerate(frames):
            meter.add(frame, float(place))
        return {score.filter: score.value for score in meter.finish()}

    return of


def test_a_subtitle_covers_about_its_box_and_stays(measured):
    found = measured(*[_subtitled("Where have you been?")] * 2)
    (width, height), _ = cv2.getTextSize("Where have you been?", cv2.FONT_HERSHEY_SIMPLEX, 0.6, 2)
    assert found["text_overlay"] == pytest.approx(width * height / (180 * 320), rel=0.6)
    assert found["text_overlay_persistence"] == 1


def test_text_in_one_of_four_frames_is_a_quarter_of_the_time(measured):
    found = measured(_subtitled("Good evening"), _picture(), _picture(), _picture())
    assert found["text_overlay_persistence"] == 0.25


def test_a_sign_that_passes_by_persists_nowhere(measured):
    found = measured(*[_subtitled("EXIT", at=(10 + 100 * step, 60)) for step in range(3)])
    assert 0 < found["text_overlay_persistence"] < 0.5


def test_a_picture_without_text_has_none(measured):
    assert measured(_picture(3)) == {"text_overlay": 0, "text_overlay_persistence": 0}


def test_a_clip_without_frames_is_an_error_and_no_number(measured):
    with pytest.raises(MissingInput, match="text_overlay of d/a: got 0 frames"):
        measured()


def test_without_the_extra_the_answer_is_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(CallError, match=r"type: pip install 'vapdata\[text\]'"):
        TextOverlay().open()


@pytest.mark.parametrize(("settings", "words"), [({"fps": 0}, r"--set text_overlay\.fps=1"), ({"long_side": 8}, r"--set text_overlay\.long_side=320")])
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(CallError, match=words):
        TextOverlay(**settings)
