"""Length and size of a clip as scores."""

from vapdata.clip import Clip, Score
from vapdata.filters.extent import Extent

CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=1.0, end_s=3.5, frames=60, fps=24.0, width=360,
    height=640, codec="h264", whole=True,
)


def test_it_says_seconds_and_the_shorter_display_side():
    scores = Extent().open()(CLIP).finish()
    assert scores == [Score(filter="duration_s", value=2.5), Score(filter="short_side", value=360.0)]
    assert [score.filter for score in scores] == list(Extent().writes())


def test_it_asks_for_no_frames():
    assert Extent().fps == 0
