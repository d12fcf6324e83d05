"""Files and folders of frames, found by name."""

import re

import pytest

from vapdata.errors import CallError
from vapdata.sources.footage import find
from vapdata.video import FrameFolder

NAMES = re.compile(r"\d+")


@pytest.fixture
def root(tmp_path):
    """7 as a file and as frames, 8 as frames, 9 as a file; a folder of flow and a table beside them."""
    for name in ("video/7.webm", "video/9.MP4", "video/other.mp4", "raw/7/img_00001.jpg", "raw/8/img_00003.jpg", "raw/8/img_00010.jpg",
                 "raw/10/u/img_1.jpg", "text/EPIC_train.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"123")
    return tmp_path


def test_each_id_has_its_file_and_its_frames(root):
    found = find(str(root), NAMES, re.compile(r"EPIC_\w+\.csv"))
    assert {name: each.uri for name, each in found.videos.items()} == {"7": "video/7.webm", "9": "video/9.MP4"}
    assert {name: each.uri for name, each in found.frames.items()} == {"7": "raw/7", "8": "raw/8"}
    assert found.frames["8"].frames == FrameFolder(first=3, last=10, count=2, bytes=6)
    assert found.tables == ["text/EPIC_train.csv"]
    assert found.present() == {"video/7.webm": 3, "video/9.MP4": 3, "raw/7": 3, "raw/8": 6}


def test_the_preferred_kind_comes_first_and_the_other_fills_in(root):
    found = find(str(root), NAMES)
    assert [found.of("7", prefer).uri for prefer in ("videos", "frames")] == ["video/7.webm", "raw/7"]
    assert [found.of("8", "videos").uri, found.of("9", "frames").uri, found.of("11", "videos")] == ["raw/8", "video/9.MP4", None]


def test_a_root_that_is_not_there_is_a_wrong_call(tmp_path):
    with pytest.raises(CallError, match="is not there"):
        find(str(tmp_path / "nothing"), NAMES)
