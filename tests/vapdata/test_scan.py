"""One pass over a video: its clips, their scores, and what becomes of errors."""

import io
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import pytest
from PIL import Image

from vapdata.clip import Score, Video
from vapdata.errors import MissingInput, Unreadable
from vapdata.filters.brightness import Brightness
from vapdata.filters.cuts import Cuts
from vapdata.filters.extent import Extent
from vapdata.filters.motion import Motion
from vapdata.scan import SCAN_FIT, Scanner, measure, scan, source_scores
from vapdata.video import Frame, Probe, frames, probe, write

PROBE = Probe(
    codec="h264", width=64, height=48, coded_width=64, coded_height=48, rotation=0, sar=1.0, fps=10.0, frames=None,
    duration_s=None, stream_index=0, pixel_format="yuv420p",
)
VIDEO = Video(video_id="d/a.mp4", dataset="d", name="a.mp4", uri="a.mp4", split_group=".")
COLOURS = ((200, 40, 40), (40, 60, 200), (90, 220, 90))


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A filter that answers with the times it was given frames at."""

    name: ClassVar[str] = "listener"
    fps: float = 2.0

    def writes(self):
        return {"listener": "label"}

    def open(self):
        return ListenerMeter


class ListenerMeter:
    """Writes down times; refuses a frame that is all black."""

    def __init__(self, clip):
        self._times = []

    def add(self, frame, time_s):
        if not frame.any():
            raise MissingInput("a black frame")
        self._times.append(round(time_s, 3))

    def finish(self):
        return [Score(filter="listener", label=str(self._times))]


def _frames(*counts, fps=10.0, raises=None):
    """Shots of one colour each, then the error if there is one."""
    index = 0
    for place, count in enumerate(counts):
        for _ in range(count):
            yield Frame(index=index, time_s=index / fps, image=np.full((48, 64, 3), COLOURS[place], np.uint8))
            index += 1
    if raises is not None:
        raise raises


def _times(result):
    (scores,) = result.scores.values()
    return scores[0].label


def test_a_video_without_cuts_is_one_whole_clip():
    result = scan(_frames(30), PROBE, VIDEO, cuts=Cuts(), filters=[Extent(), Brightness()])
    (clip,) = result.clips
    assert clip.clip_id == "d/a.mp4"
    assert (clip.start_s, clip.end_s, clip.frames, clip.fps) == (0.0, pytest.approx(3.0), 30, pytest.approx(10.0))
    assert (clip.width, clip.height, clip.codec, clip.whole, clip.truncated) == (64, 48, "h264", True, False)
    assert [score.filter for score in result.scores[clip.clip_id]] == ["duration_s", "short_side", "brightness"]
    assert result.scores[clip.clip_id][0].value == pytest.approx(3.0)
    assert result.failure is None


def test_cuts_make_clips_that_meet_and_say_their_spans():
    result = scan(_frames(12, 10, 8), PROBE, VIDEO, cuts=Cuts(), filters=[Extent()])
    assert [clip.clip_id for clip in result.clips] == ["d/a.mp4@0-1200", "d/a.mp4@1200-2200", "d/a.mp4@2200-3000"]
    assert [clip.frames for clip in result.clips] == [12, 10, 8]
    assert not any(clip.whole or clip.truncated for clip in result.clips)


def test_without_a_cut_finder_there_is_one_clip():
    assert len(scan(_frames(12, 10), PROBE, VIDEO).clips) == 1


def test_each_clip_has_its_first_frame_as_thumbnail():
    result = scan(_frames(12, 10), PROBE, VIDEO, cuts=Cuts())
    for clip, colour in zip(result.clips, COLOURS, strict=False):
        picture = np.asarray(Image.open(io.BytesIO(result.thumbs[clip.clip_id])).convert("RGB"))
        assert np.abs(picture.reshape(-1, 3).mean(0) - colour).max() < 6


def test_an_error_part_way_leaves_the_good_part_as_a_truncated_clip():
    result = scan(_frames(25, raises=Unreadable("x")), PROBE, VIDEO, cuts=Cuts(), filters=[Extent()])
    (clip,) = result.clips
    assert clip.clip_id == "d/a.mp4@0-2500"
    assert clip.truncated
    assert not clip.whole
    assert isinstance(result.failure, Unreadable)


def test_an_error_before_one_second_leaves_only_the_failure():
    result = scan(_frames(9, raises=Unreadable("x")), PROBE, VIDEO, cuts=Cuts())
    assert result.clips == []
    assert isinstance(result.failure, Unreadable)
    assert len(scan(_frames(10, raises=Unreadable("x")), PROBE, VIDEO, cuts=Cuts()).clips) == 1


def test_an_error_leaves_the_complete_clips_before_it_as_they_are():
    result = scan(_frames(20, 15, raises=Unreadable("x")), PROBE, VIDEO, cuts=Cuts())
    assert [(clip.frames, clip.truncated) for clip in result.clips] == [(20, False), (15, True)]


def test_an_error_that_is_no_clip_error_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        scan(_frames(20, raises=ZeroDivisionError()), PROBE, VIDEO)


def test_a_video_without_frames_is_a_failure():
    result = scan(_frames(0), PROBE, VIDEO, cuts=Cuts())
    assert result.clips == []
    assert "a.mp4: no frame could be decoded" in str(result.failure)


def test_a_video_of_one_frame_is_a_clip_as_long_as_the_header_says():
    result = scan(_frames(1), PROBE, VIDEO, cuts=Cuts(), filters=[Motion(), Brightness()])
    (clip,) = result.clips
    assert (clip.frames, clip.duration_s, clip.whole) == (1, pytest.approx(0.1), True)
    assert [(name, type(error)) for _, name, error in result.clip_failures] == [("motion", MissingInput)]
    assert [score.filter for score in result.scores[clip.clip_id]] == ["brightness"]


def test_an_annotated_span_bounds_the_clip():
    video = Video(video_id="d/a.mp4", dataset="d", name="a", uri="a.mp4", split_group=".", start_s=1.0, end_s=1.95)
    shown = [frame for frame in _frames(30) if 1.0 <= frame.time_s < 1.95]
    (clip,) = scan(shown, PROBE, video).clips
    assert (clip.start_s, clip.end_s, clip.whole) == (1.0, 1.95, True)
    assert clip.fps == pytest.approx(10.0)


def test_labels_that_a_dataset_repeats_are_one_score_each():
    video = Video(video_id="d/a", dataset="d", name="a", uri="a", split_group=".", scores={"slot": ("cup", "tea", "cup"), "class": 3.0})
    assert [(score.filter, score.label, score.value) for score in source_scores(video)] == [("slot", "cup", None), ("slot", "tea", None), ("class", None, 3.0)]


def test_a_filter_sees_the_frames_a_player_shows_at_its_times():
    assert _times(scan(_frames(25), PROBE, VIDEO, filters=[Listener()])) == "[0.0, 0.5, 1.0, 1.5, 2.0]"
    assert _times(scan(_frames(25, fps=12.0), PROBE, VIDEO, filters=[Listener()])) == "[0.0, 0.5, 1.0, 1.5, 2.0]"
    assert _times(scan(_frames(20, fps=7.0), PROBE, VIDEO, filters=[Listener()])) == "[0.0, 0.429, 1.0, 1.429, 2.0, 2.429]"


def test_a_filter_sees_each_frame_of_a_slow_video_once():
    assert _times(scan(_frames(4, fps=1.0), PROBE, VIDEO, filters=[Listener()])) == "[0.0, 1.0, 2.0, 3.0]"


def test_a_short_clip_gives_its_last_frame_too():
    assert _times(scan(_frames(4), PROBE, VIDEO, filters=[Listener()])) == "[0.0, 0.3]"


def test_times_count_from_the_clips_own_first_frame():
    result = scan(_frames(13, 12), PROBE, VIDEO, cuts=Cuts(), filters=[Listener()])
    assert [scores[0].label for scores in result.scores.values()] == ["[0.0, 0.5, 1.0]", "[0.0, 0.5, 1.0]"]


def test_a_filter_that_fails_on_a_clip_costs_only_its_own_score():
    black = [Frame(index=i, time_s=i / 10, image=np.zeros((48, 64, 3), np.uint8)) for i in range(12)]
    result = scan(black, PROBE, VIDEO, filters=[Listener(), Brightness()])
    assert [score.filter for score in result.scores["d/a.mp4"]] == ["brightness"]
    assert [(clip, name, str(error)) for clip, name, error in result.clip_failures] == [("d/a.mp4", "listener", "a black frame")]


def test_no_more_frames_wait_than_the_delay_of_the_cut_finder():
    taken, alive = 0, []

    def counted():
        nonlocal taken
        for frame in _frames(60):
            taken += 1
            yield frame

    class Watch(Listener):
        def open(self):
            class Meter(ListenerMeter):
                def add(self, frame, time_s):
                    alive.append(taken - round(time_s * 10))
                    super().add(frame, time_s)

            return Meter

    scan(counted(), PROBE, VIDEO, cuts=Cuts(), filters=[Watch(fps=10.0)])
    assert max(alive) <= Cuts().delay + 2


def test_one_scanner_serves_many_videos():
    scanner = Scanner(cuts=Cuts(), filters=[Brightness()])
    first, again = (scanner.scan(_frames(12, 10), PROBE, VIDEO) for _ in range(2))
    assert first == again


def test_measuring_a_clip_alone_gives_the_number_of_the_scan(tmp_path):
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((48, 200, 3)), (0, 0), 4)
    world = np.clip(80 + 150 * noise, 0, 255).astype(np.uint8)
    shots = [world[:, 2 * k : 2 * k + 64] for k in range(23)] + [255 - world[:, 3 * k : 3 * k + 64] for k in range(31)]
    path = tmp_path / "two.mp4"
    write(path, shots, 12.5)
    filters = [Motion(), Brightness(), Extent()]
    result = scan(frames(path, SCAN_FIT), probe(path), VIDEO, cuts=Cuts(), filters=filters)
    assert len(result.clips) == 2
    for clip in result.clips:
        own = frames(path, SCAN_FIT, start_s=clip.start_s, end_s=clip.end_s)
        scores, failures = measure(own, clip, [(step, step.open()) for step in filters])
        assert scores == result.scores[clip.clip_id]
        assert failures == []


def test_a_datasets_numbers_and_labels_become_scores():
    video = Video(
        video_id="d/a", dataset="d", name="a", uri="a", split_group="a",
        scores={"openvid_motion": 3.5, "openvid_camera_motion": ("static", "zoom_in"), "kind": "x"},
    )
    assert source_scores(video) == [
        Score(filter="openvid_motion", value=3.5),
        Score(filter="openvid_camera_motion", label="static"),
        Score(filter="openvid_camera_motion", label="zoom_in"),
        Score(filter="kind", label="x"),
    ]


@pytest.mark.parametrize(
    ("name", "clips", "truncated", "failed"),
    [
        ("one_frame.mp4", 1, False, False),
        ("truncated.mp4", 1, True, True),
        ("corrupted_middle.mp4", 1, True, True),
        ("truncated.gif", 1, False, False),
        ("garbage_tail.mp4", 1, False, False),
        ("huge_dimensions.mp4", 1, False, False),
        ("upstream_corrupted.mp4", 1, True, True),
    ],
)
def test_broken_files_become_what_the_table_says(real_clips, name, clips, truncated, failed):
    path = real_clips / "broken" / name
    result = scan(frames(path, SCAN_FIT), probe(path), VIDEO, cuts=Cuts(), filters=[Motion(), Extent()])
    assert len(result.clips) == clips
    assert all(clip.truncated == truncated for clip in result.clips)
    assert (result.failure is not None) == failed
