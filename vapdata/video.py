"""Video files: probe, decode, sample; `video_file.py` writes them. With `decoder.py`, the only file that touches a decoder.

What comes out is what a player shows: ffmpeg's choice of stream, rotation and flips applied, square pixels, times
counted from the first shown frame, edit lists and variable rates honoured. Everything here runs in the calling
process; builds call it through `vapdata.decoder.Decoder`, whose child process may hang or die without harm.

Which decoder. PyAV, always. That is the measured rule: on the 53 of the shared set's 59 clips that decord 0.6 opens
(it cannot open AV1 and GIF), one thread each, decord takes 1.4 x PyAV's CPU time at full size, 1.24 x when it resizes
to 320 pixels (1.15 x with the same bilinear kernel), and 1.4 x for nine frames out of the middle, since it indexes the
whole file first (`benchmarks/decode.py`, `benchmarks/RESULTS.md`). `sample(..., reader="decord")` is there to measure
again on other machines: read in order it shows the same frames, at full size bit for bit where colours have 8 bits; its
jumps are not to be trusted (one to the last frame of an AVI of the shared set gave garbage that varied from run to run).

A folder of numbered pictures is a video too, for callers that say at which rate it is shown (`folder_fps`).

Exercised by `pytest tests/vapdata/test_video.py` and `python -m benchmarks.decode`.
"""

import io
import itertools
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Float, UInt8

from vapdata.clip import Look, Sampling
from vapdata.errors import CallError, MissingInput, Unreadable
from vapdata.opened import MAX_PIXELS, OpenVideo, Probe, quoted_name, refuse_large
from vapdata.sequence import FrameFolder, OpenSequence, frame_folder
from vapdata.vectors import patch_lengths
from vapdata.video_file import write

__all__ = [
    "MAX_PIXELS",
    "Fit",
    "Frame",
    "FrameFolder",
    "Probe",
    "frame_folder",
    "frames",
    "look",
    "probe",
    "sample",
    "targets",
    "thumbnail",
    "write",
]


PRODUCT_KERNEL = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT
"""Without the second flag swscale halves the colour's width: 2-4 levels of mean error against float64, not 0.3-0.9."""


DETAIL = 256
"""Pixels on a side of `Frame.detail`."""
LUMA_FIRST = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "gray"})
"""Pixel formats whose first plane is 8-bit luma."""


def _no_tick() -> None:
    """What is called after every decoded frame when the caller does not ask to be told."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How frames are scaled. Without arguments: the full display size.

    `long_side` keeps the display aspect, with the longest side at most this many pixels, and never enlarges (area
    averaging: the fastest of swscale's filters when shrinking). `height` and `width` give a product's grid (bicubic):
    `stretch` squeezes the whole picture into it, `crop` scales to cover it and cuts the middle out.
    Raises CallError for one of height and width without the other, and for both kinds at once.
    """

    long_side: int | None = None
    height: int | None = None
    width: int | None = None
    resize: Literal["stretch", "crop"] = "stretch"
    pixels: bool = True
    """False: frames come without a picture (0 x 0 pixels), for those who ask for `vectors` alone."""
    detail: bool = False
    """Whether frames bring a part of the luma that was not scaled."""
    vectors: bool = False
    """Whether frames bring the codec's motion vectors."""

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise CallError(f"Fit: height={self.height} width={self.width}: give both, or neither")
        if self.long_side is not None and self.height is not None:
            raise CallError(f"Fit: long_side={self.long_side} together with a grid: give one of them")
        if min(side for side in (self.long_side, self.height, self.width, 1) if side is not None) < 1:
            raise CallError(f"Fit: long_side={self.long_side} height={self.height} width={self.width}: must be at least 1")

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a picture of this display size is scaled to, before any crop."""
        if self.height is not None and self.width is not None:
            if self.resize == "stretch":
                return self.height, self.width
            scale = max(self.height / height, self.width / width)
            return max(self.height, round(height * scale)), max(self.width, round(width * scale))
        scale = min(1.0, (self.long_side or max(height, width)) / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the frames that come out for this display size."""
        if self.height is not None and self.width is not None:
            return self.height, self.width
        return self.scaled(height, width)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One shown frame."""

    index: int
    """Counts the frames that the call yields, from 0: the file's own count when `start_s` is 0."""
    time_s: float
    """Seconds from the file's first shown frame."""
    image: UInt8[np.ndarray, "h w 3"]
    """RGB, 0-255, as displayed."""
    detail: UInt8[np.ndarray, "dh dw"] | None = None
    """With `Fit.detail`: luma of the coded picture's middle, at most 256 x 256, its corner a multiple of 16 pixels from the picture's."""
    vectors: Float[np.ndarray, "rows columns"] | None = None
    """With `Fit.vectors`: see `vapdata/vectors.py`; None where the codec exports none, and for key frames."""


def probe(path: str | os.PathLike[str], *, folder_fps: float | None = None) -> Probe:
    """Opens `path`, decodes one frame, and says what it is.

    A folder of numbered pictures is shown at `folder_fps`, which files have no use for.

    Raises Unreadable when it cannot be opened or its first frame not decoded, NoVideo without a video stream, and
    TooLarge when its picture has more than MAX_PIXELS.
    """
    with opened(path, folder_fps) as video:
        return video.probe()


def opened(path: str | os.PathLike[str], folder_fps: float | None, fit: Fit = Fit()) -> OpenVideo | OpenSequence:
    """What `path` is, not yet open: a folder that a rate is known for, or a file."""
    if folder_fps is not None and os.path.isdir(path):
        return OpenSequence(path, folder_fps)
    return OpenVideo(path, vectors=fit.vectors, hurried=fit.vectors and not fit.pixels and not fit.detail)


def frames(
    path: str | os.PathLike[str],
    fit: Fit = Fit(),
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    folder_fps: float | None = None,
) -> Iterator[Frame]:
    """Frames whose time lies in [start_s, end_s), in order, one in memory at a time.

    Times half a container tick (at most half a millisecond) apart count as equal, since containers round them.

    Seeks to the key frame before `start_s`. Raises as `probe` does, and Unreadable part-way, after the frames before
    it, when the decoder raises. There is no frame at all when the file ends before `start_s`.
    """
    with opened(path, folder_fps, fit) as video:
        yield from frames_of(video, fit, start_s, end_s)


def frames_of(
    video: OpenVideo | OpenSequence, fit: Fit, start_s: float, end_s: float | None, tick: Callable[[], None] = _no_tick
) -> Iterator[Frame]:
    """`frames` of a file that is open; `tick` is called after every decoded frame, also those only passed over."""
    image = _Imager(video, fit) if fit.pixels else _no_image
    for index, (time_s, picture) in enumerate(_pictures_in(video, start_s, end_s, tick)):
        detail = _detail(video, picture) if fit.detail else None
        vectors = patch_lengths(picture) if fit.vectors else None
        yield Frame(index=index, time_s=time_s, image=image(picture), detail=detail, vectors=vectors)


def _no_image(picture: av.VideoFrame) -> UInt8[np.ndarray, "0 0 3"]:
    return np.empty((0, 0, 3), np.uint8)


def _detail(video: OpenVideo | OpenSequence, picture: av.VideoFrame) -> UInt8[np.ndarray, "dh dw"]:
    """The middle of the first plane where that is 8-bit luma; else of the picture as grey."""
    with video.telling():
        grey = picture if picture.format.name in LUMA_FIRST else picture.reformat(format="gray")
        plane = grey.planes[0]
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: picture.height, : picture.width]
    top, left = (max(0, side - DETAIL) // 2 // 16 * 16 for side in lines.shape)
    return np.ascontiguousarray(lines[top : top + DETAIL, left : left + DETAIL])


def sample(
    path: str | os.PathLike[str],
    start_s: float,
    end_s: float,
    sampling: Sampling,
    *,
    folder_fps: float | None = None,
    reader: Literal["pyav", "decord"] = "pyav",
    tick: Callable[[], None] = _no_tick,
) -> UInt8[np.ndarray, "t h w 3"]:
    """The clip [start_s, end_s) on a product's grid: frame k is what a player shows at start_s + k / fps. RGB, 0-255.

    A clip shorter than `sampling.seconds` is played forth and back (`short='loop'`) or spread evenly over the frames
    (`'slow'`). Only the frames that are kept are converted, so memory is the result and one decoded frame. With
    `between='linear'` all of its frames are blended into as many as are wanted, as Seer does; the clip is decoded twice.
    `reader="decord"` falls back to PyAV where decord cannot open the file or would show another stream.
    Raises as `frames` does, and MissingInput for a clip that is too short with `short='reject'` or shows no frame.
    """
    if sampling.between == "linear":
        return _blended(path, start_s, end_s, sampling, folder_fps, tick)
    times, order = targets(end_s - start_s, sampling, quoted_name(path))
    fit = Fit(height=sampling.height, width=sampling.width, resize=sampling.resize)
    out = np.empty((len(times), sampling.height, sampling.width, 3), np.uint8)
    wanted = [start_s + time for time in times]
    filled = 0
    with opened(path, folder_fps) as video:
        decord_reader = _decord_reader(video) if reader == "decord" and isinstance(video, OpenVideo) else None
        if decord_reader is None:
            shown = _shown(video, wanted, end_s, tick)
        else:
            shown = _shown_by_decord(decord_reader, video, wanted, end_s)
        image = _Imager(video, fit, turned=decord_reader is not None)
        for picture, count in shown:
            out[filled : filled + count] = image(picture)
            filled += count
    if filled < len(times):
        name = quoted_name(path)
        raise MissingInput(f"{name}: shows no frame between {start_s:.3f} s and {end_s:.3f} s. Scan the file again.")
    return out if order == list(range(len(times))) else out[order]


def look(
    path: str | os.PathLike[str],
    start_s: float,
    end_s: float,
    looks: Sequence[Look],
    *,
    folder_fps: float | None = None,
    tick: Callable[[], None] = _no_tick,
) -> list[UInt8[np.ndarray, "t h w 3"]]:
    """The frames of the clip [start_s, end_s) that each of `looks` shows, by one pass over the clip. RGB, 0-255.

    What a look gives does not depend on the others. Only frames that are shown are converted. Raises as `frames`
    does, and MissingInput when the clip shows no frame.
    """
    wanted = sorted((start_s + time, which, k) for which, each in enumerate(looks) for k, time in enumerate(each.times(end_s - start_s)))
    filled = 0
    with opened(path, folder_fps) as video:
        fits = [Fit(long_side=each.long_side) for each in looks]
        images = [_Imager(video, fit) for fit in fits]
        out = [np.empty((len(each.times(end_s - start_s)), *fit.shape(video.height, video.width), 3), np.uint8) for each, fit in zip(looks, fits, strict=True)]
        for picture, count in _shown(video, [time for time, _, _ in wanted], end_s, tick):
            made: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
            for _, which, k in wanted[filled : filled + count]:
                if which not in made:
                    made[which] = images[which](picture)
                out[which][k] = made[which]
            filled += count
    if filled < len(wanted):
        raise MissingInput(f"{quoted_name(path)}: shows no frame between {start_s:.3f} s and {end_s:.3f} s. Scan the file again.")
    return out


def targets(duration_s: float, sampling: Sampling, name: str = "clip") -> tuple[list[float], list[int]]:
    """(times in the clip to look at, in order; which of them each of the sampled frames is).

    A clip that is long enough: k / fps each. Raises MissingInput for one that is not, with `short='reject'`.
    """
    every = list(range(sampling.frames))
    if sampling.fits(duration_s):
        return [k / sampling.fps for k in every], every
    if sampling.short == "slow":
        return [k * duration_s / sampling.frames for k in every], every
    if sampling.short == "loop" and duration_s > 0:
        there = [k for k in every if k / sampling.fps < duration_s - 1e-6] or [0]
        forth_and_back = there + there[-2:0:-1]
        return [k / sampling.fps for k in there], [forth_and_back[k % len(forth_and_back)] for k in every]
    raise MissingInput(
        f"{name}: {duration_s:.3f} s of video, {sampling.label()} needs {sampling.seconds:.3f} s. "
        "Select longer clips, or set the recipe's short=loop or short=slow."
    )


def blend(count: int, frames: int) -> list[tuple[int, int, float]]:
    """For each of `frames` the two of `count` frames that it lies between, and the second one's share, as torch's interpolation without aligned corners.

    Frame k lies at (k + 1/2) count / frames - 1/2, not before the first. With `count` at most `frames` each frame is one of them, and there are
    only `count`.
    """
    places = [float(k) for k in range(count)] if count <= frames else [max(0.0, (k + 0.5) * count / frames - 0.5) for k in range(frames)]
    return [(int(place), min(int(place) + 1, count - 1), place - int(place)) for place in places]


def thumbnail(image: UInt8[np.ndarray, "h w 3"], long_side: int = 256) -> bytes:
    """`image` as WebP (lossy, quality 80), shrunk so that its longest side is at most `long_side` pixels."""
    from PIL import Image  # decoding children never make thumbnails: keep their memory and start small

    picture = Image.fromarray(image)
    picture.thumbnail((long_side, long_side), Image.Resampling.BOX, reducing_gap=None)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80, method=2)
    return buffer.getvalue()


def _pictures_in(
    video: OpenVideo | OpenSequence, start_s: float, end_s: float | None, tick: Callable[[], None]
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decoded pictures of an open video whose time lies in [start_s, end_s), with their times."""
    for time_s, picture in video.pictures(start_s):
        tick()
        if end_s is not None and time_s >= end_s - video.slack_s:
            return
        if time_s >= start_s - video.slack_s:
            yield time_s, picture


def _blended(
    path: str | os.PathLike[str], start_s: float, end_s: float, sampling: Sampling, folder_fps: float | None, tick: Callable[[], None]
) -> UInt8[np.ndarray, "t h w 3"]:
    """All frames of a clip, brought to `sampling.frames`: counted first, then blended one at a time. What a short clip lacks is grey."""
    with opened(path, folder_fps) as video:
        count = sum(1 for _ in _pictures_in(video, start_s, end_s, tick))
    if not count:
        raise MissingInput(f"{quoted_name(path)}: shows no frame between {start_s:.3f} s and {end_s:.3f} s. Scan the file again.")
    made = blend(count, sampling.frames)
    out = np.zeros((sampling.frames, sampling.height, sampling.width, 3), np.float32)
    out[len(made) :] = 127.5
    fit = Fit(height=sampling.height, width=sampling.width, resize=sampling.resize)
    with opened(path, folder_fps) as video:
        for frame in frames_of(video, fit, start_s, end_s, tick):
            for k, (low, high, share) in enumerate(made):
                if frame.index == low:
                    out[k] += np.float32(1 - share) * frame.image
                if frame.index == high:
                    out[k] += np.float32(share) * frame.image
    return np.rint(out).astype(np.uint8)


class _Imager:
    """Turns decoded pictures of one video into images as displayed: RGB, scaled, rotated, cropped."""

    def __init__(self, video: OpenVideo | OpenSequence, fit: Fit, *, turned: bool = False) -> None:
        """`turned`: the pictures arrive rotated already."""
        self.video = video
        self.transpose = video.transpose and not turned
        self.step_y = -1 if video.flip_y and not turned else 1
        self.step_x = -1 if video.flip_x and not turned else 1
        self.kernel = Interpolation.AREA if fit.height is None else PRODUCT_KERNEL
        height, width = fit.scaled(video.height, video.width)
        self.size = (height, width) if self.transpose else (width, height)
        self.shape = fit.shape(video.height, video.width)
        self.top, self.left = (height - self.shape[0]) // 2, (width - self.shape[1]) // 2
        self.scaler = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        refuse_large(self.video.name, picture.width, picture.height)
        with self.video.telling():
            scaled = self.scaler.reformat(picture, *self.size, "rgb24", interpolation=self.kernel, threads=1)
            rgb = scaled.to_ndarray()
        shown = (rgb.transpose(1, 0, 2) if self.transpose else rgb)[:: self.step_y, :: self.step_x]
        bottom, right = self.top + self.shape[0], self.left + self.shape[1]
        return np.ascontiguousarray(shown[self.top : bottom, self.left : right])


def _shown(
    video: OpenVideo | OpenSequence, wanted: list[float], end_s: float, tick: Callable[[], None]
) -> Iterator[tuple[av.VideoFrame, int]]:
    """(picture, how many of the `wanted` times show it), in order; a picture at or after `end_s` is never shown."""
    done, shown, until_s = 0, None, 0.0
    for time_s, picture in video.pictures(wanted[0]):
        tick()
        due = bisect_left(wanted, time_s - video.slack_s, lo=done)
        if due > done and shown is not None:
            yield shown, due - done
            done = due
        if time_s >= end_s - video.slack_s or done == len(wanted):
            break
        shown, until_s = picture, time_s + video.interval_s(picture)
    if done < len(wanted) and shown is not None and (done or wanted[0] < until_s):
        yield shown, len(wanted) - done


def _decord_reader(video: OpenVideo) -> Any:
    """decord on the same file; None where it cannot open it, or would pick another stream or not mirror it."""
    import decord  # optional and measured slower: nothing else loads it

    decord.logging.set_level(decord.logging.QUIET)
    mirrored = (video.flip_x == video.flip_y) == video.transpose
    if mirrored or video.container.streams.best("video") != video.stream:
        return None
    try:
        reader = decord.VideoReader(os.fspath(video.path), num_threads=1)
        # it takes padding for a fourth channel where a padded line is that long, e.g. at 48 pixels
        return reader if reader.next().shape[-1] == 3 else None
    except (decord.DECORDError, RuntimeError, UnicodeEncodeError):
        return None


def _shown_by_decord(
    reader: Any, video: OpenVideo, wanted: list[float], end_s: float
) -> Iterator[tuple[av.VideoFrame, int]]:
    """As `_shown`, decoded by decord, which turns pictures itself. One at a time: a batch of full frames is large."""
    stamps = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    tick_s = float(video.stream.time_base)
    if (np.diff(stamps) > 0).all():
        times = ((stamps - stamps[0]) / tick_s).round() * tick_s  # decord gives float32
    else:  # AVI: decord has no times for some frames
        times = np.arange(len(reader)) / video.rate
    last = int(np.searchsorted(times, end_s - video.slack_s)) - 1
    indices = np.searchsorted(times, np.array(wanted) + video.slack_s, side="right") - 1
    for index, group in itertools.groupby(int(min(index, last)) for index in indices if min(index, last) >= 0):
        try:
            rgb = reader[index].asnumpy()
        except RuntimeError as error:  # DECORDError is one
            raise Unreadable(f"{video.name}: decord stopped at frame {index}. Replace the file.") from error
        yield av.VideoFrame.from_ndarray(rgb, "rgb24"), len(list(group))
