"""A folder of numbered pictures, opened as if it were a video file.

Beneath `video.py`, beside `opened.py`, whose `OpenVideo` it stands in for: probe, scan and sample see no difference.
A folder states no rate, so whoever names it does (`Video.folder_fps`). The last number in a picture's name is its
place in time: names need no padding, and where a number is missing the picture before it is shown for longer.
Exercised by `pytest tests/vapdata/test_sequence.py`.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av

from vapdata.errors import NoVideo, TooLarge, Unreadable
from vapdata.opened import MAX_PIXELS, Probe, quoted_name, refuse_large, refused_size

CODECS = {b"\xff\xd8": "mjpeg", b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp"}
"""First bytes of a picture -> who decodes it. Suffixes choose the files, contents the decoder."""
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))
END_OF_JPEG = b"\xff\xd9"
"""Without it a JPEG is half a picture, which the decoder would fill up with grey."""

_LAST_NUMBER = re.compile(r"(\d{1,18})\D*\Z")


@dataclass(frozen=True, kw_only=True)
class FrameFolder:
    """What the listing of a folder of pictures says."""

    first: int
    """Smallest number in a name."""
    last: int
    """Largest number in a name."""
    count: int
    """Pictures with different numbers: less than last - first + 1 where some are missing."""
    bytes: int
    """Size of them all."""


def frame_folder(path: str | os.PathLike[str]) -> FrameFolder | None:
    """What lies in the folder `path`; None when it holds no numbered picture or cannot be read. Opens no picture."""
    try:
        found = _pictures(path)
        size = sum(entry.stat(follow_symlinks=False).st_size for entry in found.values())
    except OSError:
        return None
    return FrameFolder(first=min(found), last=max(found), count=len(found), bytes=size) if found else None


def numbered(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """(number, file name) of every picture in the folder, by number; links are not followed. Raises OSError.

    Of several with one number (`im_1.jpg`, `im_01.png`) the first in the order of names counts.
    """
    return sorted((number, entry.name) for number, entry in _pictures(path).items())


def _pictures(path: str | os.PathLike[str]) -> dict[int, os.DirEntry[str]]:
    found: dict[int, os.DirEntry[str]] = {}
    with os.scandir(os.fsdecode(path)) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            match = _LAST_NUMBER.search(stem)
            if match and suffix.lower() in SUFFIXES and entry.is_file(follow_symlinks=False):
                number = int(match[1])
                if number not in found or entry.name < found[number].name:
                    found[number] = entry
    return found


class OpenSequence:
    """One folder, opened by `open` or on entering the context, shown at `fps`; the attributes are `OpenVideo`'s.

    Frame number n is shown from (n - first number) / fps on. The first picture's size and turn (EXIF, to the nearest
    quarter) hold for all. Raises Unreadable for a folder that cannot be listed and a picture that cannot be decoded
    or is cut off; NoVideo for one without numbered pictures; TooLarge as `OpenVideo` does.
    """

    slack_s = 1e-6

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        self.path = path
        self.rate = fps
        self.name = quoted_name(os.fsdecode(path).rstrip("/"))
        self._at = self.name
        self._decoders: dict[str, av.VideoCodecContext] = {}

    def __enter__(self) -> "OpenSequence":
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> "OpenSequence":
        """Lists the folder and decodes its first picture."""
        with self.telling():
            self._frames = numbered(self.path)
        if not self._frames:
            raise NoVideo(f"{self.name}: this folder holds no numbered picture (im_0.jpg, frame_0001.png ...). Add them, or remove it.")
        self._first = self._picture(self._frames[0][1])
        first = self._first
        refuse_large(self._at, first.width, first.height)
        self.rotation = round(-first.rotation / 90) % 4 * 90
        self.transpose = self.rotation in (90, 270)
        self.flip_x, self.flip_y = self.rotation in (90, 180), self.rotation in (180, 270)
        self.height, self.width = (first.width, first.height) if self.transpose else (first.height, first.width)
        return self

    def close(self) -> None:
        """Lets go of the decoders; more than once does no harm."""
        self._decoders.clear()

    def probe(self) -> Probe:
        """What the listing and the first picture say."""
        return Probe(
            codec=_codec_of(self._bytes(self._frames[0][1])) or "",
            width=self.width,
            height=self.height,
            coded_width=self._first.width,
            coded_height=self._first.height,
            rotation=self.rotation,
            sar=1.0,
            fps=self.rate,
            frames=len(self._frames),
            duration_s=(self._frames[-1][0] - self._frames[0][0] + 1) / self.rate,
            stream_index=0,
            pixel_format=self._first.format.name,
        )

    def pictures(self, start_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds from the first picture, picture), from the one that is shown at `start_s` on."""
        origin = self._frames[0][0]
        times = [(number - origin) / self.rate for number, _ in self._frames]
        begin = max(0, bisect_right(times, start_s + self.slack_s) - 1)
        for place in range(begin, len(times)):
            yield times[place], self._first if place == 0 else self._picture(self._frames[place][1])

    def interval_s(self, picture: av.VideoFrame) -> float:
        """For how long a picture is shown when none follows."""
        return 1 / self.rate

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turns what libraries raise into our own tree, with the picture's name."""
        try:
            yield
        except MemoryError as error:
            raise TooLarge(f"{self._at}: decoding needs more memory than it may take. Scale the picture down.") from error
        except (av.FFmpegError, OSError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise Unreadable(f"{self._at}: cannot be read as a picture: {why}. Replace it.") from error

    def _picture(self, name: str) -> av.VideoFrame:
        self._at = f"{self.name}/{quoted_name(name)}"
        with self.telling():
            data = self._bytes(name)
            codec = _codec_of(data)
            if codec is None or (codec == "mjpeg" and END_OF_JPEG not in data[-4096:]):
                what = "is cut off" if codec else "is no JPEG, PNG, WebP or BMP"
                raise Unreadable(f"{self._at}: this picture {what} ({len(data)} bytes). Replace it.")
            try:
                decoded = self._decoder(codec).decode(_packet(data))
            except av.FFmpegError:
                refuse_large(self._at, *refused_size(lambda: _decoder(codec).decode(_packet(data))))
                raise
        if not decoded:
            raise Unreadable(f"{self._at}: nothing of this picture decodes. Replace it.")
        return decoded[0]

    def _bytes(self, name: str) -> bytes:
        with open(os.path.join(os.fsdecode(self.path), name), "rb") as file:
            return file.read()

    def _decoder(self, codec: str) -> av.VideoCodecContext:
        if codec not in self._decoders:
            self._decoders[codec] = _decoder(codec)
        return self._decoders[codec]


def _codec_of(data: bytes) -> str | None:
    return next((codec for magic, codec in CODECS.items() if data.startswith(magic)), None)


def _packet(data: bytes) -> av.Packet:
    packet = av.Packet(data)
    packet.is_keyframe = True  # else the PNG decoder adds each picture to the one before
    return packet


def _decoder(codec: str) -> av.VideoCodecContext:
    context = av.CodecContext.create(codec, "r")
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
    return context
