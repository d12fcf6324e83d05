"""A catalog of a million clips, tables only, written through the same store: how long writing, merging and asking take.

    python -m benchmarks.catalog [--clips 1000000] [--folder FOLDER] [--record]

Every clip has a video, six scores, a caption, and rows of three products whose tensor files are not written.
`--record` appends the table to benchmarks/RESULTS.md.
"""

import argparse
import contextlib
import datetime
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from catalogs.store import Catalog

BATCH = 50_000
FILTERS = ("motion", "clarity", "brightness", "duration_s", "short_side", "openvid_aesthetic")
RESULTS = Path(__file__).with_name("RESULTS.md")
QUESTIONS = {
    "count over clips": "select count(*) from clips where frames > 300",
    "filter and count over clips_wide": "select count(*) from clips_wide where motion > 5",
    "filter two scores and count": "select count(*) from clips_wide where motion between 3 and 20 and openvid_aesthetic > 4",
    "mean motion per source": "select source, count(*), avg(motion) from clips_wide group by 1",
}


def main() -> None:
    """Writes the catalog, asks, prints the table."""
    arguments = _arguments()
    if arguments.ask:
        _ask(arguments.folder)
        return
    base = arguments.folder or tempfile.mkdtemp(prefix="vapdata-benchmark-")
    folder = os.path.join(base, "catalog")
    lines = list(_write(folder, arguments.clips))
    command = [sys.executable, "-m", "benchmarks.catalog", "--ask", "--folder", folder]
    lines += subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()  # a fresh process: its own memory, cold imports
    shutil.rmtree(folder)
    table = ["| what | result |", "|---|---|", *(f"| {line.replace(chr(9), ' | ')} |" for line in lines)]
    print("\n".join(table))
    if arguments.record:
        _record(table, arguments.clips)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--ask", action="store_true", help="only ask the catalog in --folder")
    return parser.parse_args()


def _write(folder: str, clips: int) -> Iterator[str]:
    from catalogs.store import Catalog

    catalog = Catalog.open(folder, create=True)
    digest = catalog.claim("vae", {"frames": 9, "fps": 8.0, "short": "reject"}, step="vae")
    videos, rest = 0.0, 0.0
    with catalog.lock("benchmark"):
        catalog.recover()
        for start in range(0, clips, BATCH):
            numbers = np.arange(start, min(start + BATCH, clips))
            rows = _video_rows(numbers)
            videos += _timed(lambda rows=rows: catalog.append({"videos": rows}, run_id="benchmark"))
            tables = _tables(numbers, digest)
            rest += _timed(lambda tables=tables: catalog.append(tables, run_id="benchmark"))
        yield f"append {clips:,} videos as plain rows (planning's part of the store)\t{videos:.1f} s"
        yield f"append clips, scores, captions and three products\t{rest:.1f} s"
        yield f"merge all tables\t{_timed(catalog.merge):.1f} s"
        yield f"recover, with a tensor file to look up\t{_recovered(catalog):.2f} s"
    yield f"peak memory of the writer\t{_peak()}"
    yield f"size on disk\t{sum(path.stat().st_size for path in Path(folder).rglob('*') if path.is_file()) / 1e6:.0f} MB"


def _recovered(catalog: "Catalog") -> float:
    catalog.write_tensors("vae", "stray", 0, [])
    return _timed(catalog.recover)


def _ask(folder: str) -> None:
    began = time.perf_counter()
    from catalogs.queries import answer, selected, status
    from catalogs.store import Catalog

    print(f"import the queries\t{time.perf_counter() - began:.2f} s")
    catalog = Catalog.open(folder)
    print(f"status\t{_timed(lambda: status(catalog)):.2f} s")
    for name, sql in QUESTIONS.items():
        seconds = sorted(_timed(lambda sql=sql: answer(catalog, sql)) for _ in range(3))
        print(f"{name}, connecting included (median of 3)\t{seconds[1]:.2f} s")
    print(f"ids of all clips with motion > 5\t{_timed(lambda: selected(catalog, 'motion > 5')):.2f} s")
    print(f"work left for one product (anti join)\t{_timed(lambda: answer(catalog, _work())):.2f} s")
    print(f"peak memory of the asker\t{_peak()}")


def _work() -> str:
    return "select count(*) from clips_wide where motion > 1 and clip_id not in (select clip_id from latents where product = 'vae')"


def _video_rows(numbers: np.ndarray) -> list[dict[str, object]]:
    facts = {"dataset": "openvid", "source": "openvid", "split": "train"}
    return [
        {
            **facts,
            "video_id": f"openvid/video_{number:07d}",
            "name": f"video_{number:07d}",
            "uri": f"video/video_{number:07d}.mp4",
            "shard": _shard(number),
            "split_group": f"group_{number // 3}",
            "caption": f"a caption of clip {number} about things seen in scene {number % 977}",
            "source_scores": '{"openvid_aesthetic": 5.1}',
        }
        for number in numbers.tolist()
    ]


def _tables(numbers: np.ndarray, digest: str) -> dict[str, pa.Table]:
    count, random = len(numbers), np.random.default_rng(int(numbers[0]))
    ids = pa.array([f"openvid/video_{number:07d}" for number in numbers])
    shards = pa.array([_shard(number) for number in numbers.tolist()])
    times = len(FILTERS)
    repeated = pa.array(np.repeat(np.arange(count), times))
    keys = {"clip_id": ids, "shard": shards}
    size = {"width": _all(1280, count), "height": _all(720, count), "codec": _all("h264", count), "whole": _all(True, count), "truncated": _all(False, count)}
    span = {"start_s": _all(0.0, count), "end_s": pa.array(random.uniform(2, 20, count)), "frames": pa.array(random.integers(24, 600, count)), "fps": _all(24.0, count)}
    texts = pa.array([f"a caption of clip {number} about things seen in scene {number % 977}" for number in numbers.tolist()])
    hashes = pa.array([f"{number:064x}" for number in numbers.tolist()])
    words = {"captioner": _all("source", count), "role": _all("source", count), "text_sha256": hashes}
    file = {"file": pa.array([f"tensors/x/{_shard(number)}.0.parquet" for number in numbers.tolist()]), "row_group": pa.array(numbers % 64)}
    made = {"model_id": _all("model", count), "revision": _all("r", count), "settings_sha256": _all(digest, count), "dtype": _all("bf16", count), **file}
    law = {"kind": _all("video", count), "pixel_frames": _all(9, count), "latent_frames": _all(3, count), "temporal_stride": _all(4, count)}
    flags = {"first_alone": _all(True, count), "has_logvar": _all(False, count)}
    shape = {"shape": pa.array([[16, 3, 12, 20]] * count)}
    return {
        "clips": pa.table({**keys, "video_id": ids, "source": _all("openvid", count), "split": _all("train", count), **span, **size}),
        "scores": pa.table(
            {
                "clip_id": ids.take(repeated),
                "shard": shards.take(repeated),
                "filter": pa.array(list(FILTERS) * count),
                "value": pa.array(random.gamma(2, 3, count * times)),
                "by": pa.array(list(FILTERS) * count),
            }
        ),
        "captions": pa.table({**keys, **words, "text": texts}),
        "latents": pa.table({**keys, "product": _all("vae", count), **made, **shape, **law, **flags}),
        "texts": pa.table({**keys, "product": _all("t5", count), **made, **shape, **words, "length": _all(20, count)}),
        "masks": pa.table({**keys, "product": _all("mask", count), **made, **shape, **words}),
    }


def _all(value: object, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), count)


def _shard(number: int) -> str:
    return f"openvid-{number // 64:06d}"


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _peak() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"


def _record(table: list[str], clips: int) -> None:
    import duckdb

    commit = "uncommitted"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    head = f"\n## Catalog of {clips:,} clips, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}\n\n"
    versions = f"duckdb {duckdb.__version__}, pyarrow {pa.__version__}"
    machine = f"Commit {commit}; {os.cpu_count()} CPUs, {platform.machine()}, load average {os.getloadavg()[1]:.1f} over the run; {versions}; "
    machine += f"`python -m benchmarks.catalog --clips {clips}`.\n\n"
    with RESULTS.open("a") as file:
        file.write(head + machine + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
