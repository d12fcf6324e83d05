"""OpenVid's tables and files, with everything that is known to be wrong with them."""

import shutil

import pytest

from vapdata.clip import BadRow, Video
from vapdata.errors import CallError
from vapdata.sources.openvid import COLUMNS, OpenVid, split_group

HEADER = ",".join(COLUMNS)


@pytest.fixture
def dataset(tmp_path):
    """Writes tables and files: `dataset({"OpenVid-1M.csv": text}, ["a.mp4"])` gives the source."""

    def make(tables, files=()):
        (tmp_path / "data" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "video").mkdir(exist_ok=True)
        for name, text in tables.items():
            (tmp_path / "data" / "train" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        for name in files:
            (tmp_path / "video" / name).write_bytes(b"12345")
        return OpenVid(root=str(tmp_path))

    return make


def _listed(source):
    items = list(source.list())
    videos = {item.name: item for item in items if isinstance(item, Video)}
    assert len(videos) == sum(isinstance(item, Video) for item in items), "a video was listed twice"
    return videos, [item for item in items if isinstance(item, BadRow)]


def test_a_row_becomes_a_video_with_its_scores(dataset):
    row = '-AbC1_x_7_0to241.mp4,"A woman, walking.\nSnow falls.",5.21,3.87,0.9941,pan_left,241,23.976,10.05'
    videos, bad = _listed(dataset({"OpenVid-1M.csv": f"{HEADER}\n{row}\n"}, ["-AbC1_x_7_0to241.mp4"]))
    video = videos["-AbC1_x_7_0to241.mp4"]
    assert bad == []
    assert (video.video_id, video.uri) == ("openvid/-AbC1_x_7_0to241.mp4", "video/-AbC1_x_7_0to241.mp4")
    assert (video.caption, video.seconds, video.bytes) == ("A woman, walking.\nSnow falls.", 10.05, 5)
    assert video.split_group == "-AbC1_x"
    assert video.scores == {
        "openvid_aesthetic": 5.21,
        "openvid_motion": 3.87,
        "openvid_temporal_consistency": 0.9941,
        "openvid_camera_motion": ("pan_left",),
    }


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("---_iRTHryQ_13_0to241.mp4", "---_iRTHryQ"),
        ("a_b_7_0to9.mp4", "a_b"),
        ("pexels-ducks-515_0to109.mp4", "pexels-ducks-515"),
        ("celebv_abc_12.mp4", "celebv_abc"),
        ("plain_name.mp4", "plain_name"),
    ],
)
def test_the_split_group_is_read_from_the_right(name, group):
    assert split_group(name) == group


def test_an_empty_motion_score_is_left_out_and_a_bad_one_is_said(dataset):
    rows = "a.mp4,c,5,,0.9,static,10,5,\nb.mp4,c,5,fast,0.9,static,10,5,2\n"
    videos, bad = _listed(dataset({"OpenVid-1M.csv": f"{HEADER}\n{rows}"}))
    assert "openvid_motion" not in videos["a.mp4"].scores
    assert videos["a.mp4"].seconds == 2.0
    assert [(row.where, "'motion score': got 'fast'" in row.message) for row in bad] == [("data/train/OpenVid-1M.csv:3", True)]
    assert videos["b.mp4"].caption == "c"


def test_several_camera_labels_are_told_apart(dataset):
    rows = 'a.mp4,c,5,1,0.9,"pan_left, zoom_in",1,1,1\nb.mp4,c,5,1,0.9,static; tilt_up and static,1,1,1\n'
    videos, _ = _listed(dataset({"OpenVid-1M.csv": f"{HEADER}\n{rows}"}))
    assert videos["a.mp4"].scores["openvid_camera_motion"] == ("pan_left", "zoom_in")
    assert videos["b.mp4"].scores["openvid_camera_motion"] == ("static", "tilt_up")


def test_malformed_rows_are_named_by_file_and_line_and_stop_nothing(dataset):
    long_name = "x" * 300 + ".mp4"
    text = (
        f"{HEADER}\n"
        "too,few\n"  # 2
        "good.mp4,c,5,1,0.9,static,1,1,1\n"  # 3
        ",no name,5,1,0.9,static,1,1,1\n"  # 4
        f"{long_name},c,5,1,0.9,static,1,1,1\n"  # 5
        "../up.mp4,c,5,1,0.9,static,1,1,1\n"  # 6
        f"{HEADER}\n"  # 7: a header line once more
        "\n"
        "last.mp4,c,5,1,0.9,static,1,1,1\n"
    )
    videos, bad = _listed(dataset({"OpenVid-1M.csv": text}))
    assert sorted(videos) == ["good.mp4", "last.mp4"]
    assert [row.where.rsplit(":", 1)[1] for row in bad] == ["2", "4", "5", "6"]
    assert all(row.permanent and row.error == "MalformedRow" for row in bad)


def test_a_quote_that_is_not_closed_costs_its_own_row_only(dataset):
    text = (
        f"{HEADER}\n"
        'a.mp4,"open,5,1,0.9,static,1,1,1\n'
        'b.mp4,"two\nlines",5,1,0.9,static,1,1,1\n'
        'c.mp4,"fine",5,1,0.9,static,1,1,1\n'
    )
    videos, bad = _listed(dataset({"OpenVid-1M.csv": text}))
    assert sorted(videos) == ["b.mp4", "c.mp4"]
    assert videos["b.mp4"].caption == "two\nlines"
    assert [row.where for row in bad] == ["data/train/OpenVid-1M.csv:2"]


def test_rows_of_one_name_are_one_video_and_the_first_value_that_is_there_counts(dataset):
    first = "a.mp4,,5.5,,0.9,static,1,1,1\na.mp4,later,6.5,2.5,0.8,pan,1,1,1\nb.mp4,one,5,1,0.9,static,1,1,1\n"
    hd = "a.mp4,hd,1,1,1,hd,1,1,1\nb.mp4,two,1,1,1,hd,1,1,1\nonly_hd.mp4,x,1,1,1,hd,1,1,1\n"
    videos, bad = _listed(dataset({"OpenVidHD.csv": f"{HEADER}\n{hd}", "OpenVid-1M.csv": f"{HEADER}\n{first}"}))
    assert bad == []
    assert sorted(videos) == ["a.mp4", "b.mp4", "only_hd.mp4"]
    assert (videos["a.mp4"].caption, videos["b.mp4"].caption) == ("later", "one")
    assert videos["a.mp4"].scores["openvid_motion"] == 2.5
    assert videos["a.mp4"].scores["openvid_aesthetic"] == 5.5


def test_rows_without_a_file_and_files_without_a_row_are_both_listed(dataset):
    source = dataset({"OpenVid-1M.csv": f"{HEADER}\nrow.mp4,c,5,1,0.9,static,1,1,1\n"}, ["file.mp4"])
    videos, bad = _listed(source)
    assert bad == []
    assert (videos["row.mp4"].bytes, videos["file.mp4"].bytes) == (None, 5)
    assert videos["file.mp4"].caption is None
    assert videos["file.mp4"].scores == {}
    assert source.present() == {"video/file.mp4": 5}


def test_bytes_that_are_not_utf8_in_a_caption_do_not_stop_it(dataset):
    text = f"{HEADER}\n".encode() + b"a.mp4,caf\xe9,5,1,0.9,static,1,1,1\n"
    videos, _ = _listed(dataset({"OpenVid-1M.csv": text}))
    assert videos["a.mp4"].caption == "caf\N{REPLACEMENT CHARACTER}"


def test_tables_and_videos_may_lie_in_the_root_itself(tmp_path):
    (tmp_path / "OpenVid-1M.csv").write_text(f"\N{BYTE ORDER MARK}{HEADER}\na.mp4,c,5,1,0.9,static,1,1,1\n", encoding="utf-8")
    (tmp_path / "a.mp4").write_bytes(b"1")
    videos, _ = _listed(OpenVid(root=str(tmp_path)))
    assert videos["a.mp4"].uri == "a.mp4"


def test_a_root_without_table_and_video_is_a_wrong_call(tmp_path):
    with pytest.raises(CallError, match=r"holds no OpenVid: found no data/train/\*\.csv .* --root"):
        list(OpenVid(root=str(tmp_path)).list())
    with pytest.raises(CallError, match="is not there"):
        list(OpenVid(root=str(tmp_path / "nothing")).list())


def test_its_scores_are_known_before_any_build(dataset):
    videos, _ = _listed(dataset({"OpenVid-1M.csv": f"{HEADER}\na.mp4,c,5,1,0.9,static,1,1,1\n"}))
    assert set(videos["a.mp4"].scores) == set(OpenVid().scores())
    assert OpenVid().scores()["openvid_camera_motion"] == "label"


def test_another_name_for_the_dataset_goes_into_the_ids(dataset):
    source = dataset({"OpenVid-1M.csv": f"{HEADER}\na.mp4,c,5,1,0.9,static,1,1,1\n"})
    (video,) = OpenVid(root=source.root, dataset="mine").list()
    assert (video.video_id, video.dataset) == ("mine/a.mp4", "mine")


def test_the_miniature_tree_is_listed_in_full(real_clips, tmp_path):
    root = tmp_path / "openvid"
    shutil.copytree(real_clips / "openvid", root, copy_function=shutil.copyfile)
    source = OpenVid(root=str(root))
    videos, bad = _listed(source)
    assert bad == []
    assert len(videos) == 10
    assert set(source.present()) == {video.uri for video in videos.values()} - {"video/missingFile_9_0to120.mp4"}
    assert all(video.caption and "openvid_motion" in video.scores for video in videos.values())
