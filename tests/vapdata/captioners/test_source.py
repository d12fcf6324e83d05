"""The dataset's text, under the role that says whether it speaks of the clip."""

from dataclasses import replace

import pytest

from vapdata.captioners.source import SourceCaption
from vapdata.clip import Clip, Video

VIDEO = Video(video_id="d/a", dataset="d", name="a", uri="a", split_group="a", caption=" A dog runs.\n")
CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=1.0, frames=8, fps=8.0, width=8,
    height=8, codec="h264", whole=True,
)


def test_a_whole_clip_gets_the_text_as_source():
    (caption,) = SourceCaption().open()(VIDEO, CLIP)
    assert (caption.text, caption.captioner, caption.role) == ("A dog runs.", "source", "source")


@pytest.mark.parametrize("truncated", [False, True])
def test_a_part_gets_it_as_source_parent(truncated):
    (caption,) = SourceCaption().open()(VIDEO, replace(CLIP, whole=False, truncated=truncated))
    assert caption.role == "source_parent"


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_no_text_gives_no_caption(text):
    assert SourceCaption().open()(replace(VIDEO, caption=text), CLIP) == []
