"""VAP-Data's table: conditions as labels, and everything that may be wrong with a row."""

from pathlib import Path

import pytest

from vapdata.clip import BadRow, Video
from vapdata.condition import Facts
from vapdata.conditions.mined import Mined
from vapdata.errors import CallError
from vapdata.sources.vap_data import VapData
from vapdata.step import Source

HEADER = "video_paths,kind,tar_video_caption,ref_video_paths,reference_alignment_score,split,_valid"


def _listed(root: Path, *lines: str, header: str = HEADER) -> tuple[dict[str, Video], list[BadRow]]:
    (root / "vap_data.csv").write_text("\n".join([header, *lines]) + "\n")
    items = list(VapData(root=str(root)).list())
    return {item.name: item for item in items if isinstance(item, Video)}, [item for item in items if isinstance(item, BadRow)]


def test_a_row_becomes_a_video_with_its_condition_as_a_label(tmp_path: Path) -> None:
    (tmp_path / "vfx_videos").mkdir()
    (tmp_path / "vfx_videos" / "1.mp4").write_bytes(b"12345")
    videos, bad = _listed(tmp_path, 'vfx_videos/1.mp4,balloon_inflate,"A mug, and\nit swells.","[""vfx_videos/2.mp4""]",92,train,1')
    video = videos["vfx_videos/1.mp4"]
    assert bad == []
    assert (video.video_id, video.uri, video.bytes) == ("vap_data/vfx_videos/1.mp4", "vfx_videos/1.mp4", 5)
    assert (video.caption, video.label, video.split) == ("A mug, and\nit swells.", "balloon_inflate", "train")
    assert video.split_group == "vfx_videos/1.mp4"
    assert video.scores == {"vap_concept": "balloon_inflate", "vap_alignment": 92.0}
    assert VapData(root=str(tmp_path)).present() == {"vfx_videos/1.mp4": 5}
    assert isinstance(VapData(root=str(tmp_path)), Source)


def test_categories_are_stated_or_read_from_the_folder(tmp_path: Path) -> None:
    stated, _ = _listed(tmp_path, "a.mp4,sepia,t,[],100,train,1,style", "b.mp4,spin,t,[],100,train,1,", header=f"{HEADER},category")
    assert stated["a.mp4"].scores == {"vap_style": "sepia", "vap_alignment": 100.0}
    assert stated["b.mp4"].scores == {"vap_concept": "spin", "vap_alignment": 100.0}
    told, _ = _listed(tmp_path, "vfx_videos_hq_camera/a.mp4,hitchcock_zoom,t,[],100,train,1")
    assert told["vfx_videos_hq_camera/a.mp4"].scores == {"vap_camera": "hitchcock_zoom", "vap_alignment": 100.0}


def test_our_own_columns_come_back(tmp_path: Path) -> None:
    header = f"{HEADER},category,clip_id,clip_split,split_group,license"
    videos, _ = _listed(tmp_path, "a.mp4,pan,t,[],70,test,1,camera,d/a,train,d/g%41,CC0-1.0", header=header)
    video = videos["a.mp4"]
    assert (video.split, video.split_group, video.license) == ("train", "d/g%41", "CC0-1.0")


def test_a_row_that_is_not_valid_shows_no_condition(tmp_path: Path) -> None:
    videos, bad = _listed(tmp_path, "a.mp4,melt,t,[],90,train,0", "b.mp4,melt,t,[],90,reference,-1", "c.mp4,melt,t,[],,train,")
    assert bad == []
    assert [video.scores for video in videos.values()] == [{"vap_alignment": 90.0}, {"vap_alignment": 90.0}, {"vap_concept": "melt"}]
    assert videos["b.mp4"].split is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a.mp4,melt,t,[],90,train", "6 fields, wanted 7"),
        (",melt,t,[],90,train,1", "video_paths is empty"),
        ("../a.mp4,melt,t,[],90,train,1", "leads out of the root"),
        ("/etc/a.mp4,melt,t,[],90,train,1", "leads out of the root"),
        ("./ok.mp4,melt,t,[],90,train,1", "an earlier row has ok.mp4"),
        ("a.mp4,melt,t,[],much,train,1", "column reference_alignment_score: got 'much', wanted a number"),
        ("a.mp4,melt,t,[],90,train,inf", "column _valid: got 'inf', wanted a number"),
    ],
)
def test_a_broken_row_says_where_and_what(line: str, words: str, tmp_path: Path) -> None:
    videos, bad = _listed(tmp_path, "ok.mp4,melt,t,[],90,train,1", line)
    assert [row.where for row in bad] == ["vap_data.csv:3"]
    assert words in bad[0].message
    assert videos["ok.mp4"].scores["vap_concept"] == "melt"
    assert all("vap_concept" not in video.scores for name, video in videos.items() if name != "ok.mp4")


def test_a_root_without_the_table_or_its_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"holds no vap_data\.csv; type --root"):
        list(VapData(root=str(tmp_path)).list())
    with pytest.raises(CallError, match="no column kind"):
        _listed(tmp_path, "a.mp4", header="video_paths")
    with pytest.raises(CallError, match="is not there"):
        list(VapData(root=str(tmp_path / "nowhere")).list())


def test_mined_takes_the_condition_and_its_alignment_and_nothing_else_of_such_a_clip() -> None:
    labels = {"vap_motion": (("move_up", None),), "camera_motion": (("pan_left", 0.9),)}
    clip = Facts(clip_id="v/a", source="vap_data", labels=labels, values={"vap_alignment": 35.0})
    assert [(each.condition, each.category, each.score) for each in Mined().members([clip])] == [("move_up", "motion", 35.0)]
    unscored = Facts(clip_id="v/a", source="vap_data", labels=labels)
    assert [each.score for each in Mined().members([unscored])] == [100.0]
