"""How long it takes to pair a million members of conditions, and to verify the pairs.

    python -m benchmarks.pairs [--members 1000000] [--conditions 174] [--folder FOLDER] [--record]

A catalog of that many clips, one condition each, in the sizes that a real label has (few large, many small), three
clips to a split group, 98/1/1 over the splits. Pairing runs in a process of its own, whose peak memory is reported.
`--record` appends the table to benchmarks/RESULTS.md.
"""

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.ledger import append_row

BATCH = 100_000
TO_BEAT = "under 60 s and 4 GB for 1,000,000 members"


def main() -> None:
    """Writes the catalog, pairs, verifies, prints the table."""
    arguments = _arguments()
    if arguments.pair:
        _pair(arguments)
        return
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="vapdata-benchmark-"))
    _write(folder / "catalog", arguments.members)
    options = ["--members", str(arguments.members), "--conditions", str(arguments.conditions), "--folder", str(folder)]
    command = [sys.executable, "-m", "benchmarks.pairs", "--pair", *options]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    shutil.rmtree(folder / "catalog")
    rows = [(what, f"{figure} (aim: {TO_BEAT})" if what.startswith("pair ") else figure) for what, _, figure in (line.partition("\t") for line in lines)]
    print("\n".join(f"| {what} | {figure} |" for what, figure in rows))
    if arguments.record:
        append_row(f"Pairing {arguments.members:,} members", f"python -m benchmarks.pairs --members {arguments.members} --conditions {arguments.conditions}", rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--conditions", type=int, default=174)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--pair", action="store_true", help="only pair the catalog in --folder")
    return parser.parse_args()


def _pair(arguments: argparse.Namespace) -> None:
    from catalogs.store import Catalog
    from catalogs.verify import verify
    from pipelines.pairing import Pairing, condition_rows, pair, pair_rows

    catalog = Catalog.open(Path(arguments.folder) / "catalog")
    members = _members(arguments.members, arguments.conditions)
    with catalog.lock("benchmark"):
        catalog.recover()
        began = time.perf_counter()
        with contextlib.closing(_connection(catalog)) as con:
            paired = pair(catalog, con, "mined", members, Pairing())
            chosen = time.perf_counter()
            catalog.replace({"conditions": condition_rows(con, paired), "pairs": pair_rows(con, paired)}, "provider <> 'mined'", run_id="benchmark")
        ended = time.perf_counter()
        used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"pair {paired.members:,} members of {sum(paired.conditions.values())} conditions\t{ended - began:.1f} s, peak {_peak():.2f} GB")
    print(f"processor time of that, start-up and drawing the members included\t{used.ru_utime + used.ru_stime:.1f} s on {os.cpu_count()} cores")
    print(f"of that choosing\t{chosen - began:.1f} s")
    print(f"of that writing {paired.pairs:,} pairs and the members\t{ended - chosen:.1f} s")
    size = sum(path.stat().st_size for path in (Path(arguments.folder) / "catalog" / "pairs").iterdir())
    print(f"size of the table pairs\t{size / 1e6:.0f} MB")
    began = time.perf_counter()
    found = verify(catalog, ["pairs"])
    busy = os.getloadavg()[1]
    print(f"verify every rule of pairs\t{time.perf_counter() - began:.1f} s, {len(found)} findings, peak {_peak():.2f} GB")
    print(f"load average over the run\t{busy:.1f} on {os.cpu_count()} cores")


def _connection(catalog: Any) -> Any:
    from catalogs.queries import connect

    return connect(catalog)


def _write(folder: Path, count: int) -> None:
    from catalogs.store import Catalog

    catalog = Catalog.open(folder, create=True)
    with catalog.lock("benchmark"):
        catalog.recover()
        for start in range(0, count, BATCH):
            catalog.append(_rows(np.arange(start, min(start + BATCH, count))), run_id="benchmark")
        catalog.merge()


def _rows(numbers: np.ndarray) -> dict[str, pa.Table]:
    count = len(numbers)
    ids = _ids(numbers)
    groups = numbers // 3
    splits = pa.array(np.where(groups % 100 == 0, "test", np.where(groups % 100 == 1, "validation", "train")))
    shared = {"shard": pa.array([f"ssv2-{number // 64:06d}" for number in numbers.tolist()]), "split": splits}
    named = {"dataset": _all("ssv2", count), "source": _all("ssv2", count), "name": ids, "uri": ids, "split_group": pa.array([f"g{group}" for group in groups.tolist()])}
    span = {"start_s": _all(0.0, count), "end_s": _all(4.0, count), "frames": _all(48, count), "fps": _all(12.0, count)}
    looks = {"width": _all(427, count), "height": _all(240, count), "codec": _all("vp9", count), "whole": _all(True, count), "truncated": _all(False, count)}
    return {
        "videos": pa.table({"video_id": ids, **named, **shared, "bytes": pa.array(100_000 + numbers)}),
        "clips": pa.table({"clip_id": ids, "video_id": ids, "source": _all("ssv2", count), **shared, **span, **looks}),
    }


def _members(count: int, conditions: int) -> pa.Table:
    """One condition a clip; the k-th largest has about 1/sqrt(k) of the first's members."""
    shares = 1 / np.sqrt(1 + np.arange(conditions))
    drawn = np.random.default_rng(0).choice(conditions, count, p=shares / shares.sum())
    names = pa.array([f"doing_something_number_{number:03d}_with_something" for number in range(conditions)])
    columns = {"clip_id": _ids(np.arange(count)), "condition": names.take(pa.array(drawn)), "category": _all("motion", count), "score": _all(90.0, count)}
    return pa.table(columns)


def _ids(numbers: np.ndarray) -> pa.Array:
    return pa.array([f"ssv2/{number:07d}" for number in numbers.tolist()])


def _all(value: object, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), count)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
