"""One opened video file: which stream, how its pictures are turned, and when a player shows them.

Beneath `video.py`, which decides what is decoded and at what size. The first frame is decoded on opening: containers
lie about sizes (and some state none), and times count from it. Exercised by `pytest tests/vapdata/test_video.py`.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import av
import av.logging
import numpy as np
from av.codec.context import Flags2
from av.stream import Disposition

from vapdata.clip import quote
from vapdata.errors import NoVideo, TooLarge, Unreadable

MAX_PIXELS = 8192 * 4352
"""Largest picture taken (8K UHD in whole macroblocks): a decoder keeps several of them in memory."""
COARSEST_TICK_S = 1e-3
"""Matroska's: containers round time stamps to their tick, so times half a tick apart may be the same time."""
DEFAULT_FPS = 25.0
"""Where headers state no rate: what ffmpeg assumes of raw streams."""
LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
"""A title in no encoding costs no video. PyAV 19 takes no such word, and keeps the bytes as surrogates."""
INEXACT_SEEK = ("avi", "gif")
"""Formats whose time stamps after a seek are made up: they are decoded from the start."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a file's first frame and headers say about its chosen video stream."""

    codec: str
    width: int
    """Display width: rotation applied, square pixels."""
    height: int
    """Display height: rotation applied, square pixels."""
    coded_width: int
    coded_height: int
    rotation: int
    """0, 90, 180 or 270: degrees clockwise by which a player turns the coded picture."""
    sar: float
    """Width of one coded pixel divided by its height."""
    fps: float
    """Mean rate that the headers state; 25 where they state none."""
    frames: int | None
    """Number of frames that the headers state, not counted; None where they state none."""
    duration_s: float | None
    """Length that the headers state; None where they state none."""
    stream_index: int
    pixel_format: str


class OpenVideo:
    """One file, opened by `open` or on entering the context. Its pictures can be gone through once.

    Raises Unreadable when it cannot be opened or the decoder raises, at whichever frame; NoVideo without a video
    stream; TooLarge for a picture of more than MAX_PIXELS or one that memory does not suffice for.
    """

    def __init__(self, path: str | os.PathLike[str], *, vectors: bool = False, hurried: bool = False) -> None:
        """`vectors`: pictures bring the codec's motion vectors. `hurried`: edges of blocks stay unfiltered, for who looks at no pixel."""
        self.path = path
        self.vectors = vectors
        self.hurried = hurried
        self.name = quoted_name(path)
        self.decoded = 0
        self.claimed = (0, 0)
        self.container: av.container.InputContainer | None = None

    def __enter__(self) -> "OpenVideo":
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> "OpenVideo":
        """Opens the file and decodes its first frame, which alone tells the true size, rotation and start."""
        with self.telling():
            self._open()
        return self

    def close(self) -> None:
        """Closes the file; more than once does no harm."""
        if self.container is not None:
            self.container.close()

    def probe(self) -> Probe:
        """What the headers and the first frame say."""
        stream, first = self.stream, self.first
        length = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if not length and self.container.duration:
            length = self.container.duration / av.time_base
        return Probe(
            codec=stream.codec_context.name,
            width=self.width,
            height=self.height,
            coded_width=first.width,
            coded_height=first.height,
            rotation=round(-first.rotation / 90) % 4 * 90,
            sar=self.sar,
            fps=self.rate,
            frames=stream.frames or None,
            duration_s=length or None,
            stream_index=stream.index,
            pixel_format=first.format.name,
        )

    def pictures(self, start_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds from the first shown frame, picture) from a key frame at or before `start_s` on, times rising."""
        last = -1.0 / self.rate
        with self.telling():
            for picture in self._from(start_s):
                stamp = self._stamp(picture)
                time_s = last + 1.0 / self.rate if stamp is None else stamp - self.origin_s
                if time_s <= last:  # broken time stamps: players show such a frame for a nominal interval
                    time_s = last + 1.0 / self.rate
                last = time_s
                yield time_s, picture

    def interval_s(self, picture: av.VideoFrame) -> float:
        """For how long a player shows this picture when none follows."""
        return float(max((picture.duration or 0) * self.stream.time_base, 1 / self.rate))

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turns what libraries raise into our own tree."""
        try:
            yield
        except (av.FFmpegError, OSError, MemoryError) as error:
            raise self._told(error) from error

    def _open(self) -> None:
        options = {"max_pixels": str(MAX_PIXELS), "protocol_whitelist": "file"}
        # "file:" keeps names with colons, dashes and bars from being read as protocols or switches
        self.container = av.open("file:" + os.fsdecode(self.path), options=options, **LENIENT)
        self.stream = self._choose()
        context = self.stream.codec_context
        self.claimed = (context.width, context.height)
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_count = 1
        if self.vectors:
            context.flags2 |= Flags2.export_mvs
        if self.hurried:
            context.options |= {"skip_loop_filter": "all"}
        self.rate = float(self.stream.average_rate or self.stream.guessed_rate or DEFAULT_FPS)
        self.running = self._decode()
        first = next(self.running, None)
        if first is None:
            raise Unreadable(f"{self.name}: opens, but no frame of its video stream decodes. Replace the file.")
        self._measure(first)

    def _again(self) -> None:
        self.close()
        self._open()

    def _choose(self) -> av.VideoStream:
        streams = self.container.streams.video
        usable = [stream for stream in streams if stream.codec_context is not None]
        if not usable:
            what = "there is no decoder for its video stream" if streams else "it holds no video stream"
            raise NoVideo(f"{self.name}: {what}. Replace it, or remove it from the dataset.")
        return max(usable, key=_rank)

    def _measure(self, first: av.VideoFrame) -> None:
        self.first = first
        self.origin_s = self._stamp(first) or 0.0
        self.slack_s = 0.51 * min(float(self.stream.time_base), COARSEST_TICK_S) + 1e-6
        self.transpose, self.flip_x, self.flip_y = _turn(first)
        sar = self.stream.sample_aspect_ratio
        self.sar = float(sar) if sar and sar > 0 else 1.0
        height, width = first.height, max(1, round(first.width * self.sar))
        refuse_large(self.name, width, height)
        self.height, self.width = (width, height) if self.transpose else (height, width)

    def _from(self, start_s: float) -> Iterator[av.VideoFrame]:
        """Decoded pictures from a key frame at or before `start_s`, checked; from the first one when in doubt."""
        margin_s = 0.0
        while start_s - margin_s > 1.0 and self.container.format.name not in INEXACT_SEEK:
            self.container.seek(int((start_s - margin_s + self.origin_s) / self.stream.time_base), stream=self.stream)
            running = self._decode()
            landed = next(running, None)
            stamp = self._stamp(landed) if landed is not None else None
            if stamp is not None and stamp - self.origin_s <= start_s + self.slack_s:
                yield landed
                yield from running
                return
            margin_s = 2 * margin_s + 2.0
        if margin_s:
            self.close()
            self._open()
        yield self.first
        yield from self.running

    def _decode(self) -> Iterator[av.VideoFrame]:
        for picture in self.container.decode(self.stream):
            self.decoded += 1
            yield picture

    def _stamp(self, picture: av.VideoFrame) -> float | None:
        # AVI stores no presentation times, and those that libavformat makes up for it run backwards at B-frames
        reordered = self.container.format.name == "avi" and picture.dts is not None
        ticks = picture.dts if reordered else picture.pts
        return None if ticks is None else float(ticks * self.stream.time_base)

    def _told(self, error: Exception) -> TooLarge | Unreadable:
        if self.container is not None and not self.decoded:
            try:
                refuse_large(self.name, *self.claimed)
                refuse_large(self.name, *refused_size(self._again))
            except TooLarge as large:
                return large
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, MemoryError):
            return TooLarge(f"{self.name}: decoding needs more memory than it may take ({why}). Scale the file down.")
        if self.container is None:
            return Unreadable(f"{self.name}: cannot be opened as video: {why}. Replace the file.")
        return Unreadable(f"{self.name}: the decoder stopped after {self.decoded} frames: {why}. Replace the file.")


def refused_size(again: Callable[[], object]) -> tuple[int, int]:
    """(width, height) that libavcodec finds in a picture and refuses, when `again` has it try once more; (0, 0) for none.

    Only its log tells. What `again` raises is dropped.
    """
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=True) as lines, suppress(av.FFmpegError, OSError, MemoryError, Unreadable, NoVideo):
            again()
    finally:
        av.logging.set_level(level)
    sizes = (re.search(r"Picture size (\d+)x(\d+) ", message) for _, _, message in lines)
    return max(((int(size[1]), int(size[2])) for size in sizes if size), default=(0, 0))


def refuse_large(name: str, width: int, height: int) -> None:
    """Raises TooLarge for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise TooLarge(f"{name}: {width} x {height} pixels, at most {MAX_PIXELS} are decoded. Scale the file down.")


def quoted_name(path: str | os.PathLike[str]) -> str:
    """The file's own name, fit for a table: where it lies differs between machines."""
    return quote(os.path.basename(os.fsencode(path)))


def _rank(stream: av.VideoStream) -> tuple[bool, int, int]:
    """What ffmpeg picks the video stream by: no attached picture, most pixels with a bonus for the default, first."""
    disposition, context = stream.disposition, stream.codec_context
    attached = bool(disposition & Disposition.attached_pic)
    bonus = 5_000_000 if disposition & Disposition.default else 0
    return not attached, context.width * context.height + bonus, -stream.index


def _turn(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(transpose, then flip x, flip y) that the display matrix asks for, to the nearest quarter turn."""
    side = picture.side_data.get("DISPLAYMATRIX")
    if side is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(side)[:20], np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0
