"""One video in, its clips out: one decode pass that cuts, scores and takes thumbnails as the frames stream past.

Nothing here opens a file: `Scanner.scan` is given frames (from `vapdata.video.frames` or a decoder's child process,
at `SCAN_FIT`), and keeps no more of them than the cut finder's delay. Exercised by `pytest tests/vapdata/test_scan.py`.

Sampling. A filter with rate `fps` sees what a player shows at the clip's first frame + k / fps: for each k the latest
frame whose time is not after it. A frame shown at several of these times is given once. When only one frame was given
although the clip has more, its last frame is given too. A meter that could not use a frame (a key frame has no motion
vectors) may ask for the one after it. The grid hangs on the clip alone, so `measure` over the clip's
own frames gives the number that the scan of the whole video gave.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Clip, Score, Video, clip_id, split_of
from vapdata.errors import ClipError, Unreadable
from vapdata.step import Filter, Meter
from vapdata.video import Fit, Frame, Probe, thumbnail

SCAN_FIT = Fit(long_side=320)
"""The size that a scan works at: cuts and motion need no more, and scaling is done by the decoder's side."""
GOOD_PART_S = 1.0
"""A damaged video of which at least this much came out gives clips; of less, only a failure."""
SLACK_S = 1e-3
"""Times closer than this are equal, as in `vapdata.video`: Matroska rounds every time stamp to a millisecond."""


@runtime_checkable
class FrameMeter(Protocol):
    """A meter that looks at more of a frame than its picture: its filter's `needs` says at what."""

    def add_frame(self, frame: Frame, time_s: float) -> bool:
        """Takes the next sampled frame, in place of `add`, and its time in the clip; False asks for the frame after it as well."""
        ...


@runtime_checkable
class OpenCuts(Protocol):
    """A cut finder at work on one video."""

    def add(self, image: UInt8[np.ndarray, "h w 3"], time_s: float) -> list[int]:
        """Takes the next frame; gives the indices, counted in calls, of frames now known to begin a new shot."""
        ...

    def finish(self) -> list[int]:
        """Those among the last `delay` frames."""
        ...


@runtime_checkable
class CutSettings(Protocol):
    """What tells a scan where to cut, e.g. `vapdata.filters.cuts.Cuts`."""

    @property
    def delay(self) -> int:
        """Frames after which a frame's answer is known."""
        ...

    def open(self) -> OpenCuts:
        """A finder for one video."""
        ...


@dataclass(kw_only=True)
class Scan:
    """What one video gave."""

    clips: list[Clip] = field(default_factory=list)
    """In time order."""
    scores: dict[str, list[Score]] = field(default_factory=dict)
    """By clip id."""
    thumbs: dict[str, bytes] = field(default_factory=dict)
    """By clip id: the clip's first frame as WebP, at most 256 px."""
    failure: ClipError | None = None
    """Why the decode ended early, if it did; the clips before it are good."""
    clip_failures: list[tuple[str, str, ClipError]] = field(default_factory=list)
    """(clip id, filter name, error) for each filter that could not score a clip."""


class Scanner:
    """Cut finder and filters, opened once per worker, for any number of videos."""

    def __init__(self, *, cuts: CutSettings | None = None, filters: Sequence[Filter] = (), seed: int = 0) -> None:
        self._cuts = cuts
        self._filters = [(step, step.open()) for step in filters]
        self._seed = seed

    def scan(self, frames: Iterable[Frame], probe: Probe, video: Video) -> Scan:
        """Reads `frames` to their end, or to the ClipError they raise, and gives the clips they hold.

        `frames` are those of the video's span (`start_s`, `end_s`), in order. Without `cuts` there is one clip.
        A part is as good as a whole: after an error the clips before it stay, and the one that it ended is kept with
        `truncated=True` when at least `GOOD_PART_S` of the video came out. Raises nothing but what is no ClipError.
        """
        result = Scan()
        run = _Run(video, probe, self._filters, self._seed, result)
        try:
            for shot_begins, frame in _with_cuts(frames, self._cuts):
                if shot_begins:
                    run.close(frame.time_s)
                run.add(frame)
        except ClipError as error:
            result.failure = error
        run.finish()
        return result


def fit_for(filters: Sequence[Filter], *, pixels: bool = False) -> Fit:
    """How frames have to be decoded for these filters: at the scan size, with what else they need and without what none does.

    `pixels`: the caller looks at pictures itself, as a scan does for its cuts and thumbnails; `measure` does not.
    """
    needs = {need for step in filters if step.fps > 0 for need in getattr(step, "needs", ("pixels",))}
    return replace(SCAN_FIT, pixels=pixels or "pixels" in needs, detail="detail" in needs, vectors="vectors" in needs)


def scan(
    frames: Iterable[Frame],
    probe: Probe,
    video: Video,
    *,
    cuts: CutSettings | None = None,
    filters: Sequence[Filter] = (),
    seed: int = 0,
) -> Scan:
    """`Scanner.scan` for a single video."""
    return Scanner(cuts=cuts, filters=filters, seed=seed).scan(frames, probe, video)


def measure(
    frames: Iterable[Frame], clip: Clip, filters: Sequence[tuple[Filter, Callable[[Clip], Meter]]]
) -> tuple[list[Score], list[tuple[str, ClipError]]]:
    """Scores of a clip that is already known, from its own frames: (scores, (filter name, error) of those that failed).

    `filters` are (step, step.open()). Raises the ClipError that `frames` raise.
    """
    shot = _Shot(clip, filters)
    for frame in frames:
        shot.add(frame)
    shot.end()
    return shot.scores(clip)


def source_scores(video: Video) -> list[Score]:
    """The dataset's own numbers and labels as scores; one row per different label where it gave several."""
    rows = []
    for name, value in video.scores.items():
        if isinstance(value, (int, float)):
            rows.append(Score(filter=name, value=float(value)))
        else:
            rows += [Score(filter=name, label=label) for label in dict.fromkeys((value,) if isinstance(value, str) else value)]
    return rows


def _with_cuts(frames: Iterable[Frame], cuts: CutSettings | None) -> Iterator[tuple[bool, Frame]]:
    """(whether it begins a new shot, frame), each frame held back until that is known; at an error, all of them first."""
    if cuts is None:
        yield from ((False, frame) for frame in frames)
        return
    finder, waiting, begins, count = cuts.open(), deque[tuple[int, Frame]](), set[int](), 0
    failure = None
    try:
        for frame in frames:
            waiting.append((count, frame))
            begins.update(finder.add(frame.image, frame.time_s))
            count += 1
            if len(waiting) > cuts.delay:
                yield _released(waiting, begins)
    except ClipError as error:
        failure = error
    begins.update(finder.finish())
    while waiting:
        yield _released(waiting, begins)
    if failure is not None:
        raise failure


def _released(waiting: deque[tuple[int, Frame]], begins: set[int]) -> tuple[bool, Frame]:
    index, frame = waiting.popleft()
    begin = index in begins
    begins.discard(index)
    return begin, frame


class _Run:
    """The walk over one video: at any time one open shot, and what the closed ones left."""

    def __init__(
        self,
        video: Video,
        probe: Probe,
        filters: Sequence[tuple[Filter, Callable[[Clip], Meter]]],
        seed: int,
        result: Scan,
    ) -> None:
        self._video, self._probe, self._filters, self._result = video, probe, filters, result
        self._split = video.split or split_of(video.split_group, seed)
        self._shot: _Shot | None = None
        self._frames = 0
        self._first_s = self._last_s = 0.0

    def add(self, frame: Frame) -> None:
        """The open shot's next frame."""
        if self._frames == 0:
            self._first_s = frame.time_s
        if self._shot is None:
            self._shot = _Shot(self._clip(frame.time_s, frame.time_s, frames=0, fps=0.0, whole=False), self._filters)
        self._shot.add(frame)
        self._last_s = frame.time_s
        self._frames += 1

    def close(self, end_s: float, *, annotated_s: float | None = None, whole: bool = False, truncated: bool = False) -> None:
        """Makes a clip of the open shot, which is shown until `end_s`, or of its part before `annotated_s`."""
        shot, self._shot = self._shot, None
        if shot is None:
            return
        shot.end()
        until_s = end_s if annotated_s is None else max(min(end_s, annotated_s), self._last_s + SLACK_S)
        rate = shot.count / (end_s - shot.first.time_s)  # an annotated span ends between two frames: its frames' rate all the same
        clip = self._clip(shot.first.time_s, until_s, frames=shot.count, fps=rate, whole=whole, truncated=truncated)
        scores, failures = shot.scores(clip)
        self._result.clips.append(clip)
        self._result.scores[clip.clip_id] = scores
        self._result.thumbs[clip.clip_id] = thumbnail(shot.first.image)
        self._result.clip_failures += [(clip.clip_id, name, error) for name, error in failures]

    def finish(self) -> None:
        """Closes the last shot, as the whole video, its end, or the good part of a damaged one."""
        damaged = self._result.failure is not None
        if self._frames == 0:
            self._result.failure = self._result.failure or _no_frame(self._video)
            return
        end_s = self._last_s + self._interval_s()
        if damaged and end_s - self._first_s < GOOD_PART_S - SLACK_S:
            self._shot = None
        whole = not damaged and not self._result.clips
        self.close(end_s, annotated_s=self._video.end_s, whole=whole, truncated=damaged)

    def _interval_s(self) -> float:
        """How long the last frame is shown: the mean time between the frames seen, else what the header says."""
        if self._frames > 1 and self._last_s > self._first_s:
            return (self._last_s - self._first_s) / (self._frames - 1)
        return 1 / self._probe.fps if self._probe.fps > 0 else 1 / 25

    def _clip(self, start_s: float, end_s: float, *, frames: int, fps: float, whole: bool, truncated: bool = False) -> Clip:
        return Clip(
            clip_id=clip_id(self._video.video_id, start_s, end_s, whole=whole),
            video_id=self._video.video_id,
            source=self._video.dataset,
            split=self._split,
            start_s=start_s,
            end_s=end_s,
            frames=frames,
            fps=fps,
            width=self._probe.width,
            height=self._probe.height,
            codec=self._probe.codec,
            whole=whole,
            truncated=truncated,
        )


class _Shot:
    """One clip in the making: its first and last frames, and its filters at work on their grids.

    Filters that want frames are started on the clip as it is known at its first frame (no end yet); those with
    `fps` 0 are started on the finished clip.
    """

    def __init__(self, clip: Clip, filters: Sequence[tuple[Filter, Callable[[Clip], Meter]]]) -> None:
        self.first: Frame
        self.count = 0
        self._last: Frame | None = None
        self._filters = filters
        self._grids = [_Grid(step.fps, start(clip)) for step, start in filters if step.fps > 0]

    def add(self, frame: Frame) -> None:
        """The next frame; the one before it is now known to have been shown until this one's time."""
        if self._last is None:
            self.first = frame
        else:
            self._show(self._last, frame.time_s)
        self._last = frame
        self.count += 1

    def end(self) -> None:
        """No more frames: the last one is given where the grid falls on it, or where fewer than two were given."""
        if self._last is None:
            return
        self._show(self._last, self._last.time_s + 2 * SLACK_S)
        for grid in self._grids:
            if grid.given == 1 and self.count > 1:
                grid.give(self._last, self.first.time_s)

    def scores(self, clip: Clip) -> tuple[list[Score], list[tuple[str, ClipError]]]:
        """What each filter says of the finished clip, in the filters' order, and who failed."""
        ready = iter(self._grids)
        scores: list[Score] = []
        failures: list[tuple[str, ClipError]] = []
        for step, start in self._filters:
            grid = next(ready) if step.fps > 0 else _Grid(0.0, start(clip))
            try:
                scores += grid.finish()
            except ClipError as error:
                failures.append((step.name, error))
        return scores, failures

    def _show(self, frame: Frame, until_s: float) -> None:
        for grid in self._grids:
            if grid.falls_before(until_s - self.first.time_s):
                grid.give(frame, self.first.time_s)


class _Grid:
    """One filter's sampling times in one clip, and its meter."""

    def __init__(self, fps: float, meter: Meter) -> None:
        self.given = 0
        self._fps = fps
        self._meter = meter
        self._next = 0
        self._again = False
        self._failure: ClipError | None = None

    def falls_before(self, time_s: float) -> bool:
        """Whether a sampling time lies before `time_s` (in the clip) that was not served; all such now count as served.

        Also true where the meter could not use the frame before and asked for the next one.
        """
        served, again = self._next, self._again
        while self._next / self._fps < time_s - SLACK_S:
            self._next += 1
        self._again = False
        return again or self._next > served

    def give(self, frame: Frame, start_s: float) -> None:
        """Hands the meter a frame; after a ClipError it gets no more."""
        self.given += 1
        if self._failure is None:
            try:
                if isinstance(self._meter, FrameMeter):
                    self._again = not self._meter.add_frame(frame, frame.time_s - start_s)
                else:
                    self._meter.add(frame.image, frame.time_s - start_s)
            except ClipError as error:
                self._failure = error

    def finish(self) -> list[Score]:
        """The meter's scores. Raises its ClipError."""
        if self._failure is not None:
            raise self._failure
        return self._meter.finish()


def _no_frame(video: Video) -> Unreadable:
    span = "" if video.start_s is None and video.end_s is None else f" between {video.start_s} s and {video.end_s} s"
    return Unreadable(f"{video.uri}: no frame{span} could be decoded; the file holds none. Replace it and run again.")
