"""A made video tells its two texts, a filmed one none."""

from vapdata.captioners.made import MadeCaption
from vapdata.clip import Caption, Clip, Made, Video

MADE = Made(provider="procedural", condition="melt", parent_clip_id="d/a", seed=1, parameters="{}", neutral="a cup")


def _told(made: Made | None, *, whole: bool = True) -> list[Caption]:
    video = Video(video_id="vap/a", dataset="vap", name="a", uri="a.mp4", split_group="d/a", caption="a cup. It melts.", made=made)
    facts = {"source": "vap", "split": "train", "start_s": 0.0, "end_s": 1.0, "frames": 8, "fps": 8.0, "width": 64, "height": 64, "codec": "h264"}
    return MadeCaption().open()(video, Clip(clip_id="vap/a", video_id="vap/a", whole=whole, **facts))


def test_both_texts_are_told() -> None:
    assert [(each.captioner, each.role, each.text) for each in _told(MADE)] == [("made", "vap", "a cup. It melts."), ("made", "neutral", "a cup")]


def test_without_a_parents_caption_there_is_no_neutral_one() -> None:
    made = Made(provider="procedural", condition="melt", parent_clip_id="d/a", seed=1, parameters="{}")
    assert [each.role for each in _told(made)] == ["vap"]


def test_a_filmed_video_and_a_part_of_a_made_one_have_none() -> None:
    assert _told(None) == []
    assert _told(MADE, whole=False) == []
