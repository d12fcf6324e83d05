"""Cuts are found where they are, and nowhere else."""

import csv
import re

import cv2
import numpy as np
import pytest
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from vapdata.errors import CallError
from vapdata.filters.cuts import Cuts
from vapdata.scan import SCAN_FIT
from vapdata.video import frames


def _scene(seed, count, step=1):
    """A view that moves over a soft texture of its own colour."""
    random = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(random.standard_normal((90, 160 + count * step, 1)), (0, 0), 4)[..., None]
    world = np.clip(random.integers(40, 216, 3) + 150 * ground, 0, 255).astype(np.uint8)
    return [np.ascontiguousarray(world[:, step * k : step * k + 160]) for k in range(count)]


def _found(pictures, fps=25.0, **settings):
    finder = Cuts(**settings).open()
    found = []
    for index, picture in enumerate(pictures):
        found += finder.add(picture, index / fps)
    return found + finder.finish()


def test_each_cut_is_found_at_the_first_frame_of_its_shot():
    assert _found(_scene(1, 30) + _scene(2, 25) + _scene(3, 30)) == [30, 55]


def test_one_shot_has_no_cut():
    assert _found(_scene(1, 60, step=6)) == []


def test_an_answer_comes_no_later_than_the_delay_says():
    cuts = Cuts()
    finder, pictures = cuts.open(), _scene(1, 20) + _scene(2, 20)
    answers = {index: finder.add(picture, index / 25) for index, picture in enumerate(pictures)}
    assert [index for index, found in answers.items() if found] == [20 + cuts.delay]


def test_a_cut_near_the_end_is_found_when_the_video_ends():
    assert _found(_scene(1, 20) + _scene(2, 4)) == [20]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_video_shorter_than_the_delay_has_no_cut(count):
    assert _found(_scene(1, count) if count else []) == []


def test_a_flash_is_no_cut():
    pictures = _scene(1, 40)
    pictures[20] = np.full_like(pictures[20], 255)
    assert _found(pictures) == []


@pytest.mark.parametrize("times", [2, 3, 5])
def test_pictures_shown_several_times_each_are_no_row_of_cuts(times):
    drawn = _scene(1, 12, step=30)
    assert _found([picture for picture in drawn for _ in range(times)]) == []


def test_a_fade_from_black_is_no_cut():
    pictures = [(picture * min(1.0, k / 20)).astype(np.uint8) for k, picture in enumerate(_scene(4, 40))]
    assert _found(pictures) == []


def test_a_cut_between_colours_of_equal_luma_is_found():
    red, blue = np.full((90, 160, 3), (214, 39, 40), np.uint8), np.full((90, 160, 3), (31, 90, 190), np.uint8)
    assert _found([red] * 20 + [blue] * 20) == [20]


def test_a_shot_shorter_than_min_s_is_joined():
    pictures = _scene(1, 30) + _scene(2, 10) + _scene(3, 30)
    assert _found(pictures) == [30, 40]
    assert _found(pictures, min_s=0.5) == [30]


def test_a_long_take_is_split_at_a_fixed_stride_that_starts_anew_at_each_cut():
    pictures = _scene(1, 60) + _scene(2, 40)
    assert _found(pictures, max_s=1.0) == [25, 50, 60, 85]
    assert _found(pictures, max_s=1.0, detector="none") == [25, 50, 75]
    assert _found(pictures, detector="none") == []


def test_a_video_shorter_than_the_delay_is_split_too():
    assert _found(_scene(1, 4), fps=2.0, max_s=1.0, detector="none") == [2]


def test_the_content_detector_is_there_too():
    assert _found(_scene(1, 30) + _scene(2, 30), detector="content", min_change=27.0) == [30]


@pytest.mark.parametrize(
    ("name", "library"), [("adaptive", AdaptiveDetector(min_scene_len=0)), ("content", ContentDetector(min_scene_len=0))]
)
def test_the_score_is_the_librarys_own(name, library):
    ours = Cuts(detector=name).open()._detector
    for index, picture in enumerate(np.random.default_rng(0).integers(0, 256, (12, 36, 64, 3), dtype=np.uint8)):
        timecode = FrameTimecode(index, fps=1.0)
        ours.process_frame(timecode, picture)
        library.process_frame(timecode, picture)
        assert ours._frame_score == pytest.approx(library._frame_score, abs=1e-9)


@pytest.mark.parametrize("settings", [{"hold": 1}, {"side": 8}, {"max_s": 0.1}])
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(CallError, match="--set cuts"):
        Cuts(**settings)


@pytest.mark.slow
def test_cuts_of_real_clips_are_those_that_were_listed_by_eye(real_clips):
    with open(real_clips / "clips" / "clips.csv", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            finder, times, found = Cuts().open(), [], []
            for frame in frames(real_clips / "clips" / row["file"], SCAN_FIT):
                found += finder.add(frame.image, frame.time_s)
                times.append(frame.time_s)
            seconds = [times[index] for index in found + finder.finish()]
            tag = next((tag for tag in row["tags"].split(";") if tag.startswith("cuts:")), "")
            # A dissolve ("about 5.1-6.0 s") may be one cut inside its span, or none.
            listed = [float(number) for number in re.findall(r"\d+\.\d+", tag.split("+")[0])]
            inside = [at for at in seconds if "dissolve" in tag and 5.0 < at < 6.1]
            assert len(seconds) - len(inside) == len(listed), row["file"]
            # Listed to a tenth of a second, so half of that beside the two frames.
            tolerance = 2 / float(row["fps"]) + 0.05
            for want, got in zip(listed, [at for at in seconds if at not in inside], strict=True):
                assert abs(want - got) <= tolerance, (row["file"], want, got)
