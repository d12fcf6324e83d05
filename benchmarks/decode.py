"""Bare PyAV against decord, one thread each: which decoder, and when? The rule stands in `vapdata/video.py`.

    python -m benchmarks.decode [FOLDER OF CLIPS]

Decodes every clip at full size, scaled to a longest side of 320, and nine frames of its middle at 96 x 160; prints one
table, and appends a dated row with the ratios and the clips that decord cannot open to `benchmarks/RESULTS.md`.
CPU seconds are the figure to compare: they include decord's own thread, and other load on the machine moves them less.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import decord
from av.video.reformatter import Interpolation, VideoReformatter

from benchmarks.ledger import append_row
from vapdata import video
from vapdata.clip import Sampling
from vapdata.errors import ClipError
from vapdata.video import Fit

DEFAULT_FOLDER = Path(os.environ.get("VAPDATA_REAL_CLIPS", "../shared/clips")) / "clips"
NINE = Sampling(frames=9, height=96, width=160, fps=8, short="slow")


def bare(path: str) -> None:
    """PyAV decodes, nothing is converted."""
    with av.open(path) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def pyav_as_decord_scales(path: str) -> None:
    """PyAV with decord's own kernel, bilinear, at a longest side of 320."""
    probe = video.probe(path)
    height, width = Fit(long_side=320).scaled(probe.coded_height, probe.coded_width)
    scaler = VideoReformatter()
    with av.open(path) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for picture in container.decode(stream):
            scaler.reformat(picture, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1).to_ndarray()


def pyav(path: str, fit: Fit) -> None:
    """Our own streaming."""
    for _ in video.frames(path, fit):
        pass


def with_decord(path: str, fit: Fit) -> None:
    """decord from the first frame to the last; it scales while it decodes."""
    probe = video.probe(path)
    height, width = fit.scaled(probe.height, probe.width)
    reader = decord.VideoReader(path, width=width, height=height, num_threads=1)
    for _ in range(len(reader)):
        reader.next().asnumpy()


def nine(path: str, reader: str) -> None:
    """Nine frames of the middle third."""
    seconds = video.probe(path).duration_s or 1.0
    video.sample(path, seconds / 3, 2 * seconds / 3, NINE, reader=reader)


WAYS: dict[str, Callable[[str], None]] = {
    "bare decode, PyAV": bare,
    "full size, PyAV": lambda path: pyav(path, Fit()),
    "full size, decord": lambda path: with_decord(path, Fit()),
    "longest side 320, PyAV (area)": lambda path: pyav(path, Fit(long_side=320)),
    "longest side 320, PyAV (bilinear)": pyav_as_decord_scales,
    "longest side 320, decord (bilinear)": lambda path: with_decord(path, Fit(long_side=320)),
    "nine frames, PyAV": lambda path: nine(path, "pyav"),
    "nine frames, decord": lambda path: nine(path, "decord"),
}


def clock(way: Callable[[str], None], path: str) -> tuple[float, float]:
    """(wall, CPU) seconds of one run."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    way(path)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def opens(path: str) -> bool:
    """Whether decord opens this file."""
    try:
        decord.VideoReader(path, num_threads=1)
    except (decord.DECORDError, RuntimeError):
        return False
    return True


def main(folder: Path) -> None:
    """Measures, prints, appends."""
    decord.logging.set_level(decord.logging.QUIET)
    paths = [str(path) for path in sorted(folder.iterdir()) if path.suffix not in (".csv", ".md")]
    refused = [os.path.basename(path) for path in paths if not opens(path)]
    totals = {name: [0.0, 0.0] for name in WAYS}
    measured = 0
    for path in paths:
        if os.path.basename(path) in refused:
            continue
        try:
            clocked = {name: clock(way, path) for name, way in WAYS.items()}
        except ClipError as error:
            print(f"left out: {error}")
            continue
        measured += 1
        for name, seconds in clocked.items():
            totals[name] = [total + part for total, part in zip(totals[name], seconds, strict=True)]
    report(totals, measured, refused)


def report(totals: dict[str, list[float]], measured: int, refused: list[str]) -> None:
    """One table on the screen and a dated section in RESULTS.md."""
    bare_cpu = totals["bare decode, PyAV"][1]
    rows = [
        (name, f"{wall:.2f} s wall, {cpu:.2f} s CPU, {cpu / bare_cpu:.2f} x bare decode")
        for name, (wall, cpu) in totals.items()
    ]
    rows += [("clips, one thread each", str(measured)), ("clips that decord cannot open", ", ".join(refused) or "none")]
    print(*(f"{what:40s} {figure}" for what, figure in rows), sep="\n")
    append_row("PyAV or decord", "python -m benchmarks.decode", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
