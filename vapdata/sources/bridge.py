"""Raw BridgeData, V1 and V2, on disk. Exercised by `pytest tests/vapdata/sources/test_bridge.py`."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vapdata.clip import BadRow, Video, quote, video_id
from vapdata.errors import CallError
from vapdata.sources.tree import walk
from vapdata.video import FrameFolder, frame_folder

LAG_UNTIL = "2021-07-23"
"""In folders dated before, the camera lags one step behind the robot: the first picture belongs to no step."""
KNOWN_BAD = (
    ("toykitchen1/flip_pot_upright_in_sink_distractors/2021-06-02_16-36-21", "traj18"),
    ("datacol2_toykitchen1/pnp_push_sweep/04/2023-07-05_16-29-29", "traj49"),
    ("datacol2_toykitchen1/pnp_push_sweep/01/2023-07-03_15-11-24", "traj24"),
)
"""(end of the dated folder's path, trajectory) that the release's own converter names as broken."""
SEER_TRAIN = 0.8
LANG_BYTES = 65536
"""Longest instruction file read; real ones have a hundred bytes."""

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}")
_TRAJECTORY = re.compile(r"(?P<dated>.+?)/(?:raw/)?traj_group\d+/(?P<traj>traj\d+)")
_VIEW = re.compile(r"images\d+")
_CONFIDENCE = re.compile(r"confidence\s*[:=]?\s*(?P<number>[0-9.]+(?:e-?\d+)?)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """Raw BridgeData trajectories: folders of JPEG frames.

    What: one video per trajectory and view. Dated folders are found by their pattern, at whatever depth; frames are
        put in order as numbers. Of trajectories dated before 2021-07-23 the first frame is left out, as in the released
        converter (the camera lagged one step).
    Reads: `.../<env>/<task>/[<NN>/]<date>/raw/traj_group<G>/traj<T>/{images0/im_<N>.jpg, lang.txt}`; none of the .pkl files.
    Writes: `videos`: `caption` the first instruction of lang.txt (or the task's name, see `text`), `label` the task;
        scores `bridge_confidence`, labels `bridge_environment`, `bridge_view` and, where lang.txt holds several,
        `bridge_instruction`. `split_group` is the dated folder: one session, one scene (with `seer_list` the trajectory).
    Default: root `data/bridge`, view images0, 5 fps, text cut from the word "confidence" on.
    Cost: about 0.5 s per thousand trajectories of 38 frames: every frame's name and size is looked at, twice.
    Fails when: the root holds no trajectory, or `seer_list` is no such list (CallError). A trajectory without a frame
        in the wanted views, one that is known to be broken, and one that `seer_list` does not name are BadRows.
    Source: Walke et al., "BridgeData V2", CoRL 2023, and its bridgedata_raw_to_numpy.py; text and split of `seer_list`:
        Gu et al., "Seer", ICLR 2024.
    """

    name: ClassVar[str] = "bridge"
    root: str = "data/bridge"
    dataset: str = "bridge"
    views: tuple[str, ...] = ("images0",)
    """Folders of one camera each; `all` for every `images<N>` there is."""
    fps: float = 5.0
    lang: Literal["cut", "drop_line"] = "cut"
    """A line of lang.txt with the word "confidence": cut from there on, or dropped whole as the released converter does."""
    text: Literal["lang", "task", "lang_or_task"] = "lang"
    """Where the caption comes from; `task` is the folder's name in words, as Seer has it."""
    seer_list: str | None = None
    """Path of Seer's `path_id_bridgedata.txt`, a JSON list of `task/number`: its first 80 % train, the rest validate.

    The number is taken for the trajectory's place among those of its task, from 0, in the order of paths: Seer's own
    numbering belongs to a set of mp4 files that is no longer published. A catalog that was built with another list, or
    with none, refuses it.
    """

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise CallError(f"bridge: got fps={self.fps:g}, wanted a rate above 0. Type --set bridge.fps=5")
        if not self.views or any(view != "all" and not _VIEW.fullmatch(view) for view in self.views):
            raise CallError(f"bridge: got views={','.join(self.views)!r}, wanted images0, images1 ... or all. Type --set bridge.views=images0")

    def list(self) -> Iterator[Video | BadRow]:
        """Every trajectory's views. Raises CallError when `root` holds no trajectory."""
        splits = _seer_splits(self.seer_list)
        counts: dict[str, int] = defaultdict(int)
        empty = True
        for trajectory in _trajectories(self.root):
            empty = False
            key = f"{trajectory.task}/{counts[trajectory.task]}"
            counts[trajectory.task] += 1
            if splits is not None and key not in splits:
                yield self._bad(trajectory, "NotInList", f"{key} is not in {self.seer_list}; build without bridge.seer_list to have it")
                continue
            yield from self._of(trajectory, splits[key] if splits is not None else None)
        if empty:
            wanted = "<env>/<task>/<YYYY-MM-DD_hh-mm-ss>/raw/traj_group0/traj0/images0/im_0.jpg"
            raise CallError(f"--root {self.root!r} holds no BridgeData trajectory: wanted {wanted} at any depth. Type --root with the folder that holds them")

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of the frame folders of the wanted views."""
        found = ((f"{each.path}/{view}", folder) for each in _trajectories(self.root) for view, folder in self._views(each))
        return {quote(path): folder.bytes for path, folder in found}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """The instruction's confidence, and where the trajectory comes from."""
        labels = dict.fromkeys(("bridge_environment", "bridge_view", "bridge_instruction"), "label")
        return {"bridge_confidence": "value", **labels}

    def _of(self, trajectory: "_Trajectory", split: str | None) -> Iterator[Video | BadRow]:
        if any(f"/{trajectory.dated}".endswith(f"/{dated}") and trajectory.name == name for dated, name in KNOWN_BAD):
            yield self._bad(trajectory, "KnownBad", "the release's own converter names this trajectory as broken; remove it to be rid of this line")
            return
        views = self._views(trajectory)
        first = int(trajectory.lags)
        if not views:
            yield self._bad(trajectory, "NoFrames", f"no frame im_0.jpg ... in {' or '.join(self.views)}; get the folder again, or set bridge.views", False)
        for view, folder in views:
            if folder.last - folder.first < first:
                yield self._bad(trajectory, "NoFrames", f"{view} holds {folder.count} frame, and the first is left out before {LAG_UNTIL}; remove it")
            else:
                yield self._video(trajectory, view, folder, first, split)

    def _views(self, trajectory: "_Trajectory") -> "list[tuple[str, FrameFolder]]":
        """(view, its frames) of the wanted views that hold any."""
        wanted = [view for view in trajectory.views if view in self.views or "all" in self.views]
        listed = [(view, frame_folder(os.path.join(self.root, trajectory.path, view))) for view in wanted]
        return [(view, folder) for view, folder in listed if folder is not None]

    def _video(self, trajectory: "_Trajectory", view: str, folder: FrameFolder, first: int, split: str | None) -> Video:
        path = f"{trajectory.path}/{view}"
        texts, confidence = _instructions(os.path.join(self.root, trajectory.path, "lang.txt"), self.lang)
        in_words = _in_words(trajectory.task)
        texts = texts or ([in_words] if self.text == "lang_or_task" and in_words else [])
        scores: dict[str, float | str | tuple[str, ...]] = {"bridge_view": view}
        if trajectory.environment:
            scores["bridge_environment"] = quote(trajectory.environment)
        if confidence is not None:
            scores["bridge_confidence"] = confidence
        if len(texts) > 1:
            scores["bridge_instruction"] = tuple(texts)
        return Video(
            video_id=video_id(self.dataset, path),
            dataset=self.dataset,
            name=quote(path),
            uri=quote(path),
            split_group=quote(trajectory.dated if self.seer_list is None else trajectory.path),
            caption=in_words if self.text == "task" else next(iter(texts), None),
            label=quote(trajectory.task) or None,
            license="CC BY 4.0",
            split=split,
            start_s=first / self.fps if first else None,
            folder_fps=self.fps,
            seconds=(folder.last - folder.first + 1 - first) / self.fps,
            bytes=folder.bytes,
            scores=scores,
        )

    def _bad(self, trajectory: "_Trajectory", error: str, message: str, permanent: bool = True) -> BadRow:
        where = quote(trajectory.path)
        view = self.views[0] if self.views[0] != "all" else "images0"
        return BadRow(
            where=where,
            message=f"{where}: {message}.",
            video_id=video_id(self.dataset, f"{trajectory.path}/{view}"),
            error=error,
            permanent=permanent,
        )


@dataclass
class _Trajectory:
    """One `traj<T>` folder."""

    path: str
    dated: str
    """Path of its dated folder."""
    name: str
    task: str
    environment: str
    views: list[str] = field(default_factory=list)

    @property
    def lags(self) -> bool:
        """Whether its first picture belongs to no step."""
        return os.path.basename(self.dated) < LAG_UNTIL


def _trajectories(root: str) -> Iterator[_Trajectory]:
    """Every trajectory below `root`, in the order of paths; nothing below a path with "lmdb" in it."""
    current: _Trajectory | None = None
    for entry in walk(root, enter=lambda path: "lmdb" not in path and not _inside(path)):
        if entry.kind != "folder" or "lmdb" in entry.path:
            continue
        if current and entry.path.startswith(f"{current.path}/"):
            if _VIEW.fullmatch(os.path.basename(entry.path)):
                current.views.append(os.path.basename(entry.path))
            continue
        if current:
            yield current
        current = _trajectory(entry.path)
    if current:
        yield current


def _inside(path: str) -> bool:
    """Whether `path` is a folder right inside a trajectory: its files are looked at view by view."""
    return _TRAJECTORY.fullmatch(os.path.dirname(path)) is not None


def _trajectory(path: str) -> _Trajectory | None:
    match = _TRAJECTORY.fullmatch(path)
    if not match or not _DATED.fullmatch(os.path.basename(match["dated"])):
        return None
    above = match["dated"].split("/")[:-1]
    if above and above[-1].isdecimal():  # V2 numbers the sessions of a task
        above.pop()
    task, environment = above[-1] if above else "", above[-2] if len(above) > 1 else ""
    return _Trajectory(path=path, dated=match["dated"], name=match["traj"], task=task, environment=environment)


def _instructions(path: str, how: str) -> tuple[list[str], float | None]:
    """(instructions of a lang.txt, one per line; the first confidence stated); none of either when there is no file."""
    try:
        with open(path, "rb") as file:
            lines = file.read(LANG_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return [], None
    matches = [_CONFIDENCE.search(line) for line in lines]
    cut = [line if match is None else line[: match.start()] if how == "cut" else "" for line, match in zip(lines, matches, strict=True)]
    numbers = (_number(match["number"]) for match in matches if match)
    return [line.strip() for line in cut if line.strip()], next((number for number in numbers if number is not None), None)


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _in_words(task: str) -> str | None:
    """`put_pot_in_sink_distractors` -> `put pot in sink`, as Seer reads it."""
    return re.sub(r"[_-]", " ", task.replace("_distractors", "")).strip() or None


def _seer_splits(path: str | None) -> dict[str, str] | None:
    """`task/number` -> split; None without a list. Raises CallError for a file that is no JSON list of texts."""
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            listed = json.load(file)
    except (OSError, ValueError) as error:
        raise CallError(f"bridge.seer_list={path!r} cannot be read: {error}. Type --set bridge.seer_list=path_id_bridgedata.txt") from error
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise CallError(f"bridge.seer_list={path!r} holds no JSON list of task/number. Type --set bridge.seer_list=path_id_bridgedata.txt")
    train = int(SEER_TRAIN * len(listed))
    return {each: "train" if place < train else "validation" for place, each in reversed([*enumerate(listed)])}
