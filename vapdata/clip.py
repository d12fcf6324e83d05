"""What a video and a clip are, how they are named, and what travels between steps.

A *video* is a file or folder of frames (or an annotated span of one) that a dataset names; a *clip* is a span of a video that
exists: it was decoded and lies between two cuts. Ids are readable and stable, so that two builds of one
dataset on two machines give the same rows. Exercised by `pytest tests/vapdata/test_clip.py`.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote_to_bytes

import numpy as np
from jaxtyping import UInt8

from vapdata.errors import CallError

Role = Literal["source", "source_parent", "long", "short", "vap", "instruction", "neutral", "empty", "negative"]
_TO_QUOTE = re.compile(r"[\x00-\x1f\x7f-\x9f%@\udc80-\udcff]")
SPLITS = (("train", 0.98), ("validation", 0.01), ("test", 0.01))


@dataclass(frozen=True, kw_only=True)
class Made:
    """Where a made video comes from."""

    provider: str
    condition: str
    """What it was made to show."""
    parent_clip_id: str
    seed: int
    parameters: str
    """JSON object: `version` of what made it, and the parameters `drawn`."""
    neutral: str | None = None
    """Its caption without the words about the condition."""
    content_sha256: str | None = None
    """Of its decoded frames."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """One row of `videos`: a file, or an annotated span of it, that a dataset names."""

    video_id: str
    dataset: str
    name: str
    """The dataset's own id or relative path, as `quote` writes it."""
    uri: str
    """Path relative to the source's root, as `quote` writes it; `path_under` turns it back into bytes on disk."""
    split_group: str
    """What no split may tear apart, e.g. the YouTube id."""
    caption: str | None = None
    """The dataset's text about this whole video; None when it has none."""
    label: str | None = None
    license: str | None = None
    split: str | None = None
    """The dataset's own split; None lets `split_of(split_group)` decide."""
    start_s: float | None = None
    end_s: float | None = None
    """The annotated span, seconds from the first shown frame; None for the whole file."""
    folder_fps: float | None = None
    """Rate that a folder of numbered pictures is shown at; None for a file, which states its own."""
    seconds: float | None = None
    """Length that the dataset states, for planning only."""
    bytes: int | None = None
    """File size, for planning only."""
    scores: Mapping[str, float | str | tuple[str, ...]] = field(default_factory=dict)
    """The dataset's own numbers (float) and labels (str, or several), under their own names, e.g. `openvid_motion`."""
    made: Made | None = None
    """None for a video that was filmed."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row of a dataset's tables that names no usable video; becomes a `failures` row with step `plan`."""

    where: str
    """File (relative to the root) and line, e.g. `data/train/OpenVid-1M.csv:17`."""
    message: str
    video_id: str | None = None
    error: str = "MalformedRow"
    permanent: bool = True


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One row of `clips`: a span of a video that was decoded. Times are seconds from the first shown frame."""

    clip_id: str
    video_id: str
    source: str
    split: str
    start_s: float
    end_s: float
    """When the last frame stops being shown."""
    frames: int
    fps: float
    """Mean rate over the clip: frames / the time that they are shown, also where an annotated span ends before that."""
    width: int
    height: int
    """Display size in pixels: after rotation metadata and with square pixels."""
    codec: str
    whole: bool
    """True when the clip is all of what the dataset named (so the dataset's caption speaks of it)."""
    truncated: bool = False
    """True when decoding raised after this clip."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True, kw_only=True)
class Author:
    """Which model wrote a caption, and what it was asked: a caption by another author is an older one."""

    model_id: str
    revision: str
    prompt_version: str


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One text about one clip."""

    text: str
    captioner: str
    role: Role
    author: Author | None = None
    """None for a text that no model wrote."""
    frames_used: int | None = None
    """Frames that the model was shown."""
    tokens: int | None = None
    """Tokens of its answer."""
    prompt_tokens: int | None = None
    """Tokens that it was asked with, pictures included."""
    cost: float | None = None
    """What the answer cost, in the currency of the captioner's prices; None where nothing is charged or no price is known."""
    seconds: float | None = None
    """Time that the answer took; of a batch, its share."""

    @property
    def text_sha256(self) -> str:
        """Hex digest of the UTF-8 text: what tells whether an embedding is stale."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Score:
    """One filter's answer about one clip: a number, or a label (with its confidence as the value, if any)."""

    filter: str
    value: float | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The pixel grid of a product: how many frames, at which rate and size, and what to do with the rest."""

    frames: int
    height: int
    width: int
    fps: float
    resize: Literal["stretch", "crop"] = "stretch"
    """`stretch` squeezes the whole picture into height x width; `crop` scales to cover, then cuts the middle out."""
    short: Literal["reject", "loop", "slow"] = "reject"
    """A clip shorter than `seconds`: rejected, played forth and back, or sampled at a lower rate."""
    between: Literal["nearest", "linear"] = "nearest"
    """`nearest`: every frame is one that is shown. `linear`, with short=slow: all of the clip's frames, whatever their rate, brought to
    `frames` by blending neighbours, and grey ones behind a clip that has fewer; so Seer makes its clips, which FCA is compared with."""

    def __post_init__(self) -> None:
        if self.between == "linear" and self.short != "slow":
            raise CallError(f"sampling.between = linear: takes the whole of every clip, so short={self.short} says nothing. Type --set sampling.short=slow before it")

    @property
    def pictures(self) -> str:
        """How frames became a product's pictures, as its settings say it: `resize`, and `+linear` behind it where frames were blended."""
        return self.resize if self.between == "nearest" else f"{self.resize}+{self.between}"

    @property
    def seconds(self) -> float:
        """Span from the first to the last sampled frame: a clip must show a frame at this time."""
        return (self.frames - 1) / self.fps

    def fits(self, clip_duration_s: float) -> bool:
        """Whether a clip of this length has enough video for `short='reject'`."""
        return clip_duration_s > self.seconds - 1e-6 and clip_duration_s > 0

    def label(self) -> str:
        """`49x480x720-16fps`: the part of a product's name that says its pixel grid; `-linear` behind it where frames are blended."""
        return f"{self.frames}x{self.height}x{self.width}-{self.fps:g}fps{'' if self.between == 'nearest' else '-' + self.between}"


@dataclass(frozen=True, kw_only=True)
class Look:
    """Which frames of a clip are shown to a step that looks at a few of them: `fps` a second, from `least` to `most` in all.

    The clip is cut into that many equal spans, and the frame in the middle of each is shown.
    """

    fps: float = 2.0
    least: int = 2
    most: int = 16
    long_side: int = 448
    """Pixels; display aspect is kept and nothing is enlarged."""

    def __post_init__(self) -> None:
        if not self.fps > 0 or not 1 <= self.least <= self.most or self.long_side < 1:
            raise CallError(f"frames to look at: got {self}; wanted fps over 0, 1 <= least <= most, and a long_side from 1 on")

    def times(self, duration_s: float) -> list[float]:
        """When the frames are shown, seconds from the clip's start, in order."""
        count = min(max(round(duration_s * self.fps), self.least), self.most)
        return [(k + 0.5) * duration_s / count for k in range(count)]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What an encoder, or a step that looks at a few frames, receives of one clip. Pixels are RGB, 0-255, frames first."""

    clip_id: str
    frames: UInt8[np.ndarray, "t h w 3"] | None = None
    """Sampled as the recipe's `Sampling` says; None for encoders that read text only."""
    caption: Caption | None = None
    """The selected caption; None when the clip has none."""
    times_s: tuple[float, ...] | None = None
    """When each frame is shown, seconds from the clip's start, where a `Look` chose the frames."""

    @property
    def first(self) -> UInt8[np.ndarray, "h w 3"]:
        """The first sampled frame, at the product's size."""
        if self.frames is None:
            raise ValueError(f"{self.clip_id}: no frames were sampled for this step")
        return self.frames[0]


def quote(name: str | bytes) -> str:
    """`name` with bytes outside UTF-8, control characters, `%` and `@` percent-encoded; the rest stays readable.

    Takes what `os.listdir` gives (surrogate escapes) or raw bytes. `unquote_to_bytes` inverts it.
    """
    raw = name if isinstance(name, bytes) else os.fsencode(name)
    text = raw.decode("utf-8", "surrogateescape")
    if not _TO_QUOTE.search(text):  # nearly every name: 30 times faster, and a million of them are planned at once
        return text
    return "".join(_quote_character(character) for character in text)


def path_under(root: str | os.PathLike[str], uri: str) -> str:
    """The path on disk that `uri` (made by `quote` from a relative path) names below `root`."""
    return os.fsdecode(os.path.join(os.fsencode(root), unquote_to_bytes(uri)))


def video_id(dataset: str, name: str | bytes) -> str:
    """`<dataset>/<name>`, quoted."""
    return f"{quote(dataset)}/{quote(name)}"


def clip_id(video: str, start_s: float, end_s: float, *, whole: bool) -> str:
    """`video` itself for a whole video, else `video@<start ms>-<end ms>`."""
    return video if whole else f"{video}@{round(start_s * 1000)}-{round(end_s * 1000)}"


def split_of(split_group: str, seed: int = 0) -> str:
    """train, validation or test, 98/1/1 by hash of (seed, split_group): the same on every machine."""
    digest = hashlib.sha256(f"{seed}\0{split_group}".encode("utf-8", "surrogateescape")).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in SPLITS:
        if point < share:
            return name
        point -= share
    return SPLITS[-1][0]


def _quote_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte outside UTF-8, as os.fsdecode carries it
        return f"%{code - 0xDC00:02X}"
    if code < 0x20 or 0x7F <= code < 0xA0 or character in "%@":
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8"))
    return character
