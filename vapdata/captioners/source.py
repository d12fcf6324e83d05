"""The dataset's own text as a caption. Exercised by `pytest tests/vapdata/captioners/test_source.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from vapdata.clip import Caption, Clip, Video


@dataclass(frozen=True, kw_only=True)
class SourceCaption:
    """The dataset's text, under a role that says whether it speaks of this clip.

    What: one caption when the dataset has a text for the video, none otherwise.
    Reads: `videos.caption`, `clips.whole`.
    Writes: `captions` with captioner `source`; role `source` when the clip is all of what the dataset named, role
        `source_parent` when it is a part (between two cuts, or the good part of a damaged file).
    Default: every recipe starts with it.
    Cost: none.
    Fails when: never.
    Source: `source_parent` is never selected by default: a text about a whole video names things its parts do not show.
    """

    name: ClassVar[str] = "source"

    def open(self) -> Callable[[Video, Clip], list[Caption]]:
        """The function that gives a clip's captions; it needs nothing loaded."""
        return _captions


def _captions(video: Video, clip: Clip) -> list[Caption]:
    text = (video.caption or "").strip()
    if not text:
        return []
    return [Caption(text=text, captioner="source", role="source" if clip.whole else "source_parent")]
