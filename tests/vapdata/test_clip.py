"""Ids, quoting, splits and sampling grids."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vapdata.clip import Caption, Clip, Look, Sample, Sampling, clip_id, path_under, quote, split_of, video_id
from vapdata.errors import CallError


def _clip(**changes):
    facts = {
        "clip_id": "d/a.mp4", "video_id": "d/a.mp4", "source": "d", "split": "train", "start_s": 1.0, "end_s": 3.5, "frames": 60,
        "fps": 24.0, "width": 640, "height": 360, "codec": "h264", "whole": True,
    }
    return Clip(**{**facts, **changes})


def test_plain_names_stay_as_they_are():
    for name in ("a b/c-d_e.mp4", "-dash.mp4", "日本/🙂 \"q'.webm", "a+b=c&d.gif"):
        assert quote(name) == name


def test_what_is_not_plain_text_is_percent_encoded():
    assert quote("50%@2.mp4") == "50%25%402.mp4"
    assert quote("new\nline,\t.mp4") == "new%0Aline,%09.mp4"
    assert quote(b"caf\xe9.mp4") == "caf%E9.mp4"
    assert quote("\x7f\x85.mp4") == "%7F%C2%85.mp4"


@given(st.binary(max_size=40).filter(lambda name: b"\0" not in name))
def test_every_file_name_comes_back_from_its_quoted_form(name):
    quoted = quote(name)
    assert os.fsencode(path_under("", quoted)) == name
    assert not any(ord(character) < 0x20 or character in "@\udcff" for character in quoted)


def test_a_path_below_a_root_is_bytes_on_disk(tmp_path):
    raw = os.path.join(os.fsencode(tmp_path), b"\xff@ 1.mp4")
    with open(raw, "wb") as file:
        file.write(b"x")
    assert os.path.exists(path_under(tmp_path, quote(b"\xff@ 1.mp4")))


def test_ids_are_readable_and_a_part_says_its_span_in_milliseconds():
    video = video_id("openvid", "-x_1_0to9.mp4")
    assert video == "openvid/-x_1_0to9.mp4"
    assert clip_id(video, 0.0, 2.0, whole=True) == video
    assert clip_id(video, 1.2344, 2.0, whole=False) == f"{video}@1234-2000"


def test_splits_are_the_same_on_every_machine_and_shared_out_98_1_1():
    code = "from vapdata.clip import split_of; print([split_of(str(n)) for n in range(50)])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str([split_of(str(n)) for n in range(50)])
    splits = [split_of(f"group {n}") for n in range(20_000)]
    assert splits.count("train") / 20_000 == pytest.approx(0.98, abs=0.005)
    assert splits.count("test") / 20_000 == pytest.approx(0.01, abs=0.004)
    assert [split_of(f"group {n}", seed=1) for n in range(2000)] != splits[:2000]


def test_a_caption_is_known_by_the_hash_of_its_text():
    assert Caption(text="é", captioner="source", role="source").text_sha256 == hashlib.sha256("é".encode()).hexdigest()


def test_a_clip_knows_its_length():
    assert _clip().duration_s == 2.5


@pytest.mark.parametrize(("duration_s", "fits"), [(3.0, True), (2.9999999, True), (2.99, False), (0.0, False)])
def test_a_sampling_fits_a_clip_that_shows_a_frame_at_its_last_time(duration_s, fits):
    sampling = Sampling(frames=49, height=480, width=720, fps=16)
    assert sampling.seconds == 3.0
    assert sampling.fits(duration_s) is fits
    assert sampling.label() == "49x480x720-16fps"


def test_one_frame_fits_every_clip_that_shows_something():
    assert Sampling(frames=1, height=8, width=8, fps=8).fits(0.01)
    assert not Sampling(frames=1, height=8, width=8, fps=8).fits(0.0)


def test_the_first_frame_is_the_first_sampled_one_and_missing_frames_are_an_error():
    frames = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    assert (Sample(clip_id="c", frames=frames).first == frames[0]).all()
    with pytest.raises(ValueError, match="no frames were sampled"):
        _ = Sample(clip_id="c").first


def test_a_look_shows_the_middle_of_equal_spans_at_its_rate_and_never_more_than_it_may():
    look = Look(fps=2.0, least=2, most=4)
    assert look.times(2.0) == [0.25, 0.75, 1.25, 1.75]
    assert look.times(100.0) == [12.5, 37.5, 62.5, 87.5]
    assert look.times(0.1) == [0.025, pytest.approx(0.075)]


@pytest.mark.parametrize("wrong", [{"fps": 0.0}, {"fps": float("nan")}, {"least": 0}, {"least": 3, "most": 2}, {"long_side": 0}])
def test_a_look_that_shows_nothing_is_refused(wrong):
    with pytest.raises(CallError, match=r"frames to look at: got Look\(.*\); wanted fps over 0, 1 <= least <= most"):
        Look(**wrong)
