"""Videos drawn on the spot, with everything known about them. Exercised by `pytest tests/vapdata/sources/test_synthetic.py`."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vapdata.clip import BadRow, Video, quote, video_id
from vapdata.errors import CallError, RunError
from vapdata.shapes import Shot, draw, plan
from vapdata.video import write

TRUTH = "truth.jsonl"
VERSION = 1
"""Goes up when the same settings draw other pictures."""


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Moving shapes, rendered and encoded as real mp4 files.

    What: `count` H.264 videos of one shape on a textured ground, with known caption, motion, camera move, cuts and
        object boxes. Every sixth has two shots, of `seconds` each. What is there already is kept; the same settings
        give the same bytes.
    Reads: nothing; writes the files into `root`, which it makes, with `truth.jsonl` beside them: per file the
        settings, caption, cuts (s) and shots (shape, colours, direction, px per frame, camera, box per frame as
        [x0, y0, x1, y1] in pixels, right and lower end excluded).
    Writes: `videos`; scores `synthetic_motion` (true mean flow, px per frame), `synthetic_cuts` (count) and the labels
        `synthetic_camera` and `synthetic_direction` (right, left, up, down, or nowhere for an object at rest), of every shot.
    Default: 24 videos of 2 s at 8 fps, 96 x 160, in `data/synthetic`.
    Cost: about 15 ms per video.
    Fails when: the root cannot be written (CallError), or the disk is full (RunError).
    Source: ours.
    """

    name: ClassVar[str] = "synthetic"
    root: str = "data/synthetic"
    dataset: str = "synthetic"
    count: int = 24
    seconds: float = 2.0
    fps: float = 8.0
    height: int = 96
    width: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.fps <= 0 or self.seconds * self.fps < 2:
            got = f"count={self.count} seconds={self.seconds:g} fps={self.fps:g}"
            raise CallError(f"synthetic: got {got}; wants one video or more, of two frames or more. Type --set synthetic.count=24")
        if min(self.height, self.width) < 32 or self.height % 2 or self.width % 2:
            got = f"{self.height}x{self.width}"
            raise CallError(f"synthetic: got {got} px, wants even sides of 32 or more. Type --set synthetic.height=96")

    def list(self) -> Iterator[Video | BadRow]:
        """Every video, rendered first where it is not there yet. Raises CallError for a root that cannot be made."""
        for row in self._rendered():
            yield Video(
                video_id=video_id(self.dataset, row["file"]),
                dataset=self.dataset,
                name=quote(row["file"]),
                uri=quote(row["file"]),
                split_group=quote(row["file"]),
                caption=row["caption"],
                license="CC0-1.0",
                seconds=row["frames"] / self.fps,
                bytes=row["bytes"],
                scores={
                    "synthetic_motion": row["motion"],
                    "synthetic_cuts": float(len(row["cuts"])),
                    "synthetic_camera": tuple(dict.fromkeys(shot["camera"] for shot in row["shots"])),
                    "synthetic_direction": tuple(dict.fromkeys(shot["direction"] or "nowhere" for shot in row["shots"])),
                },
            )

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of all of them, rendered first where they are not there yet."""
        return {quote(row["file"]): row["bytes"] for row in self._rendered()}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """What is known without looking."""
        return {"synthetic_motion": "value", "synthetic_cuts": "value", "synthetic_camera": "label", "synthetic_direction": "label"}

    def _rendered(self) -> "list[dict[str, Any]]":
        """The rows of truth.jsonl, after rendering what they do not cover."""
        try:
            os.makedirs(self.root, exist_ok=True)
        except OSError as error:
            raise CallError(f"--root {self.root!r} cannot be made ({error.strerror}); type --root PATH") from error
        known = _truth(self.root)
        rows = [self._row(known, index) for index in range(self.count)]
        if any(known.get(row["file"]) != row for row in rows):
            _keep_truth(self.root, {**known, **{row["file"]: row for row in rows}})
        return rows

    def _row(self, known: Mapping[str, "dict[str, Any]"], index: int) -> "dict[str, Any]":
        file = f"shapes-{index:05d}.mp4"
        settings = self._settings()
        path = os.path.join(self.root, file)
        row = known.get(file)
        if row and row["settings"] == settings and os.path.isfile(path) and os.path.getsize(path) == row["bytes"]:
            return row
        shots = plan(index, self.seed, frames=round(self.seconds * self.fps), height=self.height, width=self.width)
        try:
            write(path, (image for shot in shots for image in draw(shot)), self.fps)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}); free the disk or type --root PATH") from error
        return _truth_row(file, settings, shots, self.fps, os.path.getsize(path))

    def _settings(self) -> "dict[str, Any]":
        names = ("seconds", "fps", "height", "width", "seed")
        return {"version": VERSION, **{name: getattr(self, name) for name in names}}


def _truth_row(file: str, settings: dict[str, Any], shots: list[Shot], fps: float, size: int) -> dict[str, Any]:
    starts = [sum(shot.frames for shot in shots[:place]) for place in range(len(shots))]
    total = sum(shot.frames for shot in shots)
    return {
        "file": file,
        "bytes": size,
        "settings": settings,
        "caption": ", then ".join(shot.caption for shot in shots),
        "frames": total,
        "motion": round(sum(shot.motion_px * shot.frames for shot in shots) / total, 4),
        "cuts": [start / fps for start in starts[1:]],
        "shots": [{"first_frame": start, **shot.facts()} for start, shot in zip(starts, shots, strict=True)],
    }


def _truth(root: str) -> dict[str, dict[str, Any]]:
    """file -> row. An absent or damaged file counts for nothing: what it described is rendered again."""
    try:
        with open(os.path.join(root, TRUTH), encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return {row["file"]: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _keep_truth(root: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    path = os.path.join(root, TRUTH)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(rows[file]) + "\n" for file in sorted(rows))
        os.replace(partial, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); free the disk or type --root PATH") from error
