"""Real files with known content: what was planted is what a scan finds."""

import json
import os

import pytest

from vapdata.errors import CallError
from vapdata.filters.cuts import Cuts
from vapdata.filters.motion import Motion
from vapdata.scan import SCAN_FIT, Scanner
from vapdata.sources.synthetic import Synthetic
from vapdata.video import frames, probe


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The default set, rendered once."""
    made = Synthetic(root=str(tmp_path_factory.mktemp("synthetic") / "set"))
    list(made.list())
    return made


def _truth(source):
    with open(os.path.join(source.root, "truth.jsonl"), encoding="utf-8") as lines:
        return {row["file"]: row for row in map(json.loads, lines)}


def test_it_renders_the_files_it_lists_and_says_so(source):
    videos = list(source.list())
    assert len(videos) == 24
    assert source.present() == {video.uri: os.path.getsize(os.path.join(source.root, video.uri)) for video in videos}
    assert all(set(video.scores) == set(source.scores()) for video in videos)
    assert videos[0].caption == _truth(source)["shapes-00000.mp4"]["caption"]
    facts = probe(os.path.join(source.root, videos[0].uri))
    assert (facts.width, facts.height, facts.fps, facts.codec) == (160, 96, 8.0, "h264")


def test_what_is_there_is_kept(source):
    before = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(source.root)}
    list(source.list())
    assert {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(source.root)} == before


def test_a_lost_or_cut_file_is_rendered_again(source):
    path = os.path.join(source.root, "shapes-00001.mp4")
    with open(path, "rb") as file:
        whole = file.read()
    with open(path, "wb") as file:
        file.write(whole[:100])
    list(source.list())
    assert probe(path).width == 160


def test_the_planted_cuts_are_found(source):
    truth, scanner = _truth(source), Scanner(cuts=Cuts())
    for video in source.list():
        path = os.path.join(source.root, video.uri)
        clips = scanner.scan(frames(path, SCAN_FIT), probe(path), video).clips
        assert [clip.start_s for clip in clips[1:]] == pytest.approx(truth[video.name]["cuts"]), video.name
        assert len(clips) == 1 + video.scores["synthetic_cuts"]


def test_the_planted_motion_is_measured(source):
    scanner = Scanner(filters=[Motion(fps=8)])
    for video in source.list():
        if video.scores["synthetic_cuts"]:
            continue
        path = os.path.join(source.root, video.uri)
        (scores,) = scanner.scan(frames(path, SCAN_FIT), probe(path), video).scores.values()
        # A plain-coloured object has no flow of its own inside: up to a quarter of a pixel of the mean.
        assert scores[0].value == pytest.approx(video.scores["synthetic_motion"], abs=0.36), video.name


def test_the_planted_box_holds_the_objects_colour(source):
    for row in list(_truth(source).values())[:5]:
        shot = row["shots"][0]
        frame = next(frames(os.path.join(source.root, row["file"])))
        x0, y0, x1, y1 = shot["boxes"][0]
        middle = frame.image[(y0 + y1) // 2, (x0 + x1) // 2].astype(int)
        corner = frame.image[2, 2].astype(int)
        assert abs(middle - corner).max() > 40


def test_other_settings_render_other_files(tmp_path):
    (small,) = Synthetic(root=str(tmp_path), count=1).list()
    (large,) = Synthetic(root=str(tmp_path), count=1, height=128, width=192).list()
    assert probe(tmp_path / large.uri).width == 192
    assert small.video_id == large.video_id


@pytest.mark.parametrize("settings", [{"count": 0}, {"height": 97}, {"seconds": 0.1}, {"fps": 0.0}])
def test_settings_that_cannot_be_drawn_are_refused(settings):
    with pytest.raises(CallError, match="--set synthetic"):
        Synthetic(**settings)


def test_a_root_that_cannot_be_made_is_a_wrong_call(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CallError, match="cannot be made"):
        list(Synthetic(root=str(tmp_path / "file" / "set")).list())


def test_the_same_settings_give_the_same_bytes(source, tmp_path):
    again = Synthetic(root=str(tmp_path))
    for video in again.list():
        with open(os.path.join(source.root, video.uri), "rb") as first, open(tmp_path / video.uri, "rb") as second:
            assert first.read() == second.read(), video.uri
