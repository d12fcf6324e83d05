"""Something-Something V2: both namings, splits, classes, answers, and what is wrong with the files."""

import json

import numpy as np
import pytest
from PIL import Image

from vapdata.clip import BadRow, Video
from vapdata.errors import CallError
from vapdata.scan import source_scores
from vapdata.sources.ssv2 import SSv2

TRAIN = [
    {"id": "78687", "label": "holding potato next to potato", "template": "Holding [something] next to [something]", "placeholders": ["potato", "potato"]},
    {"id": "42", "label": "showing a spoon to the camera", "template": "Showing [something] to the camera", "placeholders": ["a spoon"]},
]
LABELS = {"Holding something next to something": "18", "Showing something to the camera": "142"}


@pytest.fixture
def dataset(tmp_path):
    """`dataset(prefix, folder)` writes the label files and the videos 78687, 7 and 99 (which has no record)."""

    def make(prefix="", folder="labels", **tables):
        tables = {"train": TRAIN, "validation": [], "test": [{"id": "7"}], "labels": LABELS} | tables
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, content in tables.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / folder / f"{prefix}{name}.json").write_text(text)
        (tmp_path / folder / "test-answers.csv").write_text("7;Showing something to the camera\n")
        (tmp_path / "20bn-something-something-v2").mkdir(exist_ok=True)
        for name in ("78687", "7", "99"):
            (tmp_path / "20bn-something-something-v2" / f"{name}.webm").write_bytes(b"12345")
        return SSv2(root=str(tmp_path))

    return make


def _listed(source):
    items = list(source.list())
    return {item.name: item for item in items if isinstance(item, Video)}, [item for item in items if isinstance(item, BadRow)]


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
@pytest.mark.parametrize("folder", ["labels", "annotations", "."])
def test_both_namings_give_the_same(dataset, prefix, folder):
    videos, bad = _listed(dataset(prefix, folder))
    assert bad == []
    assert {name: video.split for name, video in videos.items()} == {"78687": "train", "42": "train", "7": "test", "99": None}


def test_a_record_becomes_a_video(dataset):
    video = _listed(dataset())[0]["78687"]
    assert (video.video_id, video.uri, video.bytes) == ("ssv2/78687", "20bn-something-something-v2/78687.webm", 5)
    assert (video.caption, video.label, video.folder_fps) == ("holding potato next to potato", "Holding something next to something", None)
    assert video.scores == {"ssv2_class": 18.0, "ssv2_template": "Holding [something] next to [something]", "ssv2_placeholder": ("potato", "potato")}


def test_placeholders_keep_their_order_and_are_one_score_each(dataset):
    video = _listed(dataset())[0]["78687"]
    assert [score.label for score in source_scores(video) if score.filter == "ssv2_placeholder"] == ["potato"]


def test_the_test_split_has_its_class_from_the_answers_and_no_caption(dataset):
    video = _listed(dataset())[0]["7"]
    assert (video.caption, video.label, video.scores) == (None, "Showing something to the camera", {"ssv2_class": 142.0})


def test_a_record_without_a_file_is_listed_and_not_present(dataset):
    source = dataset()
    assert _listed(source)[0]["42"].uri == "20bn-something-something-v2/42.webm"
    assert set(source.present()) == {f"20bn-something-something-v2/{name}.webm" for name in ("78687", "7", "99")}


def test_a_number_for_an_id_will_do_and_a_repeated_id_counts_once(dataset):
    videos, bad = _listed(dataset(train=[{"id": 5, "label": "a"}, {"id": "5", "label": "b"}]))
    assert (videos["5"].caption, bad) == ("a", [])


def test_records_without_usable_id_are_said_with_file_and_place(dataset):
    videos, bad = _listed(dataset(train=[{"label": "x"}, "y", {"id": "../../etc/passwd"}, TRAIN[1]]))
    assert [row.where for row in bad] == ["labels/train.json[0]", "labels/train.json[1]", "labels/train.json[2]"]
    assert "wanted a record with an id of digits" in bad[0].message
    assert "42" in videos


@pytest.mark.parametrize(("text", "got"), [("[{", "no JSON"), ('{"id": "1"}', "a dict")])
def test_a_label_file_that_is_no_list_is_one_bad_row_and_the_rest_is_listed(dataset, text, got):
    videos, [row] = _listed(dataset(train=text))
    assert row.where == "labels/train.json"
    assert got in row.message
    assert "7" in videos


def test_without_label_files_the_call_says_what_is_wanted(tmp_path):
    with pytest.raises(CallError, match=r"wanted labels/train\.json .* Type --root"):
        list(SSv2(root=str(tmp_path)).list())


def test_folders_of_frames_serve_where_they_are_preferred_or_alone(dataset, tmp_path):
    source = dataset()
    for name in ("78687", "42"):
        (tmp_path / "rawframes" / name).mkdir(parents=True)
        for number in range(1, 25):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "rawframes" / name / f"img_{number:05d}.jpg")
    videos = _listed(source)[0]
    assert videos["78687"].folder_fps is None
    assert (videos["42"].uri, videos["42"].folder_fps, videos["42"].seconds) == ("rawframes/42", 12.0, 2.0)
    preferred = SSv2(root=source.root, prefer="frames", fps=6.0)
    assert (_listed(preferred)[0]["78687"].uri, _listed(preferred)[0]["78687"].seconds) == ("rawframes/78687", 4.0)
    assert preferred.present()["rawframes/42"] == videos["42"].bytes


def test_a_rate_of_nothing_is_a_wrong_call():
    with pytest.raises(CallError, match=r"ssv2\.fps=12"):
        SSv2(fps=0.0)


def test_the_real_miniature_is_listed_whole(real_clips):
    source = SSv2(root=str(real_clips / "ssv2"))
    videos, bad = _listed(source)
    assert bad == []
    assert {video.uri for video in videos.values()} == set(source.present())
    assert sorted((video.split, name) for name, video in videos.items() if video.split != "train") == [
        ("test", "900005"), ("validation", "31061"), ("validation", "900004"),
    ]
    assert all("ssv2_class" in video.scores for video in videos.values())
