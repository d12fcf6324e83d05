"""What each filter costs: clips per second on one core and on two, against bare decoding in the same run.

    python -m benchmarks.filters [FOLDER OF CLIPS] [--clips N] [--data-juicer PYTHON]

Every clip is decoded and measured by each filter alone, by the default chain with its cuts, and by nothing, with PyAV and ours
taking turns per clip so that other load moves all alike. CPU seconds are the figure to compare; on two cores two processes
share the clips, and what the default chain gains is a ratio of wall-clock times. `--data-juicer` names the interpreter of an environment in which
py-data-juicer is installed: its `video_motion_score_filter` at 2 fps then runs over the same clips in the same run.
Appends a dated section to `benchmarks/RESULTS.md`.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import av
import cv2

from benchmarks.ledger import append_row
from pipelines.recipe import Recipe
from vapdata import tiny, video
from vapdata.clip import Caption, Clip, Sample, Video
from vapdata.filters import FILTERS
from vapdata.registry import load
from vapdata.scan import Scanner, fit_for, measure
from vapdata.step import Filter, Judge
from vapdata.vectors import patch_lengths
from vapdata.video import Fit, Frame, frames, probe

DEFAULT_FOLDER = Path(os.environ.get("VAPDATA_REAL_CLIPS", "../shared/clips")) / "clips"
WITHOUT = ("cuts", "motion_raft")
"""Not measured alone: one writes no score, one is for a GPU."""
TINY = "tiny-cogvideox"
"""Whose CLIP stands in for a real one: the figures of filters with a network are of looking and of the way through, not of their network."""
ROUNDS = 5
"""Turns that optical flow and the codec's vectors take."""
CLIP = Clip(
    clip_id="d/a", video_id="d/a", source="d", split="train", start_s=0.0, end_s=1.0, frames=2, fps=2.0, width=320, height=180, codec="h264", whole=True
)
DATA_JUICER = """
import json, resource, sys
from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
step = VideoMotionScoreFilter(sampling_fps=2)
for path in json.load(sys.stdin):
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        step.compute_stats_single({"videos": [path], "text": "", "__dj__stats__": {}})
    except Exception as error:
        print(json.dumps([path, None, str(error)[:80]]), flush=True)
        continue
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([path, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ""]), flush=True)
"""


def bare(path: Path) -> None:
    """PyAV decodes on one thread, nothing is converted."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def alone(step: Filter) -> Callable[[Path], None]:
    """One filter over a clip that is known, decoded as it needs it: what `vapdata backfill` does."""
    opened, fit = [(step, step.open())], fit_for([step])

    def run(path: Path) -> None:
        measure(frames(path, fit), CLIP, opened)

    return run


def looking(step: Judge, closed: contextlib.ExitStack) -> Callable[[Path], None]:
    """A step that is shown a few frames of a clip: what `vapdata backfill` does for it; `closed` closes it in the end."""
    opened = closed.enter_context(contextlib.closing(step.open("cpu")))

    def run(path: Path) -> None:
        seconds = lasts(path)
        (shown,) = video.look(path, 0.0, seconds, [step.look])
        opened.judge([Sample(clip_id=path.name, frames=shown, caption=Caption(captioner="source", role="source", text="a person"), times_s=tuple(step.look.times(seconds)))])

    return run


@cache
def lasts(path: Path) -> float:
    """Seconds of the clip, by its frames: its container need not know."""
    return max(frame.time_s for frame in frames(path, Fit(long_side=16))) + 1e-3


def default_chain() -> Callable[[Path], None]:
    """The scan of a build: cuts, the recipes' filters, thumbnails."""
    fields = Recipe.__dataclass_fields__
    scan = Scanner(filters=fields["scan"].default, cuts=fields["cuts"].default)
    fit = fit_for(fields["scan"].default, pixels=True)

    def run(path: Path) -> None:
        named = Video(video_id=path.name, dataset="d", name=path.name, uri=path.name, split_group=".")
        scan.scan(frames(path, fit), probe(path), named)

    return run


def with_tiny_networks(folder: Path) -> dict[str, Judge]:
    """The filters that ask a network, each with a tiny one; `folder` gets the heads that are drawn for them."""
    from safetensors.torch import save_file
    from torch import nn
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    save_file(nn.Linear(tiny.CLIP["embed_dim"], 1).state_dict(), folder / "head.safetensors")
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
    ViTForImageClassification(ViTConfig(**size)).save_pretrained(folder, safe_serialization=True)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    asked = {name: {"model": TINY} for name in ("embedding", "temporal_consistency", "text_match")}
    asked |= {"aesthetic": {"model": TINY, "head": str(folder / "head.safetensors")}}
    asked |= {name: {"model": str(folder), "label": "LABEL_1"} for name in ("watermark", "nsfw")}
    return {name: load(FILTERS, name, "filter")(**settings) for name, settings in asked.items()}


@contextlib.contextmanager
def ways(folder: Path) -> Iterator[dict[str, Callable[[Path], None]]]:
    """What is measured, by name; `folder` is for what tiny networks need."""
    networks = with_tiny_networks(folder)
    single = {name: load(FILTERS, name, "filter")() for name in FILTERS if name not in (*WITHOUT, *networks)}
    with contextlib.ExitStack() as closed:
        yield {
            "bare decode": bare,
            "the default chain": default_chain(),
            "decode and scale to 320": alone(load(FILTERS, "brightness", "filter")(fps=1e-3)),
            **{name: looking(step, closed) if hasattr(step, "look") else alone(step) for name, step in single.items() if hasattr(step, "look") or step.fps > 0},
            **{f"{name}, tiny network": looking(step, closed) for name, step in networks.items()},
        }


def measured(paths: Sequence[Path]) -> dict[str, float]:
    """CPU seconds of each way over all clips."""
    cv2.setNumThreads(1)
    totals: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder, ways(Path(folder)) as opened:
        for path in paths:
            lasts(path)
            for name, way in opened.items():
                began = time.process_time()
                way(path)
                totals[name] += time.process_time() - began
    return dict(totals)


def own_seconds(name: str, paths: Sequence[Path]) -> float:
    """CPU seconds of what a filter does with sampled frames, and of summing the vectors up, at 2 fps; clips without vectors left out."""
    step, total = load(FILTERS, name, "filter")(), 0.0
    for path in paths:
        if video.probe(path).codec not in ("h264", "mpeg4"):
            continue
        with video.opened(path, None, Fit(vectors=True)) as file:
            sampled = [picture for index, (_, picture) in enumerate(file.pictures(0.0)) if index % max(1, round(file.rate / 2)) == 0]
            given = [Frame(index=k, time_s=k / 2, image=each.reformat(320, 180, "rgb24").to_ndarray()) for k, each in enumerate(sampled)]
            began = time.process_time()
            meter = step.open()(CLIP)
            for frame, picture in zip(given, sampled, strict=True):
                if name == "codec_motion":
                    meter.add_frame(dataclasses.replace(frame, vectors=patch_lengths(picture)), frame.time_s)
                else:
                    meter.add(frame.image, frame.time_s)
            total += time.process_time() - began
    return total


def _chain_alone(paths: Sequence[Path]) -> None:
    cv2.setNumThreads(1)
    way = default_chain()
    for path in paths:
        way(path)


def on_cores(paths: Sequence[Path], cores: int) -> float:
    """Clips per second of the default chain with so many processes, in wall-clock time, start-up left out."""
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(_chain_alone, [list(paths[:1])] * cores, chunksize=1)
        began = time.perf_counter()
        pool.map(_chain_alone, [[path] for path in paths], chunksize=1)
        return len(paths) / (time.perf_counter() - began)


def data_juicer(python: str, paths: Sequence[Path]) -> tuple[float, list[str]]:
    """(CPU seconds, clips that it could not score)."""
    done = subprocess.run([python, "-c", DATA_JUICER], input=json.dumps([str(path) for path in paths]), capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return sum(seconds for _, seconds, _ in rows if seconds is not None), [os.path.basename(path) for path, seconds, _ in rows if seconds is None]


def main() -> None:
    """Measures, prints, appends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--clips", type=int, help="only every n-th, so that this many remain")
    parser.add_argument("--data-juicer", help="interpreter of an environment that has py-data-juicer")
    given = parser.parse_args()
    paths = [path for path in sorted(given.folder.iterdir()) if path.suffix not in (".csv", ".md")]
    paths = paths[:: max(1, len(paths) // given.clips)] if given.clips else paths
    totals = measured(paths)
    base, scaled = totals["bare decode"], totals["decode and scale to 320"]
    rows = [
        (name, f"{cpu:.2f} s CPU, {len(paths) / cpu:.1f} clips/s/core, {cpu / base:.2f} x bare decode, {(cpu - scaled) / base:+.2f} x over decoding and scaling")
        for name, cpu in totals.items()
    ]
    turns = [own_seconds("motion", paths[::4]) / own_seconds("codec_motion", paths[::4]) for _ in range(ROUNDS)]
    spread = f"{statistics.median(turns):.1f} x ({min(turns):.1f} to {max(turns):.1f} in {ROUNDS} turns)"
    figure = f"{totals['motion'] / totals['codec_motion']:.2f} x its clips/s; {spread} without decoding and scaling, on every fourth clip"
    rows.append(("codec_motion against motion, decoding included", figure))
    one, two = (on_cores(paths, cores) for cores in (1, 2))
    rows.append(("the default chain, wall-clock", f"{one:.2f} clips/s on one core, {two:.2f} on two ({two / one:.2f} x); load before: {os.getloadavg()[0]:.0f}"))
    if given.data_juicer:
        cpu, failed = data_juicer(given.data_juicer, paths)
        figure = f"{cpu:.2f} s CPU, {cpu / base:.2f} x bare decode, {cpu / totals['motion']:.2f} x our motion"
        rows.append(("Data-Juicer's video_motion_score_filter, 2 fps", f"{figure}; failed: {', '.join(failed) or 'none'}"))
    rows.append(("clips", str(len(paths))))
    print(*(f"{what:45s} {figure}" for what, figure in rows), sep="\n")
    append_row("Filters", "python -m benchmarks.filters", rows)


if __name__ == "__main__":
    main()
