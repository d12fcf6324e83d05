"""Walking a folder with every awkward name and thing in it."""

import os

import pytest

from vapdata.errors import CallError
from vapdata.sources.tree import Entry, is_video_name, walk


def test_files_come_in_order_with_their_sizes_and_hidden_ones_do_not(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.mp4").write_bytes(b"22")
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "._a.mp4").write_bytes(b"junk")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.mp4").write_bytes(b"junk")
    assert list(walk(tmp_path)) == [
        Entry(path="a.mp4", kind="file", bytes=1),
        Entry(path="b", kind="folder"),
        Entry(path="b/two.mp4", kind="file", bytes=2),
    ]


def test_links_stay_inside_the_root(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "x.mp4").write_bytes(b"x")
    (root / "real.mp4").write_bytes(b"123")
    (root / "in.mp4").symlink_to(root / "real.mp4")
    (root / "out.mp4").symlink_to(outside / "x.mp4")
    (root / "gone.mp4").symlink_to(root / "nothing")
    (root / "loop").symlink_to(root)
    assert {entry.path: entry.kind for entry in walk(root)} == {
        "real.mp4": "file", "in.mp4": "file", "out.mp4": "link out of the root", "gone.mp4": "broken link",
    }


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert [entry.kind for entry in walk(tmp_path)] == ["special"]


def test_a_root_that_is_no_folder_is_a_wrong_call(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CallError, match=r"is not there; type the folder .* --root PATH"):
        list(walk(tmp_path / "nothing"))
    with pytest.raises(CallError, match="is not a folder"):
        list(walk(tmp_path / "file"))


@pytest.mark.parametrize("name", ["A.MP4", "a.webm", "x/y.Gif", "me.3gp", "m.AVI", "q.mov", "k.mkv"])
def test_a_suffix_in_any_case_says_video(name):
    assert is_video_name(name)


@pytest.mark.parametrize("name", ["a.txt", "mp4", "a.mp4.part", "clips.csv", ""])
def test_other_names_do_not(name):
    assert not is_video_name(name)


def test_a_folder_that_is_not_entered_is_given_without_what_it_holds(tmp_path):
    (tmp_path / "images0").mkdir()
    (tmp_path / "images0" / "im_0.jpg").write_bytes(b"1")
    (tmp_path / "lang.txt").write_bytes(b"22")
    assert list(walk(tmp_path, enter=lambda path: path != "images0")) == [
        Entry(path="images0", kind="folder"),
        Entry(path="lang.txt", kind="file", bytes=2),
    ]
