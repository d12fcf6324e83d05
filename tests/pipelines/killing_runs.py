"""Runs a job on one catalog again and again, each time killed -9 with all its processes once so many files are there.

A process of its own: every run is a fork of it, so it imports once and must hold no threads. Usage: killing_runs.py JOB CATALOG VIDEOS
FILES, where JOB is `build` or `fill` and FILES a JSON list: files of rows, tensors and journal that are there, or for `fill` have come,
when a run is killed; null lets it end. Prints a JSON list: whether each was killed. Exits 1 when one failed.
"""

import dataclasses
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from forks import forked

from pipelines import backfill, commit
from pipelines.prepare import Request, build, in_process
from pipelines.recipes import recipe
from vapdata.filters.clarity import Clarity
from vapdata.filters.fingerprint import Fingerprint
from vapdata.filters.motion import Motion
from vapdata.sources.synthetic import Synthetic

IMPORTED = {
    "build": ("open_clip", "diffusers.models.autoencoders.autoencoder_kl_cogvideox", "transformers.models.t5.modeling_t5"),
    "fill": ("cv2",),
}
"""What runs would import, each for itself."""


def build_all(catalog: str, videos: str) -> None:
    """The recipe `tiny` over the synthetic videos."""
    build(Request(source=Synthetic(root=videos, count=8), catalog=catalog, recipe=recipe("tiny")), runner=in_process)


def fill(catalog: str, videos: str) -> None:
    """Three filters for clips that are there, committed after every shard, so that kills fall between and into commits."""
    commit.COMMIT_FIRST_S = 0.0
    bare = dataclasses.replace(recipe("tiny"), encode=(), scan=())
    backfill.backfill(backfill.Request(catalog=catalog, steps=(Motion(), Clarity(), Fingerprint()), recipe=bare, roots={"synthetic": videos}), runner=in_process)


JOBS: dict[str, Callable[[str, str], None]] = {"build": build_all, "fill": fill}


def written(catalog: str) -> int:
    """How many files of rows, tensors and journal there are now; folders may vanish while they are counted."""
    return sum(name.endswith((".parquet", ".json")) for _, _, names in os.walk(catalog) for name in names)


def killed_at(files: int | None, catalog: str, job: Callable[[], None]) -> bool:
    """Whether the run was killed; False when it ended before. Raises when it failed."""
    child = forked(job)
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and (files is None or written(catalog) < files):
        time.sleep(0.005)
    if not ended[0]:
        os.killpg(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(ended[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the run that was to be killed at {files} files ended with {status}")
    return status != 0


def main(name: str, catalog: str, videos: str, listed: str) -> None:
    for module in IMPORTED[name]:
        importlib.import_module(module)
    start = written(catalog) if name == "fill" else 0
    print(json.dumps([killed_at(files and start + files, catalog, lambda: JOBS[name](catalog, videos)) for files in json.loads(listed)]))


if __name__ == "__main__":
    main(*sys.argv[1:5])
