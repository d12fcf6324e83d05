"""The miniature world as a dataset: every subject under every condition, what happens planted in its labels.

Exercised by `pytest tests/vapdata/sources/test_miniature.py`.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8

from vapdata.clip import BadRow, Video, quote, video_id
from vapdata.errors import CallError, RunError
from vapdata.scenes import CONDITIONS, Made, caption, draw_made
from vapdata.video import write

VERSION = 2
"""Goes up when the same settings draw other pictures."""
PLACE = ("x", "y", "size")
"""Fields of a `Thing` that are planted: its middle, from the picture's, to the right and down, and its size, in halves of the shorter side."""


@dataclass(frozen=True, kw_only=True)
class Miniature:
    """Simple scenes under 26 conditions of motion, camera, style and concept.

    What: `count` H.264 videos that all begin with a plain scene; what then happens is one condition, at a strength near 1.
        Five shapes in six colours on four grounds; six of the thirty subjects are shown in the validation split alone,
        and with `turn` so are slides and tints that are 8 to 18 degrees off.
    Reads: nothing; writes the files into `root`, which it makes. A name holds a hash of the settings, so a file that is
        there is kept, and other settings write other files.
    Writes: `videos`, with the split; labels `miniature_motion`, `miniature_camera`, `miniature_style`,
        `miniature_concept` (of the one that applies, the condition's name) and the scores `miniature_strength` and
        `miniature_turn` (degrees); and where the subject lies in frame 0, `miniature_x`, `miniature_y` and
        `miniature_size`, with `pairs` the other object's as `miniature_other_x` and so on: `vapdata.scenes.thing_mask` draws
        an object's mask from them.
    Default: 480 videos of 9 frames at 8 fps, 32 x 32, captions that say what happens; `captions=neutral` leaves it out.
    Cost: 0.8 ms to draw, about 3 ms to encode a video of 32 x 32.
    Fails when: the root cannot be written (CallError), or the disk is full (RunError).
    Source: ours.
    """

    name: ClassVar[str] = "miniature"
    root: str = "data/miniature"
    dataset: str = "miniature"
    count: int = 480
    frames: int = 9
    fps: float = 8.0
    height: int = 32
    width: int = 32
    seed: int = 0
    captions: Literal["full", "neutral"] = "full"
    conditions: tuple[str, ...] = tuple(CONDITIONS)
    """Names of the conditions to draw from, in turn."""
    pairs: bool = False
    """Put a second object into every scene."""
    turn: float = 0.0
    """Slides and tints may be off their named direction or hue by up to so many degrees either way."""
    events: Literal[1, 2] = 1
    """2: a second condition follows in the clip's second half, and the caption says both in their order; the label joins their names by `>`."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.frames < 2 or self.fps <= 0 or min(self.height, self.width) < 16 or self.height % 2 or self.width % 2 or not 0 <= self.turn <= 45:
            got = f"count={self.count} frames={self.frames} fps={self.fps:g} height={self.height} width={self.width} turn={self.turn:g}"
            raise CallError(f"miniature: got {got}; wants one video or more, two frames or more, even sides of 16 or more, turn 0 to 45. Type --set miniature.count=480")
        if self.events not in (1, 2) or (self.events == 2 and len(self.conditions) < 3):
            got = f"{self.events} of {len(self.conditions)} conditions"
            raise CallError(f"miniature: a clip shows one or two events, two of three conditions or more; got {got}. Type --set miniature.events=1")
        for name in self.conditions:
            if name not in CONDITIONS:
                raise CallError(f"miniature: there is no condition {name!r}. Known: {', '.join(CONDITIONS)}.")

    def list(self) -> Iterator[Video | BadRow]:
        """Every video, rendered first where it is not there yet. Raises CallError for a root that cannot be made."""
        for made, size in self._rendered():
            yield Video(
                video_id=video_id(self.dataset, self.file(made)),
                dataset=self.dataset,
                name=quote(self.file(made)),
                uri=quote(self.file(made)),
                split_group=f"{made.scene.subject.colour} {made.scene.subject.shape}",
                split="validation" if made.held_out else "train",
                caption=caption(made.scene, made.condition if self.captions == "full" else None),
                label=made.condition.name,
                license="CC0-1.0",
                seconds=self.frames / self.fps,
                bytes=size,
                scores=_planted(made),
            )

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of all of them, rendered first where they are not there yet."""
        return {quote(self.file(made)): size for made, size in self._rendered()}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """What is known without looking."""
        values = ["strength", "turn", *(f"{whose}{name}" for whose in ("", "other_")[: 1 + self.pairs] for name in PLACE)]
        return {**{f"miniature_{name}": "value" for name in values}, **{f"miniature_{category}": "label" for category in ("motion", "camera", "style", "concept")}}

    def made(self, index: int) -> Made:
        """What video `index` shows: conditions in turn, everything else drawn from (seed, index)."""
        return draw_made(self.seed, index, conditions=self.conditions, two=self.pairs, turn=self.turn, events=self.events)

    def file(self, made: Made) -> str:
        """The name of one file under the root."""
        return f"miniature-{self._digest()}-{made.index:05d}.mp4"

    def draw(self, made: Made) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames of one file, before encoding."""
        return made.rendered(frames=self.frames, height=self.height, width=self.width)

    def _rendered(self) -> "Iterator[tuple[Made, int]]":
        try:
            os.makedirs(self.root, exist_ok=True)
        except OSError as error:
            raise CallError(f"--root {self.root!r} cannot be made ({error.strerror}); type --root PATH") from error
        for index in range(self.count):
            made = self.made(index)
            path = os.path.join(self.root, self.file(made))
            try:
                if not os.path.isfile(path):
                    write(path, self.draw(made), self.fps)
                yield made, os.path.getsize(path)
            except OSError as error:
                raise RunError(f"{path}: cannot be written ({error.strerror}); free the disk or type --root PATH") from error

    def _digest(self) -> str:
        """Tells files of other settings apart; captions are not in the files."""
        settings = (VERSION, self.frames, self.fps, self.height, self.width, self.seed, self.conditions, self.pairs, self.turn, *([self.events] if self.events > 1 else []))
        return hashlib.sha256(repr(settings).encode()).hexdigest()[:6]


def _planted(made: Made) -> dict[str, float | str]:
    """What is known of a video: what happens and how strongly, and where its objects lie in frame 0."""
    things = {"": made.scene.subject, **({"other_": made.scene.other} if made.scene.other else {})}
    places = {f"miniature_{whose}{name}": round(float(getattr(thing, name)), 6) for whose, thing in things.items() for name in PLACE}
    return {"miniature_strength": round(made.strength, 4), "miniature_turn": round(made.turn, 4), **places, f"miniature_{made.condition.category}": made.condition.name}
