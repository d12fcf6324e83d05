"""Writing a video file. Apart from video.py, so that who makes videos need not know how they are decoded: training does not.

Exercised by `pytest tests/vapdata/test_video.py` and `python -m train.sample`.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags
from jaxtyping import UInt8

from vapdata.clip import quote
from vapdata.errors import CallError


def write(
    path: str | os.PathLike[str],
    images: Iterable[UInt8[np.ndarray, "h w 3"]],
    fps: float,
    *,
    codec: str = "libx264",
    crf: int = 18,
) -> None:
    """Encodes RGB frames into `path` (container by its suffix), whole or not at all; equal input gives equal bytes.

    yuv420p where both sides are even, else yuv444p. One thread, no time stamps or version strings in the file.
    Raises CallError without any frame.
    """
    target = os.fspath(path)
    stem, suffix = os.path.splitext(target)
    partial = f"{stem}.{os.getpid()}.partial{suffix}"
    try:
        _encode(partial, iter(images), fps, codec, crf)
        os.replace(partial, target)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _encode(path: str, images: Iterator[UInt8[np.ndarray, "h w 3"]], fps: float, codec: str, crf: int) -> None:
    first = next(images, None)
    if first is None:
        raise CallError(f"{quote(os.path.basename(os.fsencode(path)))}: no frame to write. Pass at least one.")
    height, width = first.shape[:2]
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open("file:" + path, "w", options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact
        # x264's macroblock tree reads memory that varies: with it, 12 encodes of one input gave 8 different files.
        stream.options = {"crf": str(crf), "preset": "veryfast", **({"x264-params": "mbtree=0"} if codec == "libx264" else {})}
        for image in itertools.chain([first], images):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))
        container.mux(stream.encode())
