"""Any tree of videos, its awkward names, and its captions."""

import logging
import os
import shutil

import pytest

from vapdata.clip import BadRow, Video, path_under
from vapdata.errors import CallError
from vapdata.sources.folder import Folder


def _listed(root, **settings):
    items = list(Folder(root=str(root), **settings).list())
    videos = {item.name: item for item in items if isinstance(item, Video)}
    return videos, [item for item in items if isinstance(item, BadRow)]


def _touch(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"1234")


def test_every_video_of_the_tree_is_listed_and_nothing_else(tmp_path):
    _touch(tmp_path, "a.mp4", "b/UPPER.MP4", "b/c/x.gif", "notes.txt", "b/pic.jpg", "-dash.webm")
    videos, bad = _listed(tmp_path)
    assert sorted(videos) == ["-dash.webm", "a.mp4", "b/UPPER.MP4", "b/c/x.gif"]
    assert {name: video.split_group for name, video in videos.items()} == {
        "a.mp4": "a.mp4", "-dash.webm": "-dash.webm", "b/UPPER.MP4": "b", "b/c/x.gif": "b/c",
    }
    assert bad == []
    assert Folder(root=str(tmp_path)).present() == {video.uri: 4 for video in videos.values()}


def test_awkward_names_come_back_as_the_same_file(tmp_path):
    names = [b"two words.mp4", "emoji \N{GRINNING FACE} 'q\".mp4".encode(), b"new\nline,comma.mp4", b"caf\xe9.mp4", b"50%@2.mp4"]
    _touch(tmp_path, *names)
    videos, bad = _listed(tmp_path)
    assert bad == []
    assert {os.fsencode(os.path.basename(path_under(tmp_path, video.uri))) for video in videos.values()} == set(names)
    assert all(os.path.exists(path_under(tmp_path, video.uri)) for video in videos.values())
    assert "new%0Aline,comma.mp4" in videos
    assert "caf%E9.mp4" in videos
    assert all(video.video_id == f"folder/{name}" for name, video in videos.items())


def test_what_only_looks_like_a_video_is_a_failure_with_its_own_name(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside.mp4"
    _touch(root, "a.mp4", "dir.mp4/inner.mp4")
    outside.write_bytes(b"x")
    (root / "out.mp4").symlink_to(outside)
    (root / "gone.mp4").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe.mp4")
    videos, bad = _listed(root)
    assert sorted(videos) == ["a.mp4", "dir.mp4/inner.mp4"]
    assert {(row.video_id, row.error) for row in bad} == {
        ("folder/dir.mp4", "NotAFile"),
        ("folder/out.mp4", "LinkOutOfRoot"),
        ("folder/gone.mp4", "NotAFile"),
        ("folder/pipe.mp4", "NotAFile"),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "file,caption\na.mp4,A dog.\nb/x.mp4, \n"),
        ("captions.jsonl", '{"path": "./a.mp4", "text": "A dog."}\n'),
    ],
)
def test_captions_in_the_root_are_found(tmp_path, name, text):
    _touch(tmp_path, "a.mp4", "b/x.mp4")
    (tmp_path / name).write_text(text, encoding="utf-8")
    videos, bad = _listed(tmp_path)
    assert (videos["a.mp4"].caption, videos["b/x.mp4"].caption) == ("A dog.", None)
    assert bad == []


def test_a_caption_whose_file_is_absent_is_said_and_may_come_true_later(tmp_path):
    _touch(tmp_path, "a.mp4")
    (tmp_path / "captions.csv").write_text("file,caption\na.mp4,x\nlater.mp4,y\n", encoding="utf-8")
    _, (row,) = _listed(tmp_path)
    assert (row.where, row.video_id, row.error, row.permanent) == ("captions.csv:3", "folder/later.mp4", "NoFile", False)


def test_a_name_that_is_not_utf8_can_be_captioned_percent_encoded(tmp_path):
    _touch(tmp_path, b"caf\xe9.mp4")
    (tmp_path / "captions.csv").write_text("file,caption\ncaf%E9.mp4,coffee\n", encoding="utf-8")
    videos, bad = _listed(tmp_path)
    assert videos["caf%E9.mp4"].caption == "coffee"
    assert bad == []


def test_other_tables_are_ignored_with_one_line_that_says_how_to_name_one(tmp_path, caplog):
    _touch(tmp_path, "a.mp4", "b/meta.json")
    (tmp_path / "clips.csv").write_text("file,caption\na.mp4,not taken\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        videos, bad = _listed(tmp_path)
    assert videos["a.mp4"].caption is None
    assert bad == []
    (record,) = caplog.records
    assert "2 other table(s)" in record.getMessage()
    assert "--set folder.captions=FILE" in record.getMessage()


def test_a_chosen_table_replaces_the_usual_ones(tmp_path):
    _touch(tmp_path, "a.mp4")
    (tmp_path / "captions.csv").write_text("file,caption\na.mp4,usual\n", encoding="utf-8")
    (tmp_path / "mine.csv").write_text("file,description\na.mp4,chosen\n", encoding="utf-8")
    videos, _ = _listed(tmp_path, captions="mine.csv")
    assert videos["a.mp4"].caption == "chosen"
    with pytest.raises(CallError, match="no such file"):
        _listed(tmp_path, captions="nothing.csv")


def test_a_root_without_videos_is_a_wrong_call(tmp_path):
    with pytest.raises(CallError, match=r"holds no video file .* --root PATH"):
        _listed(tmp_path)
    with pytest.raises(CallError, match="is not there"):
        _listed(tmp_path / "nothing")


def test_real_clips_are_all_listed_and_their_table_is_not_taken_for_captions(real_clips, caplog):
    videos, bad = _listed(real_clips / "clips")
    assert (len(videos), bad) == (59, [])
    assert all(video.caption is None for video in videos.values())
    videos, bad = _listed(real_clips / "clips", captions="clips.csv")
    assert all(video.caption for video in videos.values())
    assert bad == []


def test_broken_files_are_listed_like_all_others(real_clips, tmp_path):
    shutil.copytree(real_clips / "broken", tmp_path / "broken", copy_function=shutil.copyfile)
    videos, bad = _listed(tmp_path)
    assert len(videos) == 16
    assert bad == []
    assert videos["broken/zero_bytes.mp4"].bytes == 0
