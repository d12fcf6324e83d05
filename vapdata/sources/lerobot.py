"""LeRobot datasets on disk, formats 2.0, 2.1 and 3.0. Exercised by `pytest tests/vapdata/sources/test_lerobot.py`.

Ray Data's `read_lerobot` is not used. It reads 3.0 alone, needs the packages lerobot and torchcodec, and hands on every
decoded frame as a row; a build wants names and spans here, and decodes in a child process of its own.
"""

import glob
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from vapdata.clip import BadRow, Video, quote, video_id
from vapdata.errors import CallError
from vapdata.sources.tree import is_video_name, walk

INFO = "meta/info.json"
LINES = "meta/episodes.jsonl"
TABLES = "meta/episodes"
TOLERANCE_S = 1e-4
"""How far a frame may lie before its episode's stated start: LeRobot's own reader allows as much."""
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}

_FIELD = re.compile(r"\{(video_key|episode_index|episode_chunk|chunk_index|file_index)(?::0?(\d)d)?\}")
_RANGE = re.compile(r"(\d+):(\d+)")

Episode = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LeRobot:
    """A robot dataset in LeRobot's format: episodes seen by one or several cameras.

    What: one video per episode and camera: a file of its own (2.0, 2.1), or a span of a file that holds several episodes
        (3.0). Depth maps, and cameras whose pictures lie inside the data's Parquet files, are left out.
    Reads: `meta/info.json` (its `video_path` says where files lie), `meta/episodes.jsonl` or `meta/episodes/*/*.parquet`,
        and video files anywhere; none of `data/`.
    Writes: `videos`: `caption` and `label` the episode's first task; labels `lerobot_camera`, `lerobot_robot` and
        `lerobot_task` (every task). `split_group` is the episode: its cameras stay together.
    Default: root `data/lerobot`, every camera; splits of info.json where it has several, else by hash.
    Cost: the episodes' table and one walk over the tree.
    Fails when: the root is no such dataset, has no camera stored as video, or none of `cameras` (CallError). An episode
        without usable number, file or span, and a camera stored as pictures, are BadRows. The hub's cache holds links that lead
        out of the root: fetch with `hf download --repo-type dataset NAME --local-dir PATH`.
    Source: huggingface/lerobot, datasets/dataset_metadata.py and io_utils.py, and its converter from 2.1 to 3.0.
    """

    name: ClassVar[str] = "lerobot"
    root: str = "data/lerobot"
    dataset: str = "lerobot"
    cameras: tuple[str, ...] = ("all",)
    """Names of the video features, e.g. `observation.images.top`; `all` for every one that is no depth map."""

    def list(self) -> Iterator[Video | BadRow]:
        """Every episode's cameras. Raises CallError when `root` is no such dataset."""
        info = _info(self.root)
        cameras = self._cameras(info)
        for name in _stored_as_pictures(info):
            message = f"{INFO}: camera {quote(name)} is stored as pictures inside data/, not as video. Convert it with lerobot to have it."
            yield BadRow(where=f"{INFO} {quote(name)}", message=message, error="NotAVideo")
        splits = _splits(info)
        for where, episode in _episodes(self.root):
            if isinstance(episode, BadRow):
                yield episode
                continue
            for camera in cameras:
                yield self._video(where, episode, camera, info, splits)

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of the video files that are there."""
        files = walk(self.root, enter=lambda path: path not in ("data", "meta"))
        return {quote(entry.path): entry.bytes for entry in files if entry.kind == "file" and is_video_name(entry.path)}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """Camera, robot and tasks."""
        return dict.fromkeys(("lerobot_camera", "lerobot_robot", "lerobot_task"), "label")

    def _cameras(self, info: Mapping[str, Any]) -> Sequence[str]:
        known = {name: feature for name, feature in _features(info) if feature.get("dtype") == "video"}
        if not known:
            raise CallError(f"--root {self.root!r}: {INFO} names no camera that is stored as video. Convert the dataset with lerobot, or choose another")
        if self.cameras == ("all",):
            return [name for name, feature in known.items() if not _is_depth(feature)]
        wrong = [name for name in self.cameras if name not in known]
        if wrong or not self.cameras:
            raise CallError(f"lerobot.cameras={','.join(self.cameras)}: wanted all, or some of {', '.join(known)}. Type --set lerobot.cameras={next(iter(known))}")
        return self.cameras

    def _video(self, where: str, episode: Episode, camera: str, info: Mapping[str, Any], splits: Sequence[tuple[str, range]]) -> Video | BadRow:
        number = episode["episode_index"]
        name = f"episode_{number:06d}/{camera}"
        span = _span(episode, camera)
        uri = _filled(info["video_path"], number, camera, episode, info)
        if uri is None or isinstance(span, str):
            said = span if isinstance(span, str) else f"no file is named for camera {quote(camera)}"
            return BadRow(where=where, message=f"{where}: {said}. Mend or delete the row.", video_id=video_id(self.dataset, name))
        tasks = _tasks(episode)
        scores: dict[str, float | str | tuple[str, ...]] = {"lerobot_camera": camera}
        if isinstance(info.get("robot_type"), str):
            scores["lerobot_robot"] = info["robot_type"]
        if tasks:
            scores["lerobot_task"] = tasks
        start_s, end_s = span
        length, fps = episode.get("length"), info.get("fps")
        stated = length / fps if _positive(length) and _positive(fps) else None
        return Video(
            video_id=video_id(self.dataset, name),
            dataset=self.dataset,
            name=quote(name),
            uri=quote(uri),
            split_group=f"episode_{number:06d}",
            caption=next(iter(tasks), None),
            label=next(iter(tasks), None),
            split=next((split for split, numbers in splits if number in numbers), None),
            start_s=start_s,
            end_s=end_s,
            seconds=end_s - start_s if start_s is not None and end_s is not None else stated,
            scores=scores,
        )


def _info(root: str) -> dict[str, Any]:
    """What `meta/info.json` holds. Raises CallError unless it is there and says where videos lie."""
    wanted = f"wanted {INFO} of LeRobot's format 2.0, 2.1 or 3.0. Type --root with the folder that holds meta/"
    try:
        with open(os.path.join(root, INFO), encoding="utf-8") as file:
            info = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise CallError(f"--root {root!r} holds no LeRobot dataset ({type(error).__name__}): {wanted}") from error
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        raise CallError(f"--root {root!r}: {INFO} has no features: {wanted}")
    if any(feature.get("dtype") == "video" for _, feature in _features(info)):
        template = info.get("video_path")
        left = _FIELD.sub("", template) if isinstance(template, str) else "{"
        if "{" in left or "}" in left:
            raise CallError(f"--root {root!r}: {INFO}: got video_path {template!r}, wanted a path with fields such as {{video_key}}; {wanted}")
    return info


def _features(info: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, what is said of it) of every feature."""
    yield from ((name, feature) for name, feature in info["features"].items() if isinstance(feature, dict))


def _stored_as_pictures(info: Mapping[str, Any]) -> list[str]:
    return [name for name, feature in _features(info) if feature.get("dtype") == "image"]


def _is_depth(feature: Mapping[str, Any]) -> bool:
    told = [feature[key] for key in ("info", "video_info") if isinstance(feature.get(key), dict)]
    return any(one.get(key) is True for one in told for key in ("is_depth_map", "video.is_depth_map"))


def _splits(info: Mapping[str, Any]) -> list[tuple[str, range]]:
    """Which episodes each split has, where info.json has several: the one that LeRobot writes by default (`train`, all) says nothing."""
    named = info.get("splits") if isinstance(info.get("splits"), dict) else {}
    known = [(SPLITS[name], _RANGE.fullmatch(str(spread))) for name, spread in named.items() if name in SPLITS]
    ranges = [(split, range(int(match[1]), int(match[2]))) for split, match in known if match]
    return ranges if len({split for split, _ in ranges}) > 1 else []


def _episodes(root: str) -> Iterator[tuple[str, Episode | BadRow]]:
    """(file and place, what it says) of every episode. Raises CallError when there is no table of them."""
    tables = sorted(glob.glob(os.path.join(glob.escape(root), TABLES, "*", "*.parquet")))
    lines = os.path.join(root, LINES)
    if not tables and not os.path.isfile(lines):
        raise CallError(f"--root {root!r} has neither {LINES} nor {TABLES}/*/*.parquet: format 1 must be converted with lerobot first")
    rows = (row for path in tables for row in _of_table(path, quote(os.path.relpath(path, root)))) if tables else _of_lines(lines)
    for where, episode in rows:
        number = episode.get("episode_index") if isinstance(episode, dict) else None
        if isinstance(episode, dict) and not (type(number) is int and number >= 0):
            yield where, BadRow(where=where, message=f"{where}: got episode_index {str(number)[:20]!r}, wanted a number from 0. Mend or delete the row.")
        else:
            yield where, episode


def _of_lines(path: str) -> Iterator[tuple[str, Episode | BadRow]]:
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{LINES}:{number}"
                episode = _object(line)
                yield where, episode or BadRow(where=where, message=f"{where}: this line is no JSON object. Mend or delete it.")


def _object(line: str) -> Episode | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _of_table(path: str, shown: str) -> Iterator[tuple[str, Episode | BadRow]]:
    """The rows of one Parquet file; without its statistics, which are most of it."""
    try:
        with pq.ParquetFile(path) as table:
            names = [name for name in table.schema_arrow.names if name in ("episode_index", "tasks", "length") or name.startswith("videos/")]
            place = 0
            for batch in table.iter_batches(batch_size=10_000, columns=names):
                for record in batch.to_pylist():
                    place += 1
                    yield f"{shown} row {place}", record
    except (OSError, pa.ArrowException) as error:
        message = f"{shown}: it cannot be read ({type(error).__name__}). Get the file again."
        yield shown, BadRow(where=shown, message=message, permanent=False)


def _span(episode: Episode, camera: str) -> tuple[float | None, float | None] | str:
    """(start, end) in seconds; (None, None) for a file of its own; or what is wrong with the row."""
    columns = [f"videos/{camera}/{end}_timestamp" for end in ("from", "to")]
    if not any(column in episode for column in columns):
        return None, None
    start, end = (episode.get(column) for column in columns)
    if not all(isinstance(time, float | int) and math.isfinite(time) for time in (start, end)) or not 0 <= start < end:
        return f"columns {columns[0]} and {columns[1]}: got {start} to {end}, wanted seconds, the later one second"
    return max(0.0, start - TOLERANCE_S), end - TOLERANCE_S


def _filled(template: str, number: int, camera: str, episode: Episode, info: Mapping[str, Any]) -> str | None:
    """The path that the template gives for an episode's camera; None when it asks for what the row does not say.

    Not `str.format`: a template comes with the dataset, and that would reach into whatever it is given.
    """
    size = info.get("chunks_size")
    fields = {
        "video_key": camera,
        "episode_index": number,
        "episode_chunk": number // size if _positive(size) else None,
        "chunk_index": episode.get(f"videos/{camera}/chunk_index"),
        "file_index": episode.get(f"videos/{camera}/file_index"),
    }
    asked = _FIELD.findall(template)
    if any(fields.get(name) is None for name, _ in asked):
        return None
    return _FIELD.sub(lambda match: str(fields[match[1]]).zfill(int(match[2] or 0)), template)


def _tasks(episode: Episode) -> tuple[str, ...]:
    """The episode's tasks that are texts, each once."""
    told = episode.get("tasks")
    listed = told if isinstance(told, list) else [told]
    return tuple(dict.fromkeys(task.strip() for task in listed if isinstance(task, str) and task.strip()))


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
