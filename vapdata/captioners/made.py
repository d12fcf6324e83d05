"""What is said of a made video. Exercised by `pytest tests/vapdata/captioners/test_made.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from vapdata.clip import Caption, Clip, Video


@dataclass(frozen=True, kw_only=True)
class MadeCaption:
    """The texts that a made video got when it was made.

    What: its source clip's caption with the condition's sentence, and the same without, so that a trainer can be tested
        on what only the reference tells. None for a filmed video.
    Reads: `videos.caption`, `videos.neutral_caption`, `clips.whole`.
    Writes: `captions` with captioner `made`, roles `vap` and `neutral`.
    Default: what `vapdata pairs` builds made videos with.
    Cost: none.
    Fails when: never; a made video that was cut in parts gets no text, since no part shows all of it.
    Source: the caption style of Video-As-Prompt's data: what is seen, then what happens.
    """

    name: ClassVar[str] = "made"

    def open(self) -> Callable[[Video, Clip], list[Caption]]:
        """The function that gives a clip's captions; it needs nothing loaded."""
        return _captions


def _captions(video: Video, clip: Clip) -> list[Caption]:
    if video.made is None or not clip.whole:
        return []
    texts = (("vap", video.caption), ("neutral", video.made.neutral))
    return [Caption(text=text.strip(), captioner="made", role=role) for role, text in texts if text and text.strip()]
