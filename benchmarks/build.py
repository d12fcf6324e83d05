"""What the scan and the engine cost: ratios in one run on the same clips.

    python -m benchmarks.build --clips FOLDER [--append]

(a) bare sequential decode with PyAV, one thread, nothing done to the frames; (b) the scan stage: the same files
through the decoder's child process, cuts, filters, thumbnails; (c) the whole tiny build on Ray, against the same
stages in a plain loop in one process. Seconds are CPU seconds of all processes unless the row says wall.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av

from benchmarks.ledger import append_row
from pipelines.prepare import Request, build, in_process
from pipelines.recipes import recipe
from pipelines.summary import Summary
from vapdata.clip import path_under
from vapdata.decoder import Decoder
from vapdata.errors import ClipError
from vapdata.scan import SCAN_FIT, Scanner
from vapdata.sources.folder import Folder


def main() -> None:
    """Measures, prints one table, and appends its rows to RESULTS.md with --append."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--clips", required=True)
    arguments.add_argument("--append", action="store_true")
    options = arguments.parse_args()
    source = Folder(root=options.clips)
    videos = sorted(video.uri for video in source.list() if hasattr(video, "uri"))
    bare_wall, bare_cpu, frames = timed(lambda: bare(options.clips, videos))
    scan_wall, scan_cpu, _ = timed(lambda: scan(options.clips, videos))
    loop, ray = whole(source, plain=True), whole(source, plain=False)
    rows = [
        ("bare decode", f"{bare_cpu:.1f} s CPU, {bare_wall:.1f} s wall, {frames} frames of {len(videos)} files, {frames / bare_cpu:.0f} frames/s/core"),
        ("scan / bare decode", f"{scan_cpu / bare_cpu:.2f} x CPU ({scan_cpu:.1f} s), {scan_wall / bare_wall:.2f} x wall ({scan_wall:.1f} s)"),
        ("build on Ray / plain loop, start-up apart", ratio(ray.working_seconds, loop.working_seconds)),
        ("build on Ray / plain loop, whole command", ratio(ray.seconds, loop.seconds)),
        ("busy seconds of the plain loop", ", ".join(f"{stage} {busy:.1f} s" for stage, busy in loop.stage_seconds.items())),
        ("load average over the run", f"{os.getloadavg()[1]:.1f} on {os.cpu_count()} cores"),
    ]
    for name, figure in rows:
        print(f"{name:45}{figure}")
    if options.append:
        append_row("Build", "python -m benchmarks.build --clips shared/clips/clips", rows)


def ratio(ours: float, theirs: float) -> str:
    """`1.05 x wall (63.3 s against 60.5 s)`."""
    return f"{ours / theirs:.2f} x wall ({ours:.1f} s against {theirs:.1f} s)"


def timed(work: Callable[[], int]) -> tuple[float, float, int]:
    """(wall seconds, CPU seconds of this process and its ended children, what `work` returned)."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = work()
    return time.perf_counter() - wall, cpu_seconds() - cpu, result


def cpu_seconds() -> float:
    """CPU seconds so far, of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def bare(root: str, videos: list[str]) -> int:
    """Decodes every frame with one thread and does nothing with it; how many frames there were."""
    frames = 0
    for uri in videos:
        with av.open(path_under(root, uri)) as container:
            stream = container.streams.best("video")
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            for _ in container.decode(stream):
                frames += 1
    return frames


def scan(root: str, videos: list[str]) -> int:
    """The scan stage's work on every file, in this process and one decoder; how many clips came out."""
    made = recipe("tiny")
    scanner = Scanner(cuts=made.cuts, filters=made.scan)
    by_id = {video.uri: video for video in Folder(root=root).list() if hasattr(video, "uri")}
    clips = 0
    with Decoder() as decoder:
        for uri in videos:
            path = path_under(root, uri)
            try:
                probe = decoder.probe(path)
                clips += len(scanner.scan(decoder.frames(path, SCAN_FIT), probe, by_id[uri]).clips)
            except ClipError as error:
                print(f"{uri}: {error}")
    return clips


def whole(source: Folder, *, plain: bool) -> Summary:
    """A whole tiny build into a fresh catalog; its summary."""
    with tempfile.TemporaryDirectory() as folder:
        request = Request(source=source, catalog=str(Path(folder) / "catalog"), recipe=recipe("tiny"))
        return build(request, runner=in_process if plain else None)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
